package policy

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/when"
)

// answer is what an expression can say.
type answer int

const (
	no answer = iota
	yes
	neither
)

func said(b bool) answer {
	if b {
		return yes
	}
	return no
}

// either is || as Kleene has it.
func either(a, b answer) answer {
	switch {
	case a == yes || b == yes:
		return yes
	case a == neither || b == neither:
		return neither
	}
	return no
}

// context is a request with all that an expression sees beside it.
type context struct {
	*match.Request
	caller string
	token  *match.Token // of the provider that the block names
}

func (a context) claim(name string) any {
	if a.token == nil {
		return nil
	}
	return a.token.Claims[name]
}

func one(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// whens are expressions, each with the same in Go.
var whens = []struct {
	text string
	same func(context) answer
}{
	{`request.method == "GET"`, func(a context) answer { return said(a.Method == "GET") }},
	{`request.path.startsWith("/a") && !request.path.endsWith("/")`, func(a context) answer {
		return said(strings.HasPrefix(a.Path, "/a") && !strings.HasSuffix(a.Path, "/"))
	}},
	{`request.path.matches("^/a(/[a-z])*$")`, func(a context) answer { return said(slices.Contains([]string{"/a", "/a/b", "/a/b/c"}, a.Path)) }},
	{`request.headers["x-role"] == "admin"`, func(a context) answer {
		role, found := one(a.Header["X-Role"])
		if !found {
			return neither
		}
		return said(role == "admin")
	}},
	{`"x-role" in request.headers || request.method == "PUT"`, func(a context) answer {
		return said(len(a.Header["X-Role"]) > 0 || a.Method == "PUT")
	}},
	{`request.headers["X-Role"] != "user" || source.service == "batch"`, func(a context) answer {
		left := neither
		if role, found := one(a.Header["X-Role"]); found {
			left = said(role != "user")
		}
		return either(left, said(a.caller == "batch"))
	}},
	{`request.query.v == "admin"`, func(a context) answer {
		all, err := url.ParseQuery(a.Query)
		v, found := one(all["v"])
		if err != nil || !found {
			return neither
		}
		return said(v == "admin")
	}},
	{`"admin" in token.claims.roles`, func(a context) answer {
		roles, isList := a.claim("roles").([]any)
		if !isList {
			return neither
		}
		return said(slices.Contains(roles, any("admin")))
	}},
	{`!has(token.claims.roles)`, func(a context) answer { return said(a.claim("roles") == nil) }},
	{`token.claims.realm.level >= 2`, func(a context) answer {
		realm, _ := a.claim("realm").(map[string]any)
		level, found := realm["level"].(json.Number)
		if !found {
			return neither
		}
		n, _ := level.Int64()
		return said(n >= 2)
	}},
	{`token.issuer == "" || request.method == "GET"`, func(a context) answer { return said(true) }}, // no token of these tests names one
}

// holds says what becomes of the expression of p, as its documentation words it.
func holds(p federation.Permission, r *match.Request, caller string, deny bool) bool {
	if p.When == "" {
		return true
	}
	a := context{Request: r, caller: caller}
	for i := range r.Tokens {
		if r.Tokens[i].Provider == p.Token {
			a.token = &r.Tokens[i]
		}
	}
	for _, w := range whens {
		if w.text == p.When {
			said := w.same(a)
			return said == yes || said == neither && deny
		}
	}
	panic("unknown expression " + p.When)
}

func TestCheckNamesTheBlock(t *testing.T) {
	i := allow("a", "web", "shop")
	i.HTTP = []federation.Permission{{When: `request.method == "GET"`}, {When: "request.metod == 'GET'"}, {When: `token.issuer == "x"`},
		{When: `request.method == "GET"`, Token: "idp"}, {When: `token.issuer == "x"`, Token: "idp"}}
	err := Check(&i)
	var d *federation.Diagnostic
	if !errors.As(err, &d) || d.Code != when.CodeExpression || d.What != "when of http block 2" || !strings.HasPrefix(d.Why, "column 8: ") || d.Fix == "" {
		t.Errorf("%+v", d)
	}
	for _, want := range []string{"block 3: it asks for a token, and the block does not say whose", "block 4: it asks for nothing of the token"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "block 1") || strings.Contains(err.Error(), "block 5") {
		t.Errorf("what is right is refused: %v", err)
	}
	// What was admitted by another version and cannot be read by this one may have been a deny.
	p := CompileIntentions(aws, domains(), []federation.Intention{i, allow("b", "*", "*")})
	if got := p.Decide(workload(aws, "web"), federation.AssuranceMTLS, aws, name("cart")); got.Allowed || got.Code != CodeBroken {
		t.Errorf("%+v", got)
	}
}

func TestExplainSaysWhatExpressionsSaid(t *testing.T) {
	some := func(i federation.Intention, blocks ...federation.Permission) federation.Intention {
		i.HTTP = blocks
		return i
	}
	const text = `"admin" in token.claims.roles`
	p := CompileIntentions(aws, domains(), []federation.Intention{
		some(allow("staff", "web", "shop"), federation.Permission{When: text, Token: "idp"}),
		some(deny("blue", "web", "*"), federation.Permission{When: `request.headers["x-tenant"] == "blue"`}),
		some(allow("rest", "*", "*"), federation.Permission{When: `request.method == "PUT"`}, federation.Permission{HTTPMatch: federation.HTTPMatch{Path: "/"}}),
	})
	token := func(roles any) []match.Token {
		return []match.Token{{Provider: "idp", Claims: map[string]any{"roles": roles}}}
	}
	tenant := func(values ...string) map[string][]string { return map[string][]string{"X-Tenant": values} }
	const quoted = `when "\"admin\" in token.claims.roles" `
	for _, test := range []struct {
		request *match.Request
		rule    string
		reasons [3]string // how they end
	}{
		{&match.Request{Tokens: token([]any{"admin"})}, "staff", [3]string{`shop@aws-us-east-1, as ` + quoted + `is true`, `is more specific`, `"request.method == \"PUT\"" is false`}},
		{&match.Request{Header: tenant("blue"), Tokens: token([]any{"user"})}, "blue", [3]string{
			`source, destination and request match, but ` + quoted + `is false`,
			`denies web@aws-us-east-1 to call *@aws-us-east-1, as when "request.headers[\"x-tenant\"] == \"blue\"" is true`,
			`source, destination and request match, but when "request.method == \"PUT\"" is false`}},
		{&match.Request{Header: tenant("red", "green")}, "blue", [3]string{
			`but ` + quoted + `cannot be evaluated and so allows nothing: no such key: roles (there is no token of "idp")`,
			`as when "request.headers[\"x-tenant\"] == \"blue\"" cannot be evaluated and so denies: header "x-tenant" comes 2 times`, ``}},
		{&match.Request{Method: "GET", Path: "/", Header: tenant("red"), Tokens: token("admin")}, "rest", [3]string{`allows nothing: no such overload`,
			`but when "request.headers[\"x-tenant\"] == \"blue\"" is false`, `intention "rest" allows *@aws-us-east-1 to call *@aws-us-east-1`}},
	} {
		d := p.ExplainRequest(workload(aws, "web"), federation.AssuranceBinding, aws, name("shop"), test.request)
		if got := p.DecideRequest(workload(aws, "web"), federation.AssuranceBinding, aws, name("shop"), test.request); got.Rule != d.Rule || d.Rule != test.rule {
			t.Errorf("%+v: decided by %s, explained %s, want %s", test.request, got.Rule, d.Rule, test.rule)
		}
		for i, m := range d.Matched {
			if !strings.HasSuffix(m.Reason, test.reasons[i]) {
				t.Errorf("%+v: %s: %s\nwant %s", test.request, m.Rule, m.Reason, test.reasons[i])
			}
			if m.Decided && d.Reason != m.Reason {
				t.Errorf("%s, but %s", d.Reason, m.Reason)
			}
		}
	}
}

func TestExpressionsAskForTokens(t *testing.T) {
	i := allow("a", "web", "shop")
	i.HTTP = []federation.Permission{{When: `token.issuer != ""`, Token: "idp"}}
	asks := CompileIntentions(aws, domains(), []federation.Intention{i}).Asks(name("shop"))
	if !slices.Equal(asks, []match.Ask{{Provider: "idp", Enforced: true}}) {
		t.Errorf("%+v", asks)
	}
}

func BenchmarkDecideWhen(b *testing.B) {
	i := allow("when", "web", "checkout")
	i.HTTP = []federation.Permission{{HTTPMatch: federation.HTTPMatch{PathPrefix: "/public"}, When: `request.headers["x-tenant"] == "blue"`}}
	p := CompileIntentions(aws, domains(), append(thousand(), i))
	r := &match.Request{Method: "GET", Path: "/public/x", Header: map[string][]string{"X-Tenant": {"blue"}}}
	id, callee := workload(aws, "web"), name("checkout")
	b.ReportAllocs()
	for b.Loop() {
		if !p.DecideRequest(id, federation.AssuranceMTLS, aws, callee, r).Allowed {
			b.Fatal("denied")
		}
	}
}
