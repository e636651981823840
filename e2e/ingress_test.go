package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// edgeHCL declares, in the region with the listeners, what is behind them. "api" is of the other region.
const edgeHCL = `
service "web" {
  protocol = "http"
  instance "nginx" { address = "127.0.0.1:8080" }
}
service "secret" {
  protocol = "http"
  instance "nginx" { address = "127.0.0.1:8080" }
}
service "vault" {
  instance "nginx" { address = "127.0.0.1:9443" }
}
intention "edge" {
  source      = "ingress"
  destination = "*"
  action      = "allow"
}
intention "edge-out" {
  source      = "ingress"
  destination = "api@gcp-europe-west1"
  action      = "allow"
}
intention "not-the-secret" {
  source      = "ingress"
  destination = "secret"
  action      = "deny"
}
ingress "public" {
  listen   = "0.0.0.0:443"
  identity = "ingress"
  max_body = "1MiB"
  tls {
    certificate = "DIR/tls/*.crt"
    key         = "DIR/tls/*.key"
  }
  host "shop.example.com" {
    service = "web"
    path_prefix "/api" { service = "api" }
  }
  host "secret.example.com" { service = "secret" }
  passthrough "vault.example.com" { service = "vault" }
}
ingress "proxied" {
  listen          = "0.0.0.0:8081"
  identity        = "ingress"
  proxy_protocol  = true
  trusted_proxies = ["127.0.0.0/8"]
  host "shop.example.com" { service = "web" }
}
ingress "plain" {
  listen         = "0.0.0.0:80"
  identity       = "ingress"
  https_redirect = true
}
`

// outside is the world in which callers have no identity: they run in the cloud of the other region.
type outside struct {
	edge, far *world.Region
	ca        string
	token     string // of an issuer in the region with the listeners
}

// TestIngress lets programs that nobody here wrote come in from outside.
func TestIngress(t *testing.T) {
	world.Programs(t, "nginx", "curl", "openssl", "haproxy")
	regions := world.Regions(t, `jwks { hosts = ["127.0.0.1:8080"] }`, "aws-us-east-1", "gcp-europe-west1")
	o := &outside{edge: regions[0], far: regions[1]}
	tls := filepath.Join(o.edge.Dir, "tls")
	if err := os.MkdirAll(tls, 0o755); err != nil {
		t.Fatal(err)
	}
	o.ca = filepath.Join(o.edge.Dir, "ca.crt")
	o.edge.Run(time.Minute, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
		"-subj", "/CN=outside", "-keyout", filepath.Join(o.edge.Dir, "ca.key"), "-out", o.ca)
	o.issue("tls/shop", "shop.example.com", "secret.example.com")
	o.issue("vault", "vault.example.com")
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "big"), make([]byte, 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	o.token = idp(t, root)
	startNginx(o.edge, 8080, root, o.edge.Name)
	startNginx(o.far, 8080, root, o.far.Name)
	o.startVault(t)
	o.far.Apply("service \"api\" {\n  protocol = \"http\"\n  instance \"nginx\" { address = \"127.0.0.1:8080\" }\n}\nexport \"api\" { to = [\"*\"] }\n" +
		"intention \"edge-in\" {\n  source = \"ingress@aws-us-east-1\"\n  destination = \"api\"\n  action = \"allow\"\n}\n")
	o.edge.Apply(strings.ReplaceAll(edgeHCL, "DIR", o.edge.Dir))
	world.Federate(t, o.edge, o.far)

	t.Run("hosts and versions", o.hosts)
	t.Run("names in the handshake", o.names)
	t.Run("passthrough", o.passthrough)
	t.Run("denied", o.denied)
	t.Run("PROXY protocol", o.proxied)
	t.Run("PROXY protocol to instances", o.told)
	t.Run("redirect to https", o.redirected)
	t.Run("certificate replaced", o.replaced)
	t.Run("what operators see", o.seen)
	t.Run("rules", o.rules)
}

// issue writes a certificate for names, and its key.
func (o *outside) issue(file string, names ...string) {
	path := filepath.Join(o.edge.Dir, file)
	alt := "subjectAltName=DNS:" + strings.Join(names, ",DNS:")
	o.edge.Run(time.Minute, "sh", "-c", fmt.Sprintf("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=%s -keyout %s.new "+
		"-addext %s 2>/dev/null | openssl x509 -req -CA %s -CAkey %s -copy_extensions copy -days 10 -out %s.crt 2>/dev/null && mv %s.new %s.key",
		names[0], path, alt, o.ca, filepath.Join(o.edge.Dir, "ca.key"), path, path, path))
}

// startVault serves TLS by itself.
func (o *outside) startVault(t *testing.T) {
	t.Helper()
	conf := o.edge.Write("vault.conf", fmt.Sprintf(`
daemon off; user root; pid %[1]s/vault.pid; error_log stderr; worker_processes 1;
events { worker_connections 64; }
http {
  access_log off;
  server {
    listen 127.0.0.1:9443 ssl;
    ssl_certificate %[1]s/vault.crt; ssl_certificate_key %[1]s/vault.key;
    location / { return 200 "vault $ssl_server_name\n"; }
  }
}`, o.edge.Dir))
	o.edge.Start("nginx", "-c", conf, "-p", o.edge.Dir)
}

// curl runs curl outside, with every host at the edge.
func (o *outside) curl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return o.far.In(t).Try(30*time.Second, "curl", append([]string{"-sS", "--max-time", "20", "--cacert", o.ca,
		"--connect-to", "::" + o.edge.Address + ":"}, args...)...)
}

func (o *outside) hosts(t *testing.T) {
	world.Until(t, 20*time.Second, "the service of the other region", func() error {
		out, err := o.curl(t, "--fail", "https://shop.example.com/api/x")
		if err == nil && out != o.far.Name+"\n" {
			err = fmt.Errorf("got %q", out)
		}
		return err
	})
	for _, version := range []string{"--http1.1", "--http2"} {
		for url, want := range map[string]string{"https://shop.example.com/": o.edge.Name, "https://shop.example.com/api": o.far.Name} {
			out, err := o.curl(t, version, "-w", "%{http_version} %{http_code}", url)
			wanted := want + "\n" + map[string]string{"--http1.1": "1.1", "--http2": "2"}[version] + " 200"
			if err != nil || out != wanted {
				t.Errorf("%s %s: %q %v, want %q", version, url, out, err, wanted)
			}
		}
	}
	out, err := o.curl(t, "-o", os.DevNull, "-w", "%{http_code}", "--data-binary", "@"+o.big(t), "https://shop.example.com/")
	if !strings.HasPrefix(out, "413") {
		t.Errorf("a body larger than max_body: %q %v", out, err)
	}
}

// big is a file of 2 MiB.
func (o *outside) big(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(path, make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (o *outside) names(t *testing.T) {
	client := func(args ...string) string {
		out, _ := o.far.In(t).Try(20*time.Second, "sh", "-c", "openssl s_client -connect "+o.edge.Address+":443 -CAfile "+o.ca+" "+
			strings.Join(args, " ")+" </dev/null 2>&1")
		return out
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		if out := client("-servername shop.example.com -alpn h2", version); !strings.Contains(out, "Verify return code: 0 (ok)") ||
			!strings.Contains(out, "ALPN protocol: h2") {
			t.Errorf("%s: %s", version, out)
		}
		for _, name := range []string{"-servername other.example.com", "-noservername"} {
			if out := client(name, version); !strings.Contains(out, "unrecognized name") || strings.Contains(out, "BEGIN CERTIFICATE") {
				t.Errorf("%s %s: %s", name, version, out)
			}
		}
	}
	if out := client("-servername shop.example.com -tls1_1 -cipher ALL:@SECLEVEL=0"); !strings.Contains(out, "protocol version") {
		t.Errorf("TLS 1.1: %s", out)
	}
	// The host of a request is that of the handshake, or misdirected.
	if out, err := o.curl(t, "-w", "%{http_code}", "-H", "Host: secret.example.com", "https://shop.example.com/"); out != "misdirected request\n421" {
		t.Errorf("%q %v", out, err)
	}
}

func (o *outside) passthrough(t *testing.T) {
	if out, err := o.curl(t, "--fail", "https://vault.example.com/"); err != nil || out != "vault vault.example.com\n" {
		t.Errorf("%q %v", out, err)
	}
}

func (o *outside) denied(t *testing.T) {
	out, err := o.curl(t, "-i", "https://secret.example.com/")
	if err != nil || !strings.HasPrefix(out, "HTTP/2 403") || !strings.HasSuffix(out, "\r\n\r\nforbidden\n") || strings.Contains(out, "not-the-secret") {
		t.Fatalf("%q %v", out, err)
	}
	_, rest, _ := strings.Cut(out, "x-request-id: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	world.Until(t, 10*time.Second, "the reason in the access log", func() error {
		log, err := os.ReadFile(filepath.Join(o.edge.Dir, "access.log"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			var l struct {
				RequestID string `json:"request_id"`
				Intention string `json:"intention"`
				Client    string `json:"client"`
				Upstream  string `json:"upstream"`
			}
			if err := json.Unmarshal([]byte(line), &l); err == nil && l.RequestID == id && l.Intention == "not-the-secret" &&
				l.Client == o.far.Address && l.Upstream == "public" {
				return nil
			}
		}
		return fmt.Errorf("request %s is not in\n%s", id, log)
	})
}

// proxied has HAProxy come in between, which says by the PROXY protocol who its client is.
func (o *outside) proxied(t *testing.T) {
	for i, version := range []string{"send-proxy", "send-proxy-v2"} {
		port := 8090 + i
		conf := o.edge.Write(version+".cfg", fmt.Sprintf("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n"+
			"listen in\n  bind %s:%d\n  server edge 127.0.0.1:8081 %s\n", o.edge.Address, port, version))
		o.edge.Start("haproxy", "-db", "-f", conf)
		var out string
		world.Until(t, 10*time.Second, "HAProxy", func() (err error) {
			out, err = o.far.In(t).Try(20*time.Second, "curl", "-sSi", "--fail", "-H", "Host: shop.example.com", "-H", "X-Forwarded-For: 192.0.2.99",
				fmt.Sprintf("http://%s:%d/", o.edge.Address, port))
			return err
		})
		_, rest, _ := strings.Cut(out, "X-Request-Id: ")
		id, _, _ := strings.Cut(rest, "\r\n")
		want := fmt.Sprintf(`"client":%q`, o.far.Address)
		world.Until(t, 10*time.Second, "the client's address in the access log", func() error {
			log, err := os.ReadFile(filepath.Join(o.edge.Dir, "access.log"))
			for line := range strings.Lines(string(log)) {
				if strings.Contains(line, id) && strings.Contains(line, want) {
					return nil
				}
			}
			return fmt.Errorf("no line with %s and %s (%w)", id, want, err)
		})
	}
	// Who is no trusted proxy has a PROXY header that is not even read.
	out, err := o.far.In(t).Try(20*time.Second, "curl", "-sS", "-w", "%{http_code}", "--haproxy-protocol", "-H", "Host: shop.example.com",
		"http://"+o.edge.Address+":8081/")
	if !strings.HasSuffix(out, "400") {
		t.Errorf("a PROXY header of a stranger: %q %v", out, err)
	}
}

func (o *outside) redirected(t *testing.T) {
	out, err := o.curl(t, "-L", "--fail", "-w", "%{num_redirects} %{url_effective}", "http://shop.example.com/api?x=1")
	if err != nil || out != o.far.Name+"\n1 https://shop.example.com/api?x=1" {
		t.Errorf("%q %v", out, err)
	}
}

// replaced measures how soon a certificate is served after it was replaced, while a download goes on.
func (o *outside) replaced(t *testing.T) {
	serial := func() (string, error) {
		return o.far.In(t).Try(20*time.Second, "sh", "-c", "openssl s_client -connect "+o.edge.Address+":443 -servername shop.example.com "+
			"</dev/null 2>/dev/null | openssl x509 -noout -serial")
	}
	before, err := serial()
	if err != nil {
		t.Fatal(before, err)
	}
	download := o.far.In(t).Start("curl", "-sS", "--fail", "--cacert", o.ca, "--connect-to", "::"+o.edge.Address+":", "--limit-rate", "1M",
		"-o", os.DevNull, "-w", "%{size_download} octets", "https://shop.example.com/big")
	o.issue("tls/shop", "shop.example.com", "secret.example.com")
	took := world.Until(t, 10*time.Second, "the new certificate", func() error {
		now, err := serial()
		if err == nil && now == before {
			err = fmt.Errorf("still %s", now)
		}
		return err
	})
	if t.Logf("served after %v", took); took > 2*time.Second {
		t.Errorf("the new certificate was served after %v, 2 s are promised", took)
	}
	if err := download.Wait(time.Minute); err != nil || !strings.Contains(download.Output(), fmt.Sprint(4<<20, " octets")) {
		t.Errorf("the download beside it: %v %s", err, download.Output())
	}
}

func (o *outside) seen(t *testing.T) {
	edge := o.edge.In(t)
	var list struct {
		Ingresses []struct {
			Name, Listening string
			Problems        []struct{ Code string }
		}
	}
	edge.JSON(&list, "ingress", "list")
	for _, g := range list.Ingresses {
		if g.Listening == "" || len(g.Problems) > 0 {
			t.Errorf("%+v", g)
		}
	}
	if len(list.Ingresses) != 5 || !strings.Contains(edge.CLI("ingress", "show", "public"), "vault.example.com") {
		t.Errorf("%+v", list)
	}
	// A certificate that cannot be read is a problem that is shown, and the one before it stays.
	if err := os.WriteFile(filepath.Join(edge.Dir, "tls", "shop.key"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	world.Until(t, 10*time.Second, "the problem in the status", func() error {
		out, _ := edge.TryCLI("status")
		if !strings.Contains(out, "TW-6202") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out, err := o.curl(t, "--fail", "https://shop.example.com/"); err != nil {
		t.Errorf("%q %v", out, err)
	}
}
