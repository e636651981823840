package when

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"weak"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

func call(t testing.TB) *Call {
	t.Helper()
	var claims map[string]any
	d := json.NewDecoder(strings.NewReader(`{"iss":"https://idp.example.com","sub":"ann","level":3,"ratio":0.5,"huge":1e999,"id":9007199254740993,
		"ok":true,"none":null,"realm":{"roles":["user","admin"]}}`))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return &Call{
		Request: &match.Request{Method: "GET", Host: "orders.example.com", Path: "/v1/users/ann", Query: "page=2&sort=%61sc&v=1&v=2",
			Header: map[string][]string{"X-Tenant": {"blue"}, "X-Twice": {"a", "b"}, "X-List": {"a, b"}, "X-Long": {strings.Repeat("x", maxValue+1)}},
			Tokens: []match.Token{{Provider: "other", Claims: map[string]any{"sub": "eve"}}, {Provider: "idp", Claims: claims}}},
		Source: spiffeid.RequireFromString("spiffe://aws-us-east-1.mesh.internal/ns/shop/svc/web"), From: "aws-us-east-1", To: "gcp-europe-west1",
		Caller:      federation.ServiceName{Namespace: "shop", Name: "web"},
		Destination: federation.ServiceName{Namespace: "default", Name: "orders"}, Provider: "idp",
	}
}

func TestHolds(t *testing.T) {
	const yes, no = "true", "false" // else a part of the error
	c := call(t)
	for _, test := range []struct{ text, want string }{
		{`request.method == "GET" && request.host == "orders.example.com"`, yes},
		{`request.path == "/v1/users/" + token.claims.sub`, yes},
		{`request.path.matches("^/v[0-9]+/users/[a-z]+$")`, yes}, {`request.path.startsWith("/v2")`, no},
		{`request.query.page == "2" && int(request.query["page"]) < 3`, yes}, {`request.query.sort == "asc"`, yes},
		{`request.query.v == "1"`, `parameter "v" comes 2 times`}, {`"v" in request.query`, yes}, {`request.query.gone == ""`, "no such key: gone"},
		{`request.headers["x-tenant"] == "blue" && request.headers["X-TENANT"] == "blue"`, yes}, {`"X-Tenant" in request.headers`, yes},
		{`"x-gone" in request.headers`, no}, {`request.headers["x-gone"] == ""`, "no such key: x-gone"},
		{`request.headers["x-twice"] == "a"`, `header "x-twice" comes 2 times`}, {`"x-twice" in request.headers`, yes},
		{`request.headers["x-list"] == "a"`, no}, {`request.headers["x-long"] == "a"`, "looks at no more than 4096"},
		{`"host" in request.headers`, "it is request.host"}, {`request.headers["Host"] == "a"`, "it is request.host"},
		{`size(request.headers) == 4 && request.headers.exists(h, h == "x-tenant")`, yes}, {`request.headers.all(h, h.startsWith("x-"))`, yes},
		{`request.headers.exists(h, request.headers[h] == "blue")`, yes}, {`request.headers == {"x-tenant": "blue"}`, "octets"},
		{`request.query == {"page": "2"}`, `comes 2 times`}, {`type(request.headers) == map`, yes},
		{`source.identity == "spiffe://aws-us-east-1.mesh.internal/ns/shop/svc/web"`, yes},
		{`source.namespace + "/" + source.service + "@" + source.region == "shop/web@aws-us-east-1"`, yes},
		{`destination.namespace + "/" + destination.service + "@" + destination.region == "default/orders@gcp-europe-west1"`, yes},
		{`token.issuer == "https://idp.example.com"`, yes}, {`"admin" in token.claims.realm.roles`, yes}, {`"root" in token.claims.realm.roles`, no},
		{`token.claims.realm.roles.exists(r, r.startsWith("adm"))`, yes}, {`token.claims.realm.roles.exists_one(r, r == "user")`, yes},
		{`token.claims.level >= 3 && token.claims.level == 3 && token.claims.level < 3.5`, yes}, {`token.claims.ratio > 0`, yes},
		{`token.claims.id == 9007199254740993`, yes}, {`token.claims.huge > 1`, "out of range"}, {`token.claims.none == null`, yes},
		{`token.claims.ok == true && has(token.claims.realm) && !has(token.claims.gone)`, yes}, {`token.claims.gone == 1`, "no such key: gone"},
		{`token.claims.sub > 1`, "no such overload"}, {`token.claims.sub && true`, "no such overload"},
		{`token.claims.gone == 1 || true`, yes}, {`token.claims.gone == 1 && false`, no}, {`token.claims.gone == 1 || false`, "no such key"},
		{`1/0 == 1`, "division by zero"}, {`[1, 2][5] == 1`, "index"},
	} {
		e, err := Compile(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		held, err := e.Holds(c)
		if got := fmt.Sprint(held); err == nil && got != test.want || err != nil && (held || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, %v; want %s", test.text, held, err, test.want)
		}
	}
}

func TestWithoutWhatIsAskedFor(t *testing.T) {
	c := &Call{Request: &match.Request{Query: "a=1;b=2"}, Provider: "idp"}
	for text, want := range map[string]string{`token.issuer == "" && token.claims == {}`: "true <nil>", `size(request.headers) == 0`: "true <nil>",
		`request.query.a == "1"`: "false the query is not well-formed", `"b" in request.query`: "false the query is not well-formed",
		`has(token.claims.sub)`: "false <nil>", `token.claims.sub == "x"`: "false no such key: sub"} {
		e, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		held, err := e.Holds(c)
		if got := fmt.Sprint(held, " ", err); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, test := range []struct{ text, why, fix string }{
		{`request.foo == 1`, "column 8: undeclared reference to 'request.foo'", "there are request.method, request.host"},
		{`request == 1`, "column 1: undeclared reference to 'request'", "there are request.method, request.host, request.path, request.query, request.headers"},
		{"request.method ==\n  1", "column 16: found no matching overload for '==' applied to '(string, int)'", "compare values of one type"},
		{"true &&\n  request.method", "line 2, column", ""},
		{`request.method`, "it is of type string, not bool", "write a condition"}, {`token.claims.admin`, "it is of type dyn, not bool", "== true"},
		{`request.method ==`, "column 18: Syntax error", "write such as"}, {``, "Syntax error", "write such as"},
		{`timestamp("2026-01-01T00:00:00Z") < now()`, "undeclared reference to 'timestamp'", "an expression knows no time"},
		{`duration("1s") == duration("1s")`, "undeclared reference to 'duration'", "an expression knows no time"},
		{`[1].map(x, x) == [1]`, "undeclared reference to 'map'", "use exists"}, {`[1].filter(x, x > 1) == [1]`, "undeclared reference to", "use exists"},
		{`request.path.matches(request.query.p)`, "column 35: the pattern of matches is not written out", "write such as"},
		{`request.path.matches("(")`, "column 22: invalid matches argument", ""},
		{`request.path.matches("(a{0,30}){0,30}$")`, "regex program size 1893 exceeds limit of 256", ""},
		{`request.headers.exists(a, request.headers.exists(b, a == b))`, "it can cost 446850 units with a large request", "compare before you search"},
		{`[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, [0,1,2,3,4,5,6,7,8,9].all(d, a+b+c+d < 9))))`,
			"it can cost", ""},
		{`request.path.matches("(a?){0,40}b")`, "it can cost 20789 units", ""},
		{strings.Repeat("(", 40) + "true" + strings.Repeat(")", 40), "it nests more than 32 levels", "several http blocks"},
		{strings.Repeat(" ", MaxLength) + "true", "it has 4100 octets", "several intentions"},
		{"\"\x1b[2J\" == 1", "", ""},
	} {
		_, err := Compile(test.text)
		var d *federation.Diagnostic
		if !errors.As(err, &d) || d.Code != CodeExpression || !strings.Contains(d.Why, test.why) || !strings.Contains(d.Fix, test.fix) {
			t.Errorf("%.80s: %v", test.text, err)
		} else if strings.ContainsAny(d.Error(), "\x1b\n") {
			t.Errorf("%q: %q is not one printable line", test.text, d.Error())
		}
	}
}

// What cannot be foreseen is stopped: a request may be larger than large.
func TestCostIsBounded(t *testing.T) {
	e, err := Compile(`request.headers.exists(h, request.headers[h].contains("needle"))`)
	if err != nil {
		t.Fatal(err)
	}
	c := &Call{Request: &match.Request{Header: map[string][]string{}}}
	for i := range 128 {
		c.Request.Header[fmt.Sprintf("X-%03d", i)] = []string{strings.Repeat("hay ", maxValue/4)}
	}
	held, err := e.Holds(c)
	if held || err == nil || err.Error() != "it costs more than 10000 units" {
		t.Errorf("%v, %v", held, err)
	}
}

func TestTokens(t *testing.T) {
	for text, want := range map[string]bool{`token.issuer == ""`: true, `has(token.claims.x)`: true, `request.method == "token.claims"`: false,
		`request.headers.exists(token, token == "x")`: false} {
		if e, err := Compile(text); err != nil || e.Tokens() != want || e.String() != text {
			t.Errorf("%s: %v, %v", text, e, err)
		}
	}
}

func TestWhatIsInUseIsCompiledOnce(t *testing.T) {
	text := func() string { return `request.method == "` + t.Name() + `"` }
	first, err := Compile(text())
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := Compile(text()); again != first {
		t.Error("it was compiled twice")
	}
	gone := weak.Make(first)
	runtime.KeepAlive(first) // and no longer
	for range 1000 {
		if runtime.GC(); gone.Value() == nil {
			if _, found := compiled.Load(text()); !found {
				return
			}
		}
	}
	t.Error("what nobody uses any more is kept")
}

func BenchmarkHolds(b *testing.B) {
	c := call(b)
	for _, bench := range []struct{ name, text string }{
		{"header", `request.headers["x-tenant"] == "blue"`},
		{"claim", `"admin" in token.claims.realm.roles`},
		{"typical", `request.method in ["GET", "HEAD"] && request.headers["x-tenant"] == "blue" && "admin" in token.claims.realm.roles`},
		{"exists", `token.claims.realm.roles.exists(r, r.startsWith("adm"))`},
		{"matches", `request.path.matches("^/v[0-9]+/users/[a-z]+$")`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			e, err := Compile(bench.text)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if held, err := e.Holds(c); !held || err != nil {
					b.Fatal(held, err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := compile(`request.headers["x-tenant"] == "blue" && request.method in ["GET", "HEAD"]`); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWorst is about the slowest that can be admitted, with a request made for it.
func BenchmarkWorst(b *testing.B) {
	e, err := Compile(`request.path.matches("(a?){0,16}b")`)
	if err != nil {
		b.Fatal(err)
	}
	c := &Call{Request: &match.Request{Path: strings.Repeat("a", maxValue)}}
	for b.Loop() {
		_, _ = e.Holds(c)
	}
}

// FuzzHolds: whatever is written and whatever comes, nothing panics, what is said fits a line, and the bound holds.
func FuzzHolds(f *testing.F) {
	for _, text := range []string{`request.headers["x-tenant"] == "blue"`, `"admin" in token.claims.roles`, `request.query.exists(q, q.matches("a*"))`,
		`request.path.contains(request.query.v) ? has(token.claims.a.b) : 1 / size(request.headers) > 0`, `"a" + request.path == b"\xff"`, "((((", `"\x`} {
		f.Add(text, "/a", "v=1&w=%zz", "blue", `{"roles":["admin"],"n":1e999}`)
	}
	f.Fuzz(func(t *testing.T, text, path, query, header, claims string) {
		e, err := Compile(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 2000 {
				t.Errorf("%q", err)
			}
			return
		}
		c := &Call{Request: &match.Request{Method: "GET", Path: path, Query: query, Header: map[string][]string{"X-Tenant": {header}, "Y": {header, path}}},
			Provider: "idp"}
		var all map[string]any
		d := json.NewDecoder(strings.NewReader(claims))
		d.UseNumber()
		if d.Decode(&all) == nil {
			c.Request.Tokens = []match.Token{{Provider: "idp", Claims: all}}
		}
		_, details, _ := e.program.Eval(c)
		// One step may go beyond the bound before it is charged: it looks at no more than a value, and makes no more than twice that.
		if spent := *details.ActualCost(); spent > 10*MaxCost {
			t.Errorf("%d units were spent", spent)
		}
		held, err := e.Holds(c)
		again, same := e.Holds(c)
		if held != again || fmt.Sprint(err) != fmt.Sprint(same) {
			t.Errorf("%v %v, then %v %v", held, err, again, same)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q", err)
		}
	})
}
