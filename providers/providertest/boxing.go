package providertest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// NoBoxing reads the source of the package under test: what a constructor of an SDK's clients returns may be used for nothing but to
// take a method of it, and no paginator or waiter, which hold a client in an interface, may be made. One slip, and the linker keeps
// every method of that client: 30 MB for EC2. makes says which functions, by package and name, are such constructors; want is how
// many calls of them there are, so that the test cannot go blind.
func NoBoxing(t *testing.T, want int, makes func(pkg, name string) bool) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	b := boxing{t: t, makes: makes}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				b.check(name, f)
			}
		}
	}
	if b.clients != want {
		t.Errorf("%d clients were found, want %d: does this test still see them?", b.clients, want)
	}
}

type boxing struct {
	t       testing.TB
	makes   func(pkg, name string) bool
	clients int
}

// check looks at one function.
func (b *boxing) check(file string, f *ast.FuncDecl) {
	made := map[string]bool{}
	taken := map[*ast.Ident]bool{} // uses of a client that are x in x.Method, or its definition
	calls := 0
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if call, ok := n.Rhs[0].(*ast.CallExpr); ok && b.client(call) && n.Tok == token.DEFINE {
				name := n.Lhs[0].(*ast.Ident)
				made[name.Name], taken[name] = true, true
			}
		case *ast.CallExpr:
			if b.client(n) {
				calls++
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				taken[x] = true
			}
			if name := n.Sel.Name; strings.HasPrefix(name, "New") && (strings.HasSuffix(name, "Paginator") || strings.HasSuffix(name, "Waiter")) {
				b.t.Errorf("%s: %s: %s holds a client in an interface", file, f.Name.Name, name)
			}
		}
		return true
	})
	if calls != len(made) {
		b.t.Errorf("%s: %s: a client is made and not defined as a variable of the function", file, f.Name.Name)
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && made[id.Name] && !taken[id] {
			b.t.Errorf("%s: %s: the client %s is used as a value", file, f.Name.Name, id.Name)
		}
		return true
	})
	b.clients += calls
}

// client reports whether call makes a client.
func (b *boxing) client(call *ast.CallExpr) bool {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := s.X.(*ast.Ident)
	return ok && b.makes(pkg.Name, s.Sel.Name)
}
