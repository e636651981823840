package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

const tokens = `
intention "admins" {
  source      = "web"
  destination = "orders"
  action      = "allow"
  http {
    methods     = ["POST"]
    path_prefix = "/admin"
    claim "idp" {
      path = ["realm", "roles"]
      any  = ["admin", "owner"]
    }
    claim "idp" {}
  }
  http {
    token = "idp"
    when  = "request.headers[\"x-tenant\"] == token.claims.tenant && request.path.matches('^/t/$${x}%%{y}$')"
  }
  http {
    when = <<-EOT
      request.method == "GET" ||
        source.region == "aws-us-east-1"
    EOT
  }
}
jwt "idp" {
  issuer     = "https://idp.example.com"
  audiences  = ["orders"]
  jwks_url   = "https://idp.example.com/keys"
  algorithms = ["RS256", "ES256"]
  header     = "x-id-token"
  forward    = true
  leeway     = "1m0s"
}
jwt "inline" {
  issuer    = "https://other.example.com"
  audiences = ["orders"]
  jwks      = "{\"keys\":[{\"kty\":\"RSA\"}]}"
  cookie    = "session"
}
`

func TestTokensRoundTripThroughHCL(t *testing.T) {
	dir := t.TempDir()
	first, err := ParseResources(write(t, dir, "tokens.hcl", tokens))
	if err != nil {
		t.Fatal(err)
	}
	second, err := ParseResources(write(t, dir, "again.hcl", string(FormatHCL(first))))
	if err != nil {
		t.Fatalf("%v\n%s", err, FormatHCL(first))
	}
	for i := range first {
		if !reflect.DeepEqual(first[i].Spec, second[i].Spec) {
			t.Errorf("%s\ncame back as\n%s", FormatHCL(first), FormatHCL(second))
		}
	}
	i, ok := first[0].Spec.(*federation.Intention)
	if !ok || len(i.HTTP) != 3 || i.HTTP[0].PathPrefix != "/admin" || len(i.HTTP[0].Claims) != 2 || i.HTTP[0].Claims[0].Any[1] != "owner" {
		t.Errorf("read %+v", first[0].Spec)
	}
	const want = `request.headers["x-tenant"] == token.claims.tenant && request.path.matches('^/t/${x}%{y}$')`
	if i.HTTP[1].When != want || i.HTTP[1].Token != "idp" || i.HTTP[2].When != "request.method == \"GET\" ||\n  source.region == \"aws-us-east-1\"\n" {
		t.Errorf("read %q and %q", i.HTTP[1].When, i.HTTP[2].When)
	}
	b, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	third, err := ParseResources(write(t, dir, "tokens.json", string(b)))
	if err != nil || !reflect.DeepEqual(third[0].Spec, first[0].Spec) {
		t.Errorf("as JSON it is %+v, %v", third, err)
	}
}

func TestMistakesInTokens(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`jwks_url = "https://idp.example.com/keys"`, ""},
		{`jwks_url = "http://127.0.0.1:8080/keys"`, ""},
		{``, "needs its keys"},
		{"jwks_url = \"https://idp.example.com/keys\"\njwks = \"{}\"", "either jwks_url or jwks"},
		{`jwks_url = "http://idp.example.com/keys"`, "is not https"},
		{`jwks_url = "file:///etc/passwd"`, "write such as"},
		{`jwks_url = "https://user@idp.example.com/"`, "write such as"},
		{`jwks = "{}"`, "no JSON Web Key Set"},
		{`jwks = "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}"`, "holds a secret"},
		{"jwks_url = \"https://a.example.com/\"\nalgorithms = [\"HS256\"]", "cannot be used"},
		{"jwks_url = \"https://a.example.com/\"\nalgorithms = [\"none\"]", "cannot be used"},
		{"jwks_url = \"https://a.example.com/\"\nheader = \"x\"\ncookie = \"y\"", "exclude each other"},
		{"jwks_url = \"https://a.example.com/\"\nheader = \"host\"", "cannot hold a token"},
		{"jwks_url = \"https://a.example.com/\"\nleeway = \"1h\"", "between 0 and 10m0s"},
	} {
		_, err := ParseResources(write(t, t.TempDir(), "j.hcl", "jwt \"idp\" {\nissuer = \"i\"\naudiences = [\"a\"]\n"+c.body+"\n}"))
		if c.want == "" && err != nil || c.want != "" && (federation.CodeOf(err) != "TW-1004" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s\ngave %v, want %q", c.body, err, c.want)
		}
	}
}

func TestKeyHosts(t *testing.T) {
	load := func(hosts string) (*Gateway, error) {
		return Load(write(t, t.TempDir(), "gateway.hcl", "region = \"aws\"\nname = \"a\"\njwks { hosts = "+hosts+" }"))
	}
	g, err := load(`["idp.example.com", "10.0.0.1:8443", "[::1]:443", "::1"]`)
	if err != nil || len(g.KeyHosts) != 4 {
		t.Errorf("%+v, %v", g, err)
	}
	for _, bad := range []string{`[""]`, `["https://idp.example.com"]`, `["idp.example.com/x"]`, `["*.example.com "]`} {
		if _, err := load(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
