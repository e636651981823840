package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func TestExplainWithATokenAndALimit(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	g := start(t, "aws", shortDir(t), "")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	token := func(life time.Duration, role string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(fmt.Appendf(nil, `{"iss":"https://idp.example.com","aud":"shop","exp":%d,"roles":[%q]}`,
			time.Now().Add(life).Unix(), role))
		if err != nil {
			t.Fatal(err)
		}
		text, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	g.apply(fmt.Sprintf(`
service "shop" {
  protocol = "http"
  instance "one" { address = %q }
}
jwt "idp" {
  issuer    = "https://idp.example.com"
  audiences = ["shop"]
  jwks      = %q
}
intention "admins" {
  source      = "web"
  destination = "shop"
  action      = "allow"
  http {
    claim "idp" {
      path = ["roles"]
      any  = ["admin"]
    }
  }
}
resolver "shop" {
  rate_limit {
    per  = "caller"
    rate = "100/s"
  }
}`, serve(t, "from aws"), set))
	ask := func(token string) *admin.Explanation {
		t.Helper()
		e, err := g.Explain(t.Context(), &admin.ExplainRequest{Source: "web", Destination: "shop", Token: token,
			Request: &admin.HTTPRequest{Method: "GET", Target: "/"}})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(e); err != nil || token != "" && strings.Contains(string(b), token) {
			t.Errorf("the token is in the answer, or %v", err)
		}
		return e
	}
	e := ask(token(time.Hour, "admin"))
	if e.Verdict != admin.VerdictAllowed || len(e.Tokens) != 1 || !e.Tokens[0].Verified || e.Tokens[0].Issuer != "https://idp.example.com" {
		t.Errorf("%s: %s, %+v", e.Verdict, e.Reason, e.Tokens)
	}
	if m := e.Decision.Matched; len(m) != 1 || len(m[0].Claims) != 1 || !m[0].Claims[0].Passed || m[0].Claims[0].Has != `["admin"]` {
		t.Errorf("%+v", m)
	}
	if c := e.Candidates[0]; len(c.Endpoints) != 1 || c.Endpoints[0].Instance != "one" || !c.Endpoints[0].Kept || c.Endpoints[0].Reason != "healthy" {
		t.Errorf("endpoints %+v", c.Endpoints)
	}
	limits := map[string]admin.Limit{}
	for _, l := range e.Limits {
		limits[l.Kind] = l
	}
	if limits["rate"].Limit != 100 || limits["rate"].Refuses || limits["retry_budget"].Limit == 0 || limits["room"].Text == "" {
		t.Errorf("%+v", e.Limits)
	}
	e = ask(token(-time.Hour, "admin"))
	if e.Verdict != admin.VerdictDenied || e.Tokens[0].Refusal != "expired" || !strings.Contains(e.Fix, "get jwt idp") {
		t.Errorf("%s: %s, %q", e.Verdict, e.Reason, e.Fix)
	}
	if e := ask(""); e.Verdict != admin.VerdictDenied || !strings.Contains(e.Fix, "--token FILE") {
		t.Errorf("%s: %s, %q", e.Verdict, e.Reason, e.Fix)
	}
	if e := ask(token(time.Hour, "user")); e.Verdict != admin.VerdictDenied || e.Decision.Matched[0].Claims[0].Passed {
		t.Errorf("%s: %s", e.Verdict, e.Reason)
	}
	for _, bad := range []*admin.ExplainRequest{{Token: "a b"}, {Token: "a.b.c"}} { // the other one has no request
		bad.Source, bad.Destination = "web", "shop"
		if _, err := g.Explain(t.Context(), bad); federation.CodeOf(err) != "TW-8906" || strings.Contains(err.Error(), bad.Token) {
			t.Errorf("%q: %v", bad.Token, err)
		}
	}
	if e, err := g.Explain(t.Context(), &admin.ExplainRequest{Source: "web", Destination: "shpo"}); err != nil ||
		!strings.Contains(e.Fix, "did you mean shop?") {
		t.Errorf("%+v, %v", e, err)
	}
	explainAtTheDoor(g, map[string]bool{"": false, token(-time.Hour, "admin"): false, token(time.Hour, "user"): true})
}

// explainAtTheDoor: an ingress asks for a token before anybody judges, and the answer is that of the listener.
func explainAtTheDoor(g *gateway, tokens map[string]bool) {
	g.t.Helper()
	address := freeAddress(g.t)
	g.apply(fmt.Sprintf(`
service "plain" {
  protocol = "http"
  instance "one" { address = %q }
}
intention "plain" {
  source      = "front"
  destination = "plain"
  action      = "allow"
}
ingress "public" {
  listen   = %q
  identity = "front"
  host "shop.example.com" {
    service       = "plain"
    require_token = ["idp"]
  }
  host "open.example.com" { service = "plain" }
}`, serve(g.t, "plain"), address))
	for token, good := range tokens {
		for host, asks := range map[string]bool{"shop.example.com": true, "open.example.com": false, "": false} {
			e, err := g.Explain(g.t.Context(), &admin.ExplainRequest{Source: "front", Destination: "plain", Token: token,
				Request: &admin.HTTPRequest{Method: "GET", Target: "/", Host: host}})
			if err != nil {
				g.t.Fatal(err)
			}
			allowed := good || !asks
			if (e.Verdict == admin.VerdictAllowed) != allowed ||
				!allowed && (e.Verdict != admin.VerdictDenied || e.Request.Status != http.StatusUnauthorized || e.Fix == "") {
				g.t.Errorf("%s, token good %t: %s, %s, %q", host, good, e.Verdict, e.Reason, e.Fix)
			}
			if told := strings.Contains(strings.Join(e.Notes, ";"), `"public"`); told != (host != "open.example.com") {
				g.t.Errorf("%s: notes %q", host, e.Notes)
			}
			if host == "" {
				continue
			}
			r, _ := http.NewRequest(http.MethodGet, "http://"+address+"/", nil)
			if r.Host = host; token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			res, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				g.t.Fatal(err)
			}
			_ = res.Body.Close()
			if (res.StatusCode == http.StatusOK) != allowed {
				g.t.Errorf("%s, token good %t: explained as %s, answered with %d", host, good, e.Verdict, res.StatusCode)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
