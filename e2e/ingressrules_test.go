package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// rulesHCL is a listener with rules of its own. The issuer of tokens says where its keys are.
const rulesHCL = `
jwt "idp" {
  issuer    = "http://127.0.0.1:8080"
  audiences = ["shop"]
}
ingress "rules" {
  listen   = "0.0.0.0:8082"
  identity = "ingress"
  error_page {
    status    = [404, 429]
    body_file = "DIR/sorry.html"
  }
  host "open.example.com" {
    service  = "web"
    compress = ["gzip"]
    cors {
      origins = ["https://app.example.com"]
      methods = ["PUT"]
      max_age = "1h"
    }
  }
  host "closed.example.com" {
    service       = "web"
    require_token = ["idp"]
  }
  host "few.example.com" {
    service = "web"
    rate_limit {
      per  = "client"
      rate = "3/h"
    }
  }
}
`

// idp writes what an OpenID Connect provider publishes into root, and returns a token of it.
func idp(t *testing.T, root string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const issuer = "http://127.0.0.1:8080"
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{"keys": string(keys),
		".well-known/openid-configuration": fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%s/keys"}`, issuer, issuer)} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(fmt.Appendf(nil, `{"iss":%q,"aud":"shop","exp":%d}`, issuer, time.Now().Add(time.Hour).Unix()))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// rules has a stranger's program meet what a listener does by itself.
func (o *outside) rules(t *testing.T) {
	o.edge.In(t).Write("sorry.html", "<p>sorry</p>\n")
	o.edge.In(t).Apply(strings.ReplaceAll(rulesHCL, "DIR", o.edge.Dir))
	world.Until(t, 20*time.Second, "the listener", func() error {
		_, err := o.curl(t, "--fail", "http://open.example.com:8082/")
		return err
	})
	get := func(args ...string) string {
		t.Helper()
		out, err := o.curl(t, args...)
		if err != nil {
			t.Fatalf("%v: %s %v", args, out, err)
		}
		return out
	}
	out := get("-i", "-X", "OPTIONS", "-H", "Origin: https://app.example.com", "-H", "Access-Control-Request-Method: PUT", "http://open.example.com:8082/")
	for _, want := range []string{"HTTP/1.1 204", "Access-Control-Allow-Origin: https://app.example.com\r\n", "Access-Control-Allow-Methods: PUT\r\n",
		"Access-Control-Max-Age: 3600\r\n", "Vary: Origin\r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("a preflight: no %q in %q", want, out)
		}
	}
	if out := get("-i", "-H", "Origin: https://evil.example.com", "http://open.example.com:8082/"); strings.Contains(out, "Access-Control") {
		t.Errorf("another origin: %q", out)
	}

	out = get("--compressed", "-o", filepath.Join(o.edge.Dir, "big"), "-w", "%{size_download} %header{content-encoding}", "http://open.example.com:8082/big")
	var sent int
	if _, err := fmt.Sscanf(out, "%d gzip", &sent); err != nil || sent > 64<<10 {
		t.Errorf("4 MiB compressed: %q %v", out, err)
	}
	if info, err := os.Stat(filepath.Join(o.edge.Dir, "big")); err != nil || info.Size() != 4<<20 {
		t.Errorf("decompressed: %v %v", info, err)
	}

	if out := get("-i", "http://closed.example.com:8082/"); !strings.HasPrefix(out, "HTTP/1.1 401") || !strings.Contains(out, "Www-Authenticate: Bearer realm=") {
		t.Errorf("no token: %q", out)
	}
	if out := get("-w", " %{http_code}", "-H", "Authorization: Bearer "+o.token, "http://closed.example.com:8082/"); out != o.edge.Name+"\n 200" {
		t.Errorf("a token: %q", out)
	}

	for range 3 {
		get("--fail", "http://few.example.com:8082/")
	}
	if out := get("-i", "http://few.example.com:8082/"); !strings.HasPrefix(out, "HTTP/1.1 429") || !strings.Contains(out, "Retry-After: ") ||
		!strings.HasSuffix(out, "\r\n\r\n<p>sorry</p>\n") {
		t.Errorf("one too many: %q", out)
	}
	if out := get("-w", "%{http_code}", "http://unknown.example.com:8082/"); out != "<p>sorry</p>\n404" {
		t.Errorf("an unknown host: %q", out)
	}
}
