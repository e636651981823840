package providertest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// complaints counts what a check says.
type complaints struct {
	testing.TB
	n int
}

func (c *complaints) Errorf(string, ...any) { c.n++ }

func TestNoBoxingSeesEachSlip(t *testing.T) {
	for body, want := range map[string]int{
		`c := ec2.New(); f = c.Describe`:                0,
		`c := ec2.New(); var d describer = c; _ = d`:    1,
		`c := ec2.New(); hand(c)`:                       1,
		`hand(ec2.New())`:                               1,
		`_ = ec2.NewDescribePaginator(f)`:               1,
		`c, err := ec2.New(); f = c.Describe; say(err)`: 0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package p; func f() {"+body+"}", 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &complaints{TB: t}
		b := boxing{t: c, makes: func(pkg, name string) bool { return pkg == "ec2" && name == "New" }}
		b.check("p.go", file.Decls[0].(*ast.FuncDecl))
		if c.n != want {
			t.Errorf("%s: %d complaints, want %d", body, c.n, want)
		}
	}
}
