package mesh_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// outside is a north-south listener of r without rules of its own, for callers who count as web. Own responses are marked.
func (r *region) outside(by mesh.Entry) *httptest.Server {
	by.Listener, by.Identity = "public", federation.ServiceName{Namespace: "default", Name: "web"}
	by.To, by.Client = federation.ServiceRef{Service: shop}, netip.MustParseAddr("192.0.2.1")
	s := httptest.NewServer(&l7.Server{Handle: func(x *l7.Exchange) {
		x.Edit = func(res *http.Response) {
			if x.Own {
				res.Header.Set("Own", "yes")
			}
		}
		r.Request(x, by)
	}})
	r.t.Cleanup(s.Close)
	return s
}

// TestOutsideNobodyLearnsWhoRefuses: the answer is the same whether this region denies, or the one that has the service.
func TestOutsideNobodyLearnsWhoRefuses(t *testing.T) {
	noLeaks(t)
	aws, gcp, _ := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	s := aws.outside(mesh.Entry{})
	defer s.Close()
	ask := func() (status int, text, own string) {
		res, err := caller(t, false).Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b), res.Header.Get("Own")
	}
	if status, text, own := ask(); status != 200 || own != "" {
		t.Fatalf("%d %q", status, text)
	}
	// The service stays on the list of this region: the other one has changed its mind for requests like these.
	gcp.view.Intentions = []federation.Intention{{Name: "in", Action: federation.Allow, Source: "web@aws", Destination: "shop",
		HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/other"}}}}}
	gcp.publish()
	there, text, own := ask()
	if there != 403 || text != "forbidden\n" || own != "yes" {
		t.Errorf("refused there: %d %q, own %q", there, text, own)
	}
	aws.view.Intentions = nil
	aws.publish()
	if here, text, own := ask(); here != 403 || text != "forbidden\n" || own != "yes" {
		t.Errorf("refused here: %d %q, own %q", here, text, own)
	}
}

// TestRequiredTokensGoWhereTheyAreJudged: a token that the listener requires is withheld from an instance of this region, and reaches the
// gateways of another one, whose intentions may ask for it.
func TestRequiredTokensGoWhereTheyAreJudged(t *testing.T) {
	noLeaks(t)
	issuer := newIDP(t)
	defer issuer.Close()
	for _, where := range []string{"here", "there"} {
		aws, gcp, _ := httpPair(t, server(t, echoToken), federation.ProtocolHTTP)
		aws.trusts(issuer)
		if where == "here" {
			aws.serve(shop, server(t, echoToken))
			aws.speaks(shop, federation.ProtocolHTTP)
			aws.intend("local allow web shop")
			aws.publish()
		} else {
			gcp.trusts(issuer)
			gcp.view.Intentions = []federation.Intention{{Name: "in", Action: federation.Allow, Source: "web@aws", Destination: "shop", HTTP: claims("admin")}}
			gcp.publish()
		}
		s := aws.outside(mesh.Entry{Require: []string{"idp"}})
		for token, want := range map[string]int{"": 401, issuer.token("admin", -time.Hour): 401, issuer.token("admin", time.Hour): 200} {
			status, body := fetch(t, caller(t, false), "GET", s.URL+"/admin", "Authorization", "Bearer "+token)
			if token == "" {
				status, body = fetch(t, caller(t, false), "GET", s.URL+"/admin")
			}
			if status != want || status == 200 && body != "token: false" {
				t.Errorf("%s, token %.5q: %d %q, want %d", where, token, status, body, want)
			}
		}
		s.Close()
	}
}
