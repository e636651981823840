package mesh_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// TestExpressionsAreJudgedAtEitherEnd holds what is said of requests under expressions against what becomes of them.
func TestExpressionsAreJudgedAtEitherEnd(t *testing.T) {
	noLeaks(t)
	issuer := newIDP(t)
	defer issuer.Close()
	for _, at := range []string{"here", "there"} {
		aws, gcp, url := httpPair(t, server(t, echoToken), federation.ProtocolHTTP)
		asks, source, destination := aws, "web", "shop@*"
		if at == "there" {
			asks, source, destination = gcp, "web@aws", "shop"
		}
		asks.trusts(issuer)
		when := func(text, token string) []federation.Permission {
			return []federation.Permission{{When: text, Token: token}}
		}
		asks.view.Intentions = []federation.Intention{
			{Name: "blue", Action: federation.Deny, Source: source, Destination: destination,
				HTTP: when(`"x-tenant" in request.headers && request.headers["x-tenant"] == "blue"`, "")},
			{Name: "own", Action: federation.Allow, Source: source, Destination: destination,
				HTTP: when(`request.path.startsWith("/own/") && source.service == "web" && source.region == "aws"`, "")},
			{Name: "admins", Action: federation.Allow, Source: source, Destination: destination,
				HTTP: when(`token.issuer != "" && token.claims.realm.roles.exists(r, r == "admin")`, "idp")},
		}
		asks.publish()
		c := caller(t, false)
		for _, test := range []struct {
			path, token, tenant string
			status              int
			why                 string // what the end that judges says
		}{
			{"/own/x", "", "", http.StatusOK, `as when "request.path.startsWith(\"/own/\")`},
			{"/own/x", "", "blue", http.StatusForbidden, `== \"blue\"" is true`},
			{"/own/x", "", "red", http.StatusOK, ""},
			{"/own/x", "", "red,blue", http.StatusForbidden, `cannot be evaluated and so denies: header "x-tenant" comes 2 times`},
			{"/other", "", "", http.StatusForbidden, ""},
			{"/other", issuer.token("admin", time.Hour), "", http.StatusOK, `r == \"admin\")" is true`},
			{"/other", issuer.token("user", time.Hour), "", http.StatusForbidden, ""},
		} {
			in := &mesh.Request{Method: "GET", Target: test.path, Host: "shop", Header: map[string][]string{}}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+test.path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if test.token != "" {
				request.Header.Set("Authorization", "Bearer "+test.token)
			}
			if test.tenant != "" {
				request.Header["X-Tenant"] = strings.Split(test.tenant, ",")
				in.Header["X-Tenant"] = request.Header["X-Tenant"]
			}
			res, err := c.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			e, err := aws.Explain(t.Context(), mesh.ExplainRequest{Source: federation.ServiceRef{Service: web},
				Destination: federation.ServiceRef{Service: shop}, Token: test.token, Request: in})
			if err != nil {
				t.Fatal(err)
			}
			if allowed := e.Verdict == mesh.VerdictAllowed; res.StatusCode != test.status || allowed != (test.status == http.StatusOK) {
				t.Errorf("%s: %s of %q with %.9q got %d, and is explained as %s: %s", at, test.path, test.tenant, test.token, res.StatusCode,
					e.Verdict, e.Reason)
			}
			if at == "here" && !strings.Contains(e.Reason, test.why) {
				t.Errorf("%s of %q: %s, want %s", test.path, test.tenant, e.Reason, test.why)
			}
			if at == "there" && strings.Contains(e.Reason, "when ") {
				t.Errorf("a peer's expression is shown: %s", e.Reason)
			}
		}
	}
}
