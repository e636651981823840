package floors

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

var codeForm = regexp.MustCompile(`^TW-[0-9]{4}$`)

// TestEveryCodeIsExplained finds each diagnostic code in the source and asks for its help text: what the program prints as a code,
// "tradewind help" must know.
func TestEveryCodeIsExplained(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			if code, err := strconv.Unquote(lit.Value); err == nil && codeForm.MatchString(code) {
				if _, known := federation.Help(federation.Code(code)); !known {
					t.Errorf("%v: code %s has no help text in federation/codes_*.go", files.Position(lit.Pos()), code)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
