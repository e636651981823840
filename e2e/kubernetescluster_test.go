package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/providers/kubernetes"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

type obj = map[string]any

// cluster is a real kube-apiserver with its etcd on loopback: the part of Kubernetes that the provider talks to. There are no nodes
// and no controllers, so the tests write EndpointSlices themselves.
type cluster struct {
	dir, bin      string
	etcd, address string // of etcd's clients and of the API server
	key           *ecdsa.PrivateKey
	client        *http.Client
	server        *world.Process
}

const (
	adminToken = "admin-secret"
	issuer     = "https://kubernetes.default.svc.cluster.local"
)

// startKubernetes starts a cluster that the gateway's service account may read as the provider's documentation says.
func startKubernetes(t *testing.T) *cluster {
	t.Helper()
	tool(t, "kube-apiserver")
	c := &cluster{dir: t.TempDir(), bin: filepath.Dir(tool(t, "etcd"))}
	c.certificates(t)
	c.write(t, "tokens.csv", adminToken+`,admin,1,"system:masters"`+"\n")
	c.etcd, c.address = c.free(t), c.free(t)
	peers := c.free(t)
	etcd, err := world.Run(filepath.Join(c.bin, "etcd"), "--data-dir", filepath.Join(c.dir, "etcd"), "--log-level", "warn", "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+c.etcd, "--advertise-client-urls", "http://"+c.etcd, "--listen-peer-urls", "http://"+peers,
		"--initial-advertise-peer-urls", "http://"+peers, "--initial-cluster", "default=http://"+peers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.server != nil {
			c.server.Kill()
		}
		etcd.Kill()
		if t.Failed() && c.server != nil {
			log := c.server.Output()
			t.Logf("kube-apiserver wrote:\n%s", log[max(0, len(log)-4000):])
		}
	})
	c.start(t)
	c.do(t, "POST", "/api/v1/namespaces", obj{"metadata": obj{"name": "mesh"}}, nil)
	c.account(t, "gateway")
	c.do(t, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", obj{"metadata": obj{"name": "tradewind"}, "rules": rules}, nil)
	c.do(t, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", obj{"metadata": obj{"name": "tradewind"},
		"subjects": subject("gateway"), "roleRef": obj{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tradewind"}}, nil)
	return c
}

// rules are those of the provider's documentation.
var rules = []obj{
	{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": []string{"list", "watch"}},
	{"apiGroups": []string{""}, "resources": []string{"services"}, "verbs": []string{"list", "watch"}},
}

func subject(account string) []obj {
	return []obj{{"kind": "ServiceAccount", "namespace": "mesh", "name": account}}
}

// start starts the API server and waits until it is ready.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	_, port, _ := net.SplitHostPort(c.address)
	file := func(name string) string { return filepath.Join(c.dir, name) }
	server, err := world.Run(filepath.Join(c.bin, "kube-apiserver"), "--etcd-servers", "http://"+c.etcd, "--bind-address", "127.0.0.1",
		"--advertise-address", "127.0.0.1", "--secure-port", port,
		"--tls-cert-file", file("server.pem"), "--tls-private-key-file", file("server.key"),
		"--cert-dir", file("certs"), "--token-auth-file", file("tokens.csv"), "--authorization-mode", "RBAC", "--anonymous-auth=false",
		"--service-account-issuer", issuer, "--service-account-key-file", file("account.key"),
		"--service-account-signing-key-file", file("account.key"),
		"--service-cluster-ip-range", "10.96.0.0/16", "--endpoint-reconciler-type", "none", "--etcd-compaction-interval", "0")
	if err != nil {
		t.Fatal(err)
	}
	c.server = server
	began := time.Now()
	world.Until(t, 2*time.Minute, "the API server to be ready", func() error { return c.try("GET", "/readyz", nil, nil) })
	t.Logf("kube-apiserver was ready after %v", time.Since(began).Round(time.Millisecond))
}

// certificates writes an authority, the server's certificate, and the key of service accounts.
func (c *cluster) certificates(t *testing.T) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	caKey, serverKey := newKey(), newKey()
	c.key = newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	server := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: ca.NotBefore,
		NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for name, cert := range map[string]*x509.Certificate{"ca.pem": ca, "server.pem": server} {
		public := &caKey.PublicKey
		if cert == server {
			public = &serverKey.PublicKey
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, ca, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		c.write(t, name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	for name, key := range map[string]*ecdsa.PrivateKey{"server.key": serverKey, "account.key": c.key} {
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		c.write(t, name, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	}
	pool := x509.NewCertPool()
	b, _ := os.ReadFile(filepath.Join(c.dir, "ca.pem"))
	pool.AppendCertsFromPEM(b)
	c.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func (c *cluster) free(t *testing.T) string {
	t.Helper()
	address, err := world.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// write replaces a file in one step, as kubelet does.
func (c *cluster) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// do makes a request as the administrator.
func (c *cluster) do(t *testing.T, method, path string, body, into any) {
	t.Helper()
	if err := c.try(method, path, body, into); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) try(method, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if body == nil {
		b = nil
	}
	req, err := http.NewRequest(method, "https://"+c.address+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// account makes a service account.
func (c *cluster) account(t *testing.T, name string) {
	t.Helper()
	c.do(t, "POST", "/api/v1/namespaces/mesh/serviceaccounts", obj{"metadata": obj{"name": name}}, nil)
}

// token signs a token of a service account, as the API server itself does, but good until any time.
func (c *cluster) token(t *testing.T, account string, until time.Time) string {
	t.Helper()
	var known struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	c.do(t, "GET", "/api/v1/namespaces/mesh/serviceaccounts/"+account, nil, &known)
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	began := time.Now().Add(-time.Hour).Unix()
	text := part(obj{"alg": "ES256"}) + "." + part(obj{"iss": issuer, "aud": []string{issuer}, "sub": "system:serviceaccount:mesh:" + account,
		"iat": began, "nbf": began, "exp": until.Unix(),
		"kubernetes.io": obj{"namespace": "mesh", "serviceaccount": obj{"name": account, "uid": known.Metadata.UID}}})
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, c.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// service makes a namespace, if it is not there, and a Service in it.
func (c *cluster) service(t *testing.T, namespace, name string, annotations obj) {
	t.Helper()
	err := c.try("POST", "/api/v1/namespaces", obj{"metadata": obj{"name": namespace}}, nil)
	if err != nil && !strings.Contains(err.Error(), "409") {
		t.Fatal(err)
	}
	c.do(t, "POST", "/api/v1/namespaces/"+namespace+"/services", obj{"metadata": obj{"name": name, "annotations": annotations},
		"spec": obj{"clusterIP": "None", "ports": []obj{{"port": 80}}}}, nil)
}

// slice is an EndpointSlice with one endpoint, n.
func slice(namespace, service, name string, n int, conditions obj) obj {
	return obj{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
		"metadata":    obj{"namespace": namespace, "name": name, "labels": obj{"kubernetes.io/service-name": service}},
		"addressType": "IPv4", "ports": []obj{{"name": "", "port": 8080, "appProtocol": "http"}},
		"endpoints": []obj{{"addresses": []string{fmt.Sprintf("10.1.%d.%d", n/250, 1+n%250)}, "conditions": conditions,
			"zone": "eu-west-1a", "nodeName": "n1", "hints": obj{"forZones": []obj{{"name": "eu-west-1a"}}}}}}
}

var ready = obj{"ready": true, "serving": true, "terminating": false}

// put makes a slice, or replaces it.
func (c *cluster) put(s obj) error {
	meta := s["metadata"].(obj)
	path := fmt.Sprintf("/apis/discovery.k8s.io/v1/namespaces/%v/endpointslices", meta["namespace"])
	err := c.try("PUT", fmt.Sprint(path, "/", meta["name"]), s, nil)
	if err != nil && strings.Contains(err.Error(), "404") {
		err = c.try("POST", path, s, nil)
	}
	return err
}

func (c *cluster) remove(t *testing.T, namespace, name string) {
	t.Helper()
	c.do(t, "DELETE", "/apis/discovery.k8s.io/v1/namespaces/"+namespace+"/endpointslices/"+name, nil, nil)
}

// compact makes etcd forget all but the newest state.
func (c *cluster) compact(t *testing.T) {
	t.Helper()
	post := func(path, body string, into any) {
		resp, err := http.Post("http://"+c.etcd+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || json.Unmarshal(b, into) != nil {
			t.Fatalf("%s: %s %s", path, resp.Status, b)
		}
	}
	var status struct {
		Header struct{ Revision string }
	}
	post("/v3/maintenance/status", "{}", &status)
	post("/v3/kv/compaction", fmt.Sprintf(`{"revision": %s, "physical": true}`, status.Header.Revision), &struct{}{})
}

// lister reads as the gateway's service account, unless cfg says otherwise.
func (c *cluster) lister(t *testing.T, cfg kubernetes.Config) *kubernetes.Lister {
	t.Helper()
	if cfg.Server == "" {
		cfg.Server = "https://" + c.address
	}
	cfg.CAFile, cfg.Cluster = filepath.Join(c.dir, "ca.pem"), "k"
	if cfg.TokenFile == "" {
		cfg.TokenFile = c.write(t, "token", c.token(t, "gateway", time.Now().Add(time.Hour)))
	}
	l, err := kubernetes.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// inNamespace is the scope of one namespace.
func inNamespace(ns string) poll.Scope {
	return poll.Scope{Provider: "kubernetes", Account: "k", Kind: kubernetes.Kind, Part: ns}
}

// watch watches a namespace until the test ends.
func (c *cluster) watch(t *testing.T, namespace string, cfg kubernetes.Config) *told {
	t.Helper()
	l, w := c.lister(t, cfg), &told{changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Watch(ctx, inNamespace(namespace), nil, w.tell) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the watch ended: %v", err)
		}
		if w.sins > 0 {
			t.Errorf("%d listings that must not be were told", w.sins)
		}
	})
	return w
}

// gate carries connections to an address while it is open.
type gate struct {
	address string
	mu      sync.Mutex
	shut    bool
	conns   map[net.Conn]bool
}

func openGate(t *testing.T, to string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{address: ln.Addr().String(), conns: map[net.Conn]bool{}}
	t.Cleanup(func() { ln.Close(); g.set(true) })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil || !g.keep(in, out) {
				in.Close()
				if err == nil {
					out.Close()
				}
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					in.Close()
					out.Close()
				}()
			}
		}
	}()
	return g
}

func (g *gate) keep(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		g.conns[c] = !g.shut
	}
	return !g.shut
}

// set shuts the gate, which breaks what goes through, or opens it.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if shut {
		for c := range g.conns {
			c.Close()
		}
		clear(g.conns)
	}
}
