package jwt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
)

// keyServer serves what body holds, by TLS.
type keyServer struct {
	*httptest.Server
	body  atomic.Pointer[string]
	asked atomic.Int64
	down  atomic.Bool
}

func newKeyServer(t *testing.T, set string) *keyServer {
	t.Helper()
	k := &keyServer{}
	k.body.Store(&set)
	k.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.asked.Add(1)
		switch {
		case k.down.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case strings.HasSuffix(r.URL.Path, discoveryPath):
			k.discover(w, r)
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/keys", http.StatusFound)
		case r.URL.Path == "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		default:
			_, _ = w.Write([]byte(*k.body.Load()))
		}
	}))
	k.Config.ErrorLog = nil
	t.Cleanup(k.Close)
	return k
}

const discoveryPath = "/.well-known/openid-configuration"

// discover answers as several issuers.
func (k *keyServer) discover(w http.ResponseWriter, r *http.Request) {
	issuer := k.URL + strings.TrimSuffix(r.URL.Path, discoveryPath)
	keys := k.URL + "/keys"
	switch strings.TrimSuffix(r.URL.Path, discoveryPath) {
	case "/other":
		issuer += "/"
	case "/elsewhere":
		keys = "https://192.0.2.1/keys"
	case "/clear":
		keys = "http://keys.example.com/keys"
	case "/redirected":
		http.Redirect(w, r, discoveryPath, http.StatusFound)
		return
	case "/html":
		_, _ = w.Write([]byte("<html>"))
		return
	}
	_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, issuer, keys)
}

func (k *keyServer) host() string { return k.Listener.Addr().String() }

func (k *keyServer) trusted() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(k.Certificate())
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// remote is idp with its keys at url.
func remote(url string) federation.JWT {
	spec := idp("")
	spec.JWKSURL = url
	return spec
}

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) pass(d time.Duration)    { c.at.Add(int64(d)) }
func (c *clock) exp(d time.Duration) any { return c.now().Add(d).Unix() }

// TestKeysRotateUnderLoad: callers whose provider signs with a new key from one token to the next notice nothing.
func TestKeysRotateUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	first := newSigner(t, "0", jose.ES256)
	server := newKeyServer(t, setOf(t, first.jwk()))
	defer server.Close()
	clock := newClock()
	v := New(Config{Hosts: []string{server.host()}, TLS: server.trusted(), Now: clock.now})
	v.Apply([]federation.JWT{remote(server.URL + "/keys")})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := v.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()

	var token atomic.Pointer[string]
	issue := func(s signer) {
		text := s.sign(t, good("exp", clock.exp(time.Hour)))
		token.Store(&text)
	}
	issue(first)
	var failed, served atomic.Int64
	var callers sync.WaitGroup
	var over atomic.Bool
	for range 4 {
		callers.Go(func() {
			for !over.Load() {
				if result, refusal := v.Verify(ctx, asksIDP, bearer(*token.Load())); refusal != nil || len(result.Tokens) != 1 {
					failed.Add(1)
				}
				served.Add(1)
			}
		})
	}
	before := first
	for i := range 10 {
		next := newSigner(t, string(rune('1'+i)), jose.ES256)
		set := setOf(t, next.jwk(), before.jwk()) // the one before stays published for what was signed with it
		clock.pass(unknownEvery)
		server.body.Store(&set)
		issue(next)
		for seen := served.Load(); served.Load() < seen+20; {
			if _, refusal := v.Verify(ctx, asksIDP, bearer(*token.Load())); refusal != nil {
				t.Errorf("rotation %d: %v", i, refusal.Reason)
			}
		}
		before = next
	}
	over.Store(true)
	callers.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), served.Load())
	}
	if asked := server.asked.Load(); asked > 25 {
		t.Errorf("the provider was asked %d times for 10 rotations", asked)
	}
	t.Logf("%d requests, keys fetched %d times", served.Load(), server.asked.Load())
}

func TestUnknownKeysDoNotHammerTheProvider(t *testing.T) {
	r := newSigner(t, "r", jose.ES256)
	server, clock := newKeyServer(t, setOf(t, r.jwk())), newClock()
	v := New(Config{Hosts: []string{server.host()}, TLS: server.trusted(), Now: clock.now})
	v.Apply([]federation.JWT{remote(server.URL)})
	invented := signer{"invented", jose.ES256, r.key}
	for range 50 {
		refused(t, v, asksIDP, bearer(invented.sign(t, good())), ReasonUnknownKey)
	}
	if n := server.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	clock.pass(unknownEvery)
	refused(t, v, asksIDP, bearer(invented.sign(t, good())), ReasonUnknownKey)
	if n := server.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestLastGoodKeysAreKept(t *testing.T) {
	r := newSigner(t, "r", jose.ES256)
	server, clock := newKeyServer(t, setOf(t, r.jwk())), newClock()
	v := New(Config{Hosts: []string{server.host()}, TLS: server.trusted(), Now: clock.now})
	v.Apply([]federation.JWT{remote(server.URL)})
	refused(t, v, asksIDP, bearer(r.sign(t, good())), "")
	at := clock.now()
	server.down.Store(true)
	clock.pass(keepFor)
	p := (*v.providers.Load())["idp"]
	if !p.due(clock.now()) {
		t.Error("nothing is due after a day")
	}
	v.refresh(context.Background(), p, false)
	fresh := r.sign(t, good("exp", clock.exp(time.Hour)))
	refused(t, v, asksIDP, bearer(fresh), "")
	s := v.Status()[0]
	if s.Keys != 1 || !s.At.Equal(at) || !strings.Contains(s.Error, "500") || s.Provider != "idp" {
		t.Errorf("%+v", s)
	}
	clock.pass(time.Second)
	refused(t, v, asksIDP, bearer(fresh), ReasonNoKeys)
}

func TestWhereKeysAreFetched(t *testing.T) {
	r := newSigner(t, "r", jose.ES256)
	server := newKeyServer(t, setOf(t, r.jwk()))
	t.Setenv("HTTPS_PROXY", "http://192.0.2.1:1") // is not used
	_, port, _ := strings.Cut(server.host(), ":")
	for _, test := range []struct {
		name, url string
		hosts     []string
		want      string
	}{
		{"listed", server.URL + "/keys", []string{server.host()}, ""},
		{"not listed", server.URL, nil, "list it in its configuration"},
		{"another port", server.URL, []string{"127.0.0.1"}, "list it in its configuration"},
		{"another name", server.URL, []string{"localhost:" + port}, "list it in its configuration"},
		{"a name of this host", "https://localhost:" + port, []string{"localhost:" + port}, "a name may not lead to"},
		{"a redirect", server.URL + "/moved", []string{server.host()}, "302"},
		{"endless", server.URL + "/endless", []string{server.host()}, "more than 1 MiB"},
		{"not trusted", server.URL + "/keys", []string{server.host()}, "certificate"},
	} {
		config := server.trusted()
		if test.name == "not trusted" {
			config = nil
		}
		_, err := (&fetcher{hosts: test.hosts, tls: config}).keys(context.Background(), &federation.JWT{Issuer: "i", JWKSURL: test.url})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for ip, want := range map[string]bool{"192.0.2.1": true, "10.1.2.3": true, "2001:db8::1": true, "127.0.0.1": false, "::1": false,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1": false, "fd00:ec2::254": false, "0.0.0.0": false, "::": false,
		"168.63.129.16": false, "100.100.100.200": false, "64:ff9b::a9fe:a9fe": false, "224.0.0.1": false} {
		if got := harmless(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %v", ip, got)
		}
	}
}

// TestIssuersSayWhereTheirKeysAre: only an issuer that says exactly who it is, at hosts that may be asked, is believed.
func TestIssuersSayWhereTheirKeysAre(t *testing.T) {
	r := newSigner(t, "r", jose.ES256)
	server := newKeyServer(t, setOf(t, r.jwk()))
	for tenant, want := range map[string]string{
		"": "", "/tenant": "", "/other": "is that of issuer", "/elsewhere": "list it in its configuration", "/clear": "is not https",
		"/redirected": "302", "/html": "read the issuer's document", "?query": "want",
	} {
		spec := federation.JWT{Name: "idp", Issuer: server.URL + tenant, Audiences: []string{"orders"}}
		if err := spec.Validate("idp"); (err == nil) != (tenant != "?query") {
			t.Errorf("%s: %v", tenant, err)
		}
		if tenant == "?query" {
			continue
		}
		v := New(Config{Hosts: []string{server.host()}, TLS: server.trusted()})
		v.Apply([]federation.JWT{spec})
		token := bearer(r.sign(t, good("iss", spec.Issuer)))
		if want == "" {
			refused(t, v, asksIDP, token, "")
			continue
		}
		refused(t, v, asksIDP, token, ReasonNoKeys)
		if status := v.Status()[0]; !strings.Contains(status.Error, want) {
			t.Errorf("%s: %q, want %q", tenant, status.Error, want)
		}
	}
}

// TestOneTokenIsEnough: of the providers that are required one must vouch, and who brings no token is told so and no more.
func TestOneTokenIsEnough(t *testing.T) {
	r := newSigner(t, "r", jose.ES256)
	partner := idp(setOf(t, r.jwk()))
	partner.Name, partner.Issuer, partner.Cookie = "partner", "https://partner.example.com", "session"
	v := verifier(idp(setOf(t, r.jwk())), partner)
	both := []string{"idp", "partner"}
	token := r.sign(t, good())
	for _, c := range []struct {
		what      string
		providers []string
		header    http.Header
		want      Reason
		challenge string
	}{
		{"good", both, bearer(token), "", ""},
		{"of the other", []string{"partner"}, bearer(token), ReasonMissing, `Bearer realm="mesh"`},
		{"good beside a bad one", both, http.Header{"Authorization": {"Bearer " + token}, "Cookie": {"session=stale"}}, "", ""},
		{"none", both, http.Header{}, ReasonMissing, `Bearer realm="mesh"`},
		{"of another scheme", both, http.Header{"Authorization": {"Basic eDp5"}}, ReasonMissing, `Bearer realm="mesh"`},
		{"bad", both, bearer(flip(token)), ReasonSignature, `Bearer error="invalid_token", error_description="its signature is wrong"`},
		{"of nobody known", []string{"gone"}, bearer(token), ReasonNoKeys, `Bearer error="invalid_token", error_description="the keys of its issuer are not at hand"`},
	} {
		refusal := v.Require(t.Context(), c.providers, c.header)
		if (refusal == nil) != (c.want == "") || refusal != nil && (refusal.Reason != c.want || refusal.Challenge() != c.challenge) {
			t.Errorf("%s: %+v", c.what, refusal)
		}
	}
}

func TestKeySets(t *testing.T) {
	short := signer{"s", jose.RS256, newSigner(t, "s", jose.RS256).key}
	encryption := short.jwk()
	encryption.Use = "enc"
	for name, set := range map[string]string{
		"no JSON": "<html>", "empty": `{"keys":[]}`, "a secret": `{"keys":[{"kty":"oct","k":"AAAA","kid":"r"}]}`,
		"for encryption": setOf(t, encryption), "too many": `{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`,
		"a short key": `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("_", 171) + `"}]}`,
	} {
		if ring, err := parseKeys([]byte(set)); err == nil {
			t.Errorf("%s: %+v", name, ring.keys)
		}
	}
	ring, err := parseKeys([]byte(`{"keys":[{"kty":"new"},` + setOf(t, short.jwk())[len(`{"keys":[`):]))
	if err != nil || len(ring.keys) != 1 || ring.skipped != 1 {
		t.Errorf("%+v, %v", ring, err)
	}
}

func FuzzDiscovered(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://idp.example.com","jwks_uri":"https://idp.example.com/keys"}`))
	f.Add([]byte(`{"issuer":"https://idp.example.com","jwks_uri":"file:///etc/passwd"}`))
	f.Add([]byte(`{"issuer":"https://idp.example.com","jwks_uri":"http://127.0.0.1/"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := discovered(b, issuer)
		if err == nil && !strings.HasPrefix(strings.ToLower(at), "https:") && !strings.HasPrefix(strings.ToLower(at), "http:") {
			t.Fatalf("%q: %q", b, at)
		}
	})
}
