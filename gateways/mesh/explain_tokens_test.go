package mesh_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// TestExplainJudgesTokensAsTheDataPathDoes holds what is said of requests with tokens against what becomes of them, wherever the
// intention stands that asks for one.
func TestExplainJudgesTokensAsTheDataPathDoes(t *testing.T) {
	noLeaks(t)
	issuer := newIDP(t)
	defer issuer.Close()
	for _, at := range []string{"here", "there"} {
		aws, gcp, url := httpPair(t, server(t, echoToken), federation.ProtocolHTTP)
		asks, caller1 := aws, "web"
		destination := "shop@*"
		if at == "there" {
			asks, caller1, destination = gcp, "web@aws", "shop"
		}
		asks.trusts(issuer)
		asks.view.Intentions = []federation.Intention{
			{Name: "admins", Action: federation.Allow, Source: caller1, Destination: destination, HTTP: claims("admin")},
			{Name: "public", Action: federation.Allow, Source: caller1, Destination: destination,
				HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/public"}}}}}
		asks.publish()
		c := caller(t, false)
		for _, test := range []struct {
			path, token string
			why         string // what a gateway says that verifies it
		}{
			{"/admin", issuer.token("admin", time.Hour), ""}, {"/admin", issuer.token("user", time.Hour), ""}, {"/admin", "", ""},
			{"/public", issuer.token("user", time.Hour), ""}, {"/public", "", ""},
			{"/admin", issuer.token("admin", -time.Hour), "it has expired"}, {"/public", issuer.token("admin", -time.Hour), "it has expired"},
			{"/public", "x", "no signed token"}, {"/admin", issuer.token("admin", time.Hour) + "x", "signature"},
		} {
			var header []string
			if test.token != "" {
				header = []string{"Authorization", "Bearer " + test.token}
			}
			status, _ := fetch(t, c, "GET", url+test.path, header...)
			e, err := aws.Explain(t.Context(), mesh.ExplainRequest{Source: federation.ServiceRef{Service: web},
				Destination: federation.ServiceRef{Service: shop}, Token: test.token,
				Request: &mesh.Request{Method: "GET", Target: test.path, Host: "shop"}})
			if err != nil {
				t.Fatal(err)
			}
			if allowed := e.Verdict == mesh.VerdictAllowed; allowed != (status == 200) || !strings.Contains(e.Reason, test.why) {
				t.Errorf("%s: %s with %.9q got %d, and is explained as %s: %s", at, test.path, test.token, status, e.Verdict, e.Reason)
			}
			if (status == 401) != (test.why != "") || (status == 401) != strings.Contains(e.Reason, "401") {
				t.Errorf("%s: %s with %.9q got %d: %s", at, test.path, test.token, status, e.Reason)
			}
			b, err := json.Marshal(e)
			if err != nil || test.token != "x" && test.token != "" && strings.Contains(string(b), test.token) {
				t.Errorf("%s: the token is in the answer, or %v", at, err)
			}
			if at == "here" && test.token != "" && (len(e.Tokens) != 1 || e.Tokens[0].Verified != (test.why == "")) {
				t.Errorf("%s with %.9q: %+v", test.path, test.token, e.Tokens)
			}
		}
	}
}

func TestExplainSaysWhyATokenIsRefused(t *testing.T) {
	noLeaks(t)
	issuer, other := newIDP(t), newIDP(t)
	defer issuer.Close()
	defer other.Close()
	aws := newRegion(t, "aws")
	aws.serve(shop, server(t, echoToken))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.view.Intentions = []federation.Intention{{Name: "admins", Action: federation.Allow, Source: "web", Destination: "shop", HTTP: claims("admin")}}
	aws.publish()
	ask := func(token string, header map[string][]string) mesh.Explanation {
		t.Helper()
		e, err := aws.Explain(t.Context(), mesh.ExplainRequest{Source: federation.ServiceRef{Service: web}, Token: token,
			Destination: federation.ServiceRef{Service: shop}, Request: &mesh.Request{Method: "GET", Target: "/admin", Host: "shop", Header: header}})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	provider := federation.JWT{Name: "idp", Issuer: "https://idp.example.com", Audiences: []string{"orders"}, JWKSURL: issuer.URL}
	for _, test := range []struct {
		change func(*federation.JWT)
		token  string
		reason jwt.Reason
		words  string
	}{
		{func(j *federation.JWT) { j.Issuer = "https://other.example.com" }, issuer.token("admin", time.Hour), jwt.ReasonIssuer,
			`it says "https://idp.example.com", provider "idp" takes "https://other.example.com"`},
		{func(j *federation.JWT) { j.Audiences = []string{"billing"} }, issuer.token("admin", time.Hour), jwt.ReasonAudience,
			`it is for "orders", "other", provider "idp" takes those for "billing"`},
		{func(*federation.JWT) {}, issuer.token("admin", -time.Hour), jwt.ReasonExpired, "it has expired: at 20"},
		{func(j *federation.JWT) { j.Algorithms = []string{"RS256"} }, issuer.token("admin", time.Hour), jwt.ReasonAlgorithm, "ES256"},
		{func(j *federation.JWT) { j.Name = "another" }, issuer.token("admin", time.Hour), jwt.ReasonNoKeys, `there is no resource jwt "idp"`},
		{func(*federation.JWT) {}, other.token("admin", time.Hour), jwt.ReasonSignature, "its signature is wrong"},
		{func(j *federation.JWT) { j.JWKSURL = other.URL }, issuer.token("admin", time.Hour), jwt.ReasonNoKeys, "not at hand"},
	} {
		aws.trusts(issuer)
		changed := provider
		test.change(&changed)
		aws.tokens.Apply(nil)
		aws.tokens.Apply([]federation.JWT{changed})
		e := ask(test.token, nil)
		if e.Verdict != mesh.VerdictDenied || len(e.Tokens) != 1 || e.Tokens[0].Refusal != test.reason || !strings.Contains(e.Reason, test.words) {
			t.Errorf("%s: %s, %s, %+v", test.reason, e.Verdict, e.Reason, e.Tokens)
		}
		if e.Request.Status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", test.reason, e.Request.Status)
		}
	}
	aws.trusts(issuer)
	if e := ask("", nil); e.Verdict != mesh.VerdictDenied || !strings.Contains(e.Decision.Matched[0].Reason, `needs a token of "idp"`) {
		t.Errorf("without a token: %s, %+v", e.Verdict, e.Decision)
	}
	good := issuer.token("admin", time.Hour)
	if e := ask(good, nil); e.Verdict != mesh.VerdictAllowed || !strings.Contains(e.Decision.Matched[0].Reason, "idp realm.roles=admin") {
		t.Errorf("with one: %s, %+v", e.Verdict, e.Decision)
	}
	if e := ask(good, map[string][]string{"authorization": {"Bearer " + good}}); e.Verdict != mesh.VerdictRefused && e.Verdict != mesh.VerdictDenied {
		t.Errorf("with two: %s", e.Verdict)
	}
	// A header that was written by hand is not shown either, whatever becomes of the request.
	for _, target := range []string{"/admin", "/../admin"} {
		e, err := aws.Explain(t.Context(), mesh.ExplainRequest{Source: federation.ServiceRef{Service: web}, Destination: federation.ServiceRef{Service: shop},
			Request: &mesh.Request{Method: "GET", Target: target, Host: "shop", Header: map[string][]string{"authorization": {"Bearer " + good}}}})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(e); err != nil || strings.Contains(string(b), good) || !strings.Contains(string(b), "(not shown)") {
			t.Errorf("%s: %v %s", target, err, b)
		}
	}
}
