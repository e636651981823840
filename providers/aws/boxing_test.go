package aws

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestNoClientReachesAnInterface reads the source: what NewFromConfig returns may be used for nothing but to take a method of it,
// and no paginator or waiter, which hold a client in an interface, may be made. One slip, and the linker keeps every method of
// that client: 30 MB for EC2.
func TestNoClientReachesAnInterface(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	clients := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				clients += checkBoxing(t, e.Name(), f)
			}
		}
	}
	if clients != 7 { // six services in newClients, STS in assume
		t.Errorf("%d clients were found, want 7: does this test still see them?", clients)
	}
}

// checkBoxing returns how many clients a function makes.
func checkBoxing(t *testing.T, file string, f *ast.FuncDecl) int {
	made := map[string]bool{}
	taken := map[*ast.Ident]bool{} // uses of a client that are x in x.Method, or its definition
	calls := 0
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if call, ok := n.Rhs[0].(*ast.CallExpr); ok && makesClient(call) && len(n.Lhs) == 1 && n.Tok == token.DEFINE {
				name := n.Lhs[0].(*ast.Ident)
				made[name.Name], taken[name] = true, true
			}
		case *ast.CallExpr:
			if makesClient(n) {
				calls++
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				taken[x] = true
			}
			if name := n.Sel.Name; strings.HasPrefix(name, "New") && (strings.HasSuffix(name, "Paginator") || strings.HasSuffix(name, "Waiter")) {
				t.Errorf("%s: %s: %s holds a client in an interface", file, f.Name.Name, name)
			}
		}
		return true
	})
	if calls != len(made) {
		t.Errorf("%s: %s: a client is made and not defined as a variable of the function", file, f.Name.Name)
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && made[id.Name] && !taken[id] {
			t.Errorf("%s: %s: the client %s is used as a value", file, f.Name.Name, id.Name)
		}
		return true
	})
	return calls
}

// makesClient reports whether call is SERVICE.NewFromConfig.
func makesClient(call *ast.CallExpr) bool {
	s, ok := call.Fun.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "NewFromConfig"
}
