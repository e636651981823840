package match

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestClaims(t *testing.T) {
	var all map[string]any
	d := json.NewDecoder(strings.NewReader(`{"sub":"ann","realm":{"roles":["user","admin"],"level":3},"ok":true,"scope":"read write",
		"text":"read write","gone":null,"a.b":"c","mixed":[1,{"x":"y"},"z"]}`))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		t.Fatal(err)
	}
	r := &Request{Tokens: []Token{{Provider: "idp", Claims: all}}}
	for _, test := range []struct {
		provider, path, any string
		want                bool
	}{
		{"idp", "", "", true}, {"other", "", "", false},
		{"idp", "sub", "ann", true}, {"idp", "sub", "Ann", false}, {"idp", "Sub", "ann", false}, {"idp", "sub", "bob|ann", true},
		{"other", "sub", "ann", false},
		{"idp", "realm/roles", "admin", true}, {"idp", "realm/roles", "root", false}, {"idp", "realm/roles/x", "admin", false},
		{"idp", "realm", "", true}, {"idp", "realm", "roles", false}, {"idp", "realm/level", "3", true}, {"idp", "realm/level", "3.0", false},
		{"idp", "ok", "true", true}, {"idp", "ok", "false", false}, {"idp", "scope", "write", true}, {"idp", "scope", "read write", false},
		{"idp", "text", "write", false}, {"idp", "text", "read write", true}, {"idp", "gone", "", false}, {"idp", "missing", "", false},
		{"idp", "a.b", "c", true}, {"idp", "mixed", "z", true}, {"idp", "mixed", "y", false}, {"idp", "sub/x/y", "", false},
	} {
		c := federation.ClaimMatch{Provider: test.provider}
		if test.path != "" {
			c.Path = strings.Split(test.path, "/")
		}
		if test.any != "" {
			c.Any = strings.Split(test.any, "|")
		}
		for _, lean := range []Lean{Narrow, Wide} {
			m, err := CompilePermission(federation.Permission{Claims: []federation.ClaimMatch{c}}, lean)
			if err != nil {
				t.Fatal(err)
			}
			if m.Matches(r) != test.want {
				t.Errorf("%+v: %v", test, !test.want)
			}
			if m.Matches(&Request{}) {
				t.Errorf("%+v passes without a token", test)
			}
			if n := testing.AllocsPerRun(10, func() { m.Matches(r) }); n != 0 {
				t.Errorf("%+v: %v allocations", test, n)
			}
		}
	}
	for _, bad := range []federation.ClaimMatch{{}, {Provider: "idp", Any: []string{"x"}}, {Provider: "idp", Path: []string{""}},
		{Provider: "idp", Path: make([]string, 9)}} {
		if _, err := CompilePermission(federation.Permission{Claims: []federation.ClaimMatch{bad}}, Narrow); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
