package kubernetes

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const config = `
apiVersion: v1
kind: Config
current-context: dev
contexts:
- {name: dev, context: {cluster: c1, user: u1, namespace: x}}
- {name: prod, context: {cluster: c2, user: u2}}
- {name: odd, context: {cluster: c1, user: %[1]s}}
- {name: nobody, context: {cluster: c1}}
clusters:
- {name: c1, cluster: {server: "https://10.0.0.1:6443", certificate-authority: ca.pem,
   tls-server-name: api.example.com, proxy-url: "http://proxy.example.com:3128"}}
- {name: c2, cluster: {server: "https://10.0.0.2:6443", certificate-authority-data: %[2]s}}
- {name: c3, cluster: {server: "https://10.0.0.2:6443", insecure-skip-tls-verify: true}}
users:
- {name: u1, user: {tokenFile: token}}
- {name: u2, user: {token: two}}
- {name: basic, user: {username: a, password: b}}
- {name: as, user: {token: x, as: somebody}}
- {name: provider, user: {auth-provider: {name: gcp}}}
- {name: cert, user: {client-certificate-data: aGVsbG8=, client-key-data: aGVsbG8=}}
- {name: old, user: {exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}}}
- {name: asks, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}}}
`

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", "authority")
	write("token", "one\n")
	text := func(user string) string {
		return fmt.Sprintf(config, user, base64.StdEncoding.EncodeToString([]byte("inline")))
	}
	write("config", text("u1"))
	c, err := readKubeconfig(path, "")
	if err != nil || c.Name != "c1" || c.Endpoint != "https://10.0.0.1:6443" || string(c.CA) != "authority" ||
		c.serverName != "api.example.com" ||
		c.proxy.Host != "proxy.example.com:3128" {
		t.Fatalf("%+v, %v", c, err)
	}
	if token, _, err := c.Token(t.Context()); token != "one" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	if c, err = readKubeconfig(path, "prod"); err != nil || string(c.CA) != "inline" {
		t.Errorf("%+v, %v", c, err)
	}
	if token, _, err := c.Token(t.Context()); token != "two" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	if c, err := readKubeconfig(path, "nobody"); err != nil || c.Token != nil {
		t.Errorf("%+v, %v", c, err)
	}
	for user, want := range map[string]string{"basic": "username", "as": "impersonation", "provider": "auth-provider", "cert": "certificate",
		"old": "apiVersion", "asks": "nobody sits", "none": "no user"} {
		write("config", text(user))
		if _, err := readKubeconfig(path, "odd"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", user, err)
		}
	}
	write("config", strings.Replace(text("u1"), "cluster: c2", "cluster: c3", 1))
	if _, err := readKubeconfig(path, "prod"); err == nil || !strings.Contains(err.Error(), "insecure") {
		t.Errorf("insecure: %v", err)
	}
	if _, err := readKubeconfig(path, "none"); err == nil {
		t.Error("a context that does not exist")
	}
	// What cannot be read now may be there later.
	l := lister(t, Config{Kubeconfig: filepath.Join(dir, "later"), Region: "eu"})
	if _, err := l.Scopes(t.Context()); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("%v", err)
	}
	write("ca.pem", string(serve(t, nil).CA))
	write("later", text("u1"))
	scopes, err := l.Scopes(t.Context())
	if err != nil || len(scopes) != 1 || scopes[0] != (poll.Scope{Provider: "kubernetes", Account: "c1", Region: "eu", Kind: Kind}) {
		t.Errorf("%v, %v", scopes, err)
	}
}

func TestInCluster(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	if _, err := inCluster(dir, func(k string) string { return env[k] }); err == nil {
		t.Error("without ca.crt")
	}
	os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o600)
	os.WriteFile(filepath.Join(dir, "token"), []byte("y"), 0o600)
	c, err := inCluster(dir, func(k string) string { return env[k] })
	if err != nil || c.Endpoint != "https://[fd00::1]:443" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := inCluster(dir, func(string) string { return "" }); err == nil {
		t.Error("outside a pod")
	}
}

// actAsPlugin is the plugin of TestPlugin.
func actAsPlugin() {
	var ask execCredential
	if err := json.Unmarshal([]byte(os.Getenv("KUBERNETES_EXEC_INFO")), &ask); err != nil || ask.Spec == nil || ask.Spec.Interactive {
		fmt.Fprintln(os.Stderr, "no question:", err)
		os.Exit(2)
	}
	switch mode := os.Getenv("TEST_PLUGIN"); mode {
	case "fail":
		fmt.Fprintln(os.Stderr, "you are not logged in")
		os.Exit(1)
	case "large":
		os.Stdout.Write(bytes.Repeat([]byte(" "), 2*maxPlugin))
		fallthrough
	default:
		status := m{"token": "from-" + mode + "-" + ask.Spec.Cluster.Server}
		if mode == "short" {
			status["expirationTimestamp"] = "2026-01-02T03:04:05Z"
		}
		if mode == "cert" {
			status = m{"clientCertificateData": "x"}
		}
		json.NewEncoder(os.Stdout).Encode(m{"apiVersion": ask.APIVersion, "kind": "ExecCredential", "status": status})
	}
	os.Exit(0)
}

func TestPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[string]string{"": "",
		"short": "from-short-https://a", "long": "from-long-https://a", "fail": "you are not logged in",
		"large": "read its answer", "cert": "certificate"} {
		p := &plugin{APIVersion: "client.authentication.k8s.io/v1", Command: self, Info: true}
		p.Env = append(p.Env, struct {
			Name  string `yaml:"name"`
			Value string `yaml:"value"`
		}{"TEST_PLUGIN", mode})
		if mode == "" {
			p.Command, p.Hint, want = "no-such-program-anywhere", "install it", "install it"
		}
		token, until, err := p.token(t.TempDir(), "https://a", nil)(t.Context())
		switch {
		case mode == "short" && (token != want || until.Year() != 2026), mode == "long" && (token != want || time.Until(until) < time.Hour):
			t.Errorf("%s: token %q until %v, %v", mode, token, until, err)
		case mode != "short" && mode != "long" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", mode, err)
		}
	}
}

func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(config, "u1", "eA==")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseKubeconfig(b, "dev", "/nonexistent"); err == nil && !strings.HasPrefix(c.Endpoint, "https://") {
			t.Errorf("a token would be sent to %q", c.Endpoint)
		}
	})
}

func FuzzList(f *testing.F) {
	b, _ := json.Marshal(m{"metadata": m{"resourceVersion": "1"}, "items": []any{pod(1, nil), svc("default", "web", m{"mesh/service": "a"})}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		inv := newInventory(&Cluster{Name: "c"})
		for _, r := range resources {
			var objects []object
			_, err := decodeList(bytes.NewReader(b), func(raw []byte) error {
				o, err := r.decode(raw)
				if err == nil {
					objects = append(objects, o)
				}
				return err
			})
			if err != nil {
				continue
			}
			inv.replace(r, objects)
		}
		l, err := inv.listing()
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range l.Records {
			if rec.ID == "" || len(rec.Labels) > maxLabels {
				t.Errorf("%+v", rec)
			}
		}
	})
}

func FuzzFrames(f *testing.F) {
	b, _ := json.Marshal(m{"type": "ADDED", "object": pod(1, nil)})
	f.Add(b)
	f.Add([]byte(`{"type":"ERROR","object":{"code":410}}{"type":"BOOKMARK"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &watch{place: &visit{}, changed: make(chan struct{}, 1), inv: newInventory(&Cluster{Name: "c"})}
		fr, at := newFrames(bytes.NewReader(b)), ""
		for {
			e, err := fr.next()
			if err != nil {
				break
			}
			if err := w.take(endpointSlices, e, &at); err != nil {
				break
			}
		}
		if _, err := w.inv.listing(); err != nil {
			t.Fatal(err)
		}
	})
}
