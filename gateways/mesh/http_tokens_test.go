package mesh_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tradewind-mesh/tradewind/federation"
)

// idp issues tokens, and serves its keys by TLS.
type idp struct {
	*httptest.Server
	t    *testing.T
	mu   sync.Mutex
	kid  int
	key  crypto.Signer
	keys []jose.JSONWebKey
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	i := &idp{t: t}
	i.rotate()
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if err := json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.keys}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

// rotate has all further tokens signed by a new key; the one before stays published.
func (i *idp) rotate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kid++
	i.key = key
	i.keys = append(i.keys, jose.JSONWebKey{Key: key.Public(), KeyID: fmt.Sprint(i.kid), Use: "sig"})
	i.keys = i.keys[max(0, len(i.keys)-2):]
}

func (i *idp) token(role string, life time.Duration) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", fmt.Sprint(i.kid)))
	if err != nil {
		i.t.Error(err)
		return ""
	}
	jws, err := signer.Sign([]byte(fmt.Sprintf(`{"iss":"https://idp.example.com","aud":["orders","other"],"exp":%d,"realm":{"roles":[%q]}}`,
		time.Now().Add(life).Unix(), role)))
	if err != nil {
		i.t.Error(err)
		return ""
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		i.t.Error(err)
	}
	return token
}

// trusts makes i a provider of r, which may fetch its keys.
func (r *region) trusts(i *idp) {
	r.roots.AddCert(i.Certificate())
	r.tokens.Allow([]string{i.Listener.Addr().String()})
	r.tokens.Apply([]federation.JWT{{Name: "idp", Issuer: "https://idp.example.com", Audiences: []string{"orders"}, JWKSURL: i.URL}})
}

func claims(role string) []federation.Permission {
	return []federation.Permission{{HTTPMatch: federation.HTTPMatch{PathPrefix: "/admin"},
		Claims: []federation.ClaimMatch{{Provider: "idp", Path: []string{"realm", "roles"}, Any: []string{role}}}}}
}

// echoToken tells whether the instance got a token.
func echoToken(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprint(w, "token: ", strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "))
}

func TestTokensAreVerifiedWhereTheIntentionAsks(t *testing.T) {
	noLeaks(t)
	issuer := newIDP(t)
	defer issuer.Close()
	for _, at := range []string{"here", "there"} {
		aws, gcp, url := httpPair(t, server(t, echoToken), federation.ProtocolHTTP)
		withheld := false
		if at == "here" {
			aws.trusts(issuer)
			aws.view.Intentions = []federation.Intention{{Name: "out", Action: federation.Allow, Source: "web", Destination: "shop@*", HTTP: claims("admin")},
				{Name: "public", Action: federation.Allow, Source: "web", Destination: "shop@*",
					HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/public"}}}}}
			aws.publish()
		} else {
			withheld = true // the gateway that has verified it gives the request to the instance
			gcp.trusts(issuer)
			gcp.view.Intentions = []federation.Intention{{Name: "in", Action: federation.Allow, Source: "web@aws", Destination: "shop", HTTP: claims("admin")},
				{Name: "public", Action: federation.Allow, Source: "web@aws", Destination: "shop",
					HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/public"}}}}}
			gcp.publish()
		}
		c := caller(t, false)
		for _, test := range []struct {
			path, token string
			status      int
		}{
			{"/admin", issuer.token("admin", time.Hour), 200}, {"/admin", issuer.token("user", time.Hour), 403}, {"/admin", "", 403},
			{"/public", "", 200}, {"/public", issuer.token("user", time.Hour), 200},
			{"/admin", issuer.token("admin", -time.Hour), 401}, {"/public", issuer.token("admin", -time.Hour), 401}, {"/public", "x", 401},
		} {
			var header []string
			if test.token != "" {
				header = []string{"Authorization", "Bearer " + test.token}
			}
			status, body := fetch(t, c, "GET", url+test.path, header...)
			if status != test.status || status == 200 && body != fmt.Sprint("token: ", test.token != "" && !withheld) {
				t.Errorf("%s: %s with %q: %d %q, want %d", at, test.path, test.token, status, body, test.status)
			}
		}
		for _, test := range []struct {
			values    []string
			status    int
			challenge string
		}{
			{[]string{"Bearer a.b.c", "Bearer d.e.f"}, 400, ""}, // already as a message
			{[]string{"Bearer a.b.c"}, 401, `Bearer error="invalid_token"`},
		} {
			r, err := http.NewRequest(http.MethodGet, url+"/admin", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header["Authorization"] = test.values
			res, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != test.status || !strings.HasPrefix(res.Header.Get("Www-Authenticate"), test.challenge) {
				t.Errorf("%s: %v: %d %v", at, test.values, res.StatusCode, res.Header)
			}
		}
	}
}

// TestDeniedClaims: a deny holds for who claims it; an absent token is none, and one that cannot be verified goes nowhere.
func TestDeniedClaims(t *testing.T) {
	noLeaks(t)
	issuer := newIDP(t)
	defer issuer.Close()
	aws := newRegion(t, "aws")
	aws.trusts(issuer)
	aws.serve(shop, server(t, echoToken))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("all allow web shop")
	aws.view.Intentions = append(aws.view.Intentions, federation.Intention{Name: "guests", Action: federation.Deny, Source: "web", Destination: "shop",
		HTTP: claims("guest")})
	url := "http://" + aws.upstream("up", "shop") + "/admin"
	c := caller(t, true)
	for token, want := range map[string]int{"": 200, issuer.token("guest", time.Hour): 403, issuer.token("user", time.Hour): 200,
		issuer.token("guest", time.Hour) + "x": 401} {
		var header []string
		if token != "" {
			header = []string{"Authorization", "Bearer " + token}
		}
		if status, body := fetch(t, c, "GET", url, header...); status != want || status == 200 && body != "token: false" {
			t.Errorf("%q: %d %q, want %d", token, status, body, want)
		}
	}
}

// TestKeysRotateBetweenRegions: ten rotations while four callers send requests with the newest token; none fails.
func TestKeysRotateBetweenRegions(t *testing.T) {
	noLeaks(t)
	issuer := newIDP(t)
	defer issuer.Close()
	aws, gcp, url := httpPair(t, server(t, echoToken), federation.ProtocolHTTP)
	gcp.trusts(issuer)
	aws.trusts(issuer)
	gcp.view.Intentions = []federation.Intention{{Name: "in", Action: federation.Allow, Source: "web@aws", Destination: "shop", HTTP: claims("admin")}}
	aws.view.Intentions = []federation.Intention{{Name: "out", Action: federation.Allow, Source: "web", Destination: "shop@*", HTTP: claims("admin")}}
	gcp.publish()
	aws.publish()
	var served, failed atomic.Int64
	var over atomic.Bool
	var callers sync.WaitGroup
	progress := make(chan struct{}, 1)
	for range 4 {
		c := caller(t, false)
		callers.Go(func() {
			for !over.Load() {
				if status, body := fetch(t, c, "GET", url+"/admin", "Authorization", "Bearer "+issuer.token("admin", time.Hour)); status != 200 {
					failed.Add(1)
					t.Errorf("%d %q", status, body)
				}
				served.Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 10 {
		for _, r := range []*tunnelled{aws, gcp} {
			r.ahead.Add(int64(30 * time.Second)) // since the last time an unknown key was looked for
		}
		issuer.rotate()
		for seen := served.Load(); served.Load() < seen+20; {
			<-progress
		}
	}
	over.Store(true)
	callers.Wait()
	t.Logf("%d requests, %d failed, over 10 rotations", served.Load(), failed.Load())
}
