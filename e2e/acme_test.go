package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// acmeHCL has certificates ordered from two authorities. Each of them reaches one port of the gateway alone, so each can have a name
// proved in one way alone.
const acmeHCL = `
service "web" {
  protocol = "http"
  instance "nginx" { address = "127.0.0.1:8080" }
}
intention "edge" {
  source      = "ingress"
  destination = "*"
  action      = "allow"
}
ingress "public" {
  listen   = "0.0.0.0:443"
  identity = "ingress"
  tls {
    acme {
      email        = "ops@example.com"
      directory    = "https://CA:14000/dir"
      ca_file      = "DIR/ca.crt"
      terms_agreed = true
    }
  }
  host "shop.example.com" { service = "web" }
  MORE
}
ingress "brief" {
  listen   = "0.0.0.0:444"
  identity = "ingress"
  tls {
    acme {
      email        = "ops@example.com"
      directory    = "https://CA:14001/dir"
      ca_file      = "DIR/ca.crt"
      terms_agreed = true
    }
  }
  host "brief.example.com" { service = "web" }
}
ingress "plain" {
  listen         = "0.0.0.0:80"
  identity       = "ingress"
  https_redirect = true
}
`

// authorities are Pebble, twice, and the DNS that it asks, in a cloud of their own.
type authorities struct {
	edge *world.Region
	far  *world.Cloud
	life map[string]*world.Process
}

// briefLife is how long certificates of the second authority live, in seconds: a third before the end they are renewed.
const briefLife = 10

// TestACME has certificates issued by an authority that nobody here wrote.
func TestACME(t *testing.T) {
	world.Programs(t, "nginx", "curl", "openssl")
	pebble, names := tool(t, "pebble"), tool(t, "pebble-challtestsrv")
	clouds := world.Clouds(t, "aws-us-east-1", "outside")
	a := &authorities{edge: clouds[0].Region("", ""), far: clouds[1], life: map[string]*world.Process{}}
	a.certify()
	a.far.Start(names, "-dnsserver", a.far.Address+":8053", "-defaultIPv4", a.edge.Address, "-defaultIPv6", "", "-http01", "", "-https01", "",
		"-tlsalpn01", "", "-doh", "", "-management", a.far.Address+":8055")
	const closed = 9
	a.start(pebble, "shop", 14000, closed, 443, 90*24*3600)
	a.start(pebble, "brief", 14001, 80, closed, briefLife)
	root := t.TempDir()
	startNginx(a.edge, 8080, root, a.edge.Name)
	a.apply("")

	t.Run("TLS-ALPN-01", func(t *testing.T) { a.served(t, "shop.example.com", 443, 15000) })
	t.Run("HTTP-01", func(t *testing.T) { a.served(t, "brief.example.com", 444, 15001) })
	t.Run("what operators see", a.seen)
	t.Run("killed", a.killed)
	t.Run("renewed", a.renewed)
	t.Run("unreachable", a.unreachable)
}

func (a *authorities) apply(more string) {
	a.edge.Apply(strings.NewReplacer("CA", a.far.Address, "DIR", a.edge.Dir, "MORE", more).Replace(acmeHCL))
}

// certify makes the certificate that the authorities themselves have for their API.
func (a *authorities) certify() {
	dir := a.edge.Dir
	a.edge.Run(time.Minute, "sh", "-c", fmt.Sprintf("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "+
		"-subj /CN=api -keyout ca.key -out ca.crt 2>/dev/null && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=api "+
		"-addext subjectAltName=IP:%s -keyout api.key 2>/dev/null | openssl x509 -req -CA ca.crt -CAkey ca.key -copy_extensions copy -days 10 "+
		"-out api.crt 2>/dev/null", dir, a.far.Address))
}

func (a *authorities) start(pebble, name string, port, http, tls, life int) {
	config := a.far.Write(name+".json", fmt.Sprintf(`{"pebble": {"listenAddress": "%[1]s:%[2]d", "managementListenAddress": "%[1]s:%[3]d",
  "certificate": "%[4]s/api.crt", "privateKey": "%[4]s/api.key", "httpPort": %[5]d, "tlsPort": %[6]d, "keyAlgorithm": "ecdsa",
  "retryAfter": {"authz": 1, "order": 1}, "profiles": {"default": {"description": "the only one", "validityPeriod": %[7]d}}}}`,
		a.far.Address, port, port+1000, a.edge.Dir, http, tls, life))
	a.life[name] = a.far.Start("env", "PEBBLE_VA_NOSLEEP=1", pebble, "-strict", "-config", config, "-dnsserver", a.far.Address+":8053")
}

// orders is how many an authority has taken.
func (a *authorities) orders(name string) int {
	return strings.Count(a.life[name].Output(), " orders in the db")
}

// served waits until a certificate of an authority is served, and has a request answered over it.
func (a *authorities) served(t *testing.T, host string, port, management int) {
	root := filepath.Join(a.far.Dir, strconv.Itoa(management))
	world.Until(t, 20*time.Second, "the certificate for "+host, func() error {
		if out, err := a.far.Try(20*time.Second, "curl", "-sS", "--fail", "--cacert", filepath.Join(a.edge.Dir, "ca.crt"), "-o", root,
			fmt.Sprintf("https://%s:%d/roots/0", a.far.Address, management)); err != nil {
			return fmt.Errorf("%s: %w", out, err)
		}
		out, err := a.far.Try(20*time.Second, "curl", "-sS", "--fail", "--cacert", root,
			"--connect-to", fmt.Sprintf("::%s:%d", a.edge.Address, port), "https://"+host+"/")
		if err == nil && out != a.edge.Name+"\n" {
			err = fmt.Errorf("answered %q", out)
		}
		if err != nil {
			problems, _ := a.edge.TryCLI("status")
			return fmt.Errorf("%s: %w\n%s", out, err, problems)
		}
		return nil
	})
}

// serial is that of the certificate that is served.
func (a *authorities) serial(host string, port int) (string, error) {
	return a.far.Try(20*time.Second, "sh", "-c", fmt.Sprintf("openssl s_client -connect %s:%d -servername %s </dev/null 2>/dev/null | "+
		"openssl x509 -noout -serial", a.edge.Address, port, host))
}

// seen compares what the gateway says with what it keeps.
func (a *authorities) seen(t *testing.T) {
	edge := a.edge.In(t)
	var shown struct {
		Certificates []struct {
			Source, From, Failure string
			Names                 []string
			Expires, Renews       time.Time
		}
		Problems []struct{ Code string }
	}
	edge.JSON(&shown, "ingress", "show", "public")
	if len(shown.Certificates) != 1 || len(shown.Problems) != 0 {
		t.Fatalf("%+v", shown)
	}
	c := shown.Certificates[0]
	left := time.Until(c.Expires)
	if c.Source != "acme" || c.Failure != "" || len(c.Names) != 1 || c.Names[0] != "shop.example.com" || left < 89*24*time.Hour ||
		c.Renews.Before(time.Now()) || c.Renews.After(c.Expires.Add(-4*24*time.Hour)) {
		t.Errorf("%+v", c)
	}
	if out := edge.CLI("ingress", "show", "public"); !strings.Contains(out, "acme") || !strings.Contains(out, ":14000/dir") {
		t.Error(out)
	}
	// Keys are for nobody else's eyes.
	if out := edge.Run(time.Minute, "find", filepath.Join(edge.Dir, "data", "acme"), "-perm", "/077"); out != "" {
		t.Errorf("others may read\n%s", out)
	}
	if out := edge.Run(time.Minute, "find", filepath.Join(edge.Dir, "data", "acme"), "-name", "*.key"); strings.Count(out, "\n") != 4 {
		t.Errorf("not the keys of two accounts and two certificates:\n%s", out)
	}
}

// killed takes the gateway's memory away.
func (a *authorities) killed(t *testing.T) {
	before, err := a.serial("shop.example.com", 443)
	if err != nil {
		t.Fatal(before, err)
	}
	orders := a.orders("shop")
	a.edge.Gateway.Kill()
	a.edge.StartGateway()
	world.Until(t, 10*time.Second, "the certificate from before", func() error {
		after, err := a.serial("shop.example.com", 443)
		if err == nil && after != before {
			err = fmt.Errorf("%s was served, now it is %s", before, after)
		}
		return err
	})
	if n := a.orders("shop"); n != orders {
		t.Errorf("%d orders, %d before", n, orders)
	}
}

// renewed outlives a certificate.
func (a *authorities) renewed(t *testing.T) {
	before, err := a.serial("brief.example.com", 444)
	if err != nil {
		t.Fatal(before, err)
	}
	world.Until(t, (briefLife+10)*time.Second, "a new certificate", func() error {
		after, err := a.serial("brief.example.com", 444)
		if err == nil && after == before {
			err = fmt.Errorf("still %s", after)
		}
		return err
	})
	a.served(t, "brief.example.com", 444, 15001)
}

// unreachable takes the authorities away.
func (a *authorities) unreachable(t *testing.T) {
	edge := a.edge.In(t)
	a.life["shop"].Kill()
	a.life["brief"].Kill()
	a.apply(`host "new.example.com" { service = "web" }`)
	world.Until(t, (briefLife+10)*time.Second, "both problems", func() error {
		out, _ := edge.TryCLI("status")
		if !strings.Contains(out, "TW-6205") || !strings.Contains(out, "new.example.com") || !strings.Contains(out, "connection refused") ||
			!strings.Contains(out, "brief.example.com") || !strings.Contains(out, "last one") || !strings.Contains(out, "one attempt, since ") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for host, port := range map[string]int{"shop.example.com": 443, "brief.example.com": 444} {
		out, err := a.far.Try(20*time.Second, "curl", "-sSk", "--fail",
			"--connect-to", fmt.Sprintf("::%s:%d", a.edge.Address, port), "https://"+host+"/")
		if err != nil || out != a.edge.Name+"\n" {
			t.Errorf("%s: %q %v", host, out, err)
		}
	}
	if out := edge.CLI("ingress", "show", "public"); !strings.Contains(out, "tried again in") || !strings.Contains(out, "connection refused") {
		t.Error(out)
	}
	if _, err := os.Stat(filepath.Join(edge.Dir, "data", "acme", "locks")); err == nil {
		t.Error("locks are files, which would outlive a process that is killed")
	}
}
