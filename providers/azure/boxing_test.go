package azure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestNoClientReachesAnInterface reads the source: what NewClient and its like return may be used for nothing but to take a method of
// it. One slip, and the linker keeps every method of that client.
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
	if clients != 3 { // Resource Graph, network interfaces, AKS
		t.Errorf("%d clients were found, want 3: does this test still see them?", clients)
	}
}

// checkBoxing returns how many clients a function makes.
func checkBoxing(t *testing.T, file string, f *ast.FuncDecl) (calls int) {
	made := map[string]bool{}
	taken := map[*ast.Ident]bool{} // uses of a client that are x in x.Method, or its definition
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if call, ok := n.Rhs[0].(*ast.CallExpr); ok && makesClient(call) && n.Tok == token.DEFINE {
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

// makesClient reports whether call is armSERVICE.NewXClient.
func makesClient(call *ast.CallExpr) bool {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := s.X.(*ast.Ident)
	return ok && strings.HasPrefix(pkg.Name, "arm") && strings.HasPrefix(s.Sel.Name, "New") && strings.HasSuffix(s.Sel.Name, "Client")
}
