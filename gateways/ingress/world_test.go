package ingress_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/ingress"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// edge is a gateway with services behind it and listeners before it.
type edge struct {
	*ingress.Server
	t      *testing.T
	mesh   *mesh.Mesh
	table  *route.Table
	tokens *jwt.Verifier
	counts *prometheus.Registry
	view   federation.View
	log    *lines
	dir    string // of certificates
	ca     *authority
	listed []federation.Ingress
}

// nowhere is a tunnel without peers.
type nowhere struct{}

func (nowhere) Open(context.Context, federation.Region, flow.Open) (mesh.Flow, error) {
	return nil, errors.New("no peers")
}
func (nowhere) Path(federation.Region) tunnel.Path { return tunnel.Path{} }
func (nowhere) Ask(context.Context, federation.Region, []byte) ([]byte, error) {
	return nil, errors.New("no peers")
}

// newEdge returns a running gateway, which is gone with all its goroutines when the test ends.
func newEdge(t *testing.T) *edge {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	e := &edge{t: t, table: route.NewTable(), log: &lines{}, dir: t.TempDir(), ca: newAuthority(t), counts: prometheus.NewRegistry()}
	e.tokens = jwt.New(jwt.Config{TLS: &tls.Config{RootCAs: e.ca.pool}})
	e.view = federation.View{Region: "aws", TrustDomain: federation.DefaultTrustDomain("aws"), Local: federation.NewCatalog(0, nil)}
	e.mesh = mesh.New(mesh.Config{Region: "aws", Table: e.table, Tunnel: nowhere{}, AccessLog: e.log, Tokens: e.tokens})
	e.Server = ingress.New(ingress.Config{Mesh: e.mesh, Dir: filepath.Join(e.dir, "acme"), Metrics: e.counts})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.mesh.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		ended := make(chan struct{})
		go func() { running.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
		goleak.VerifyNone(t, ignore)
	})
	return e
}

// serve makes address the instance of a service, and lets ingress call it.
func (e *edge) serve(name string, p federation.Protocol, address string) {
	e.t.Helper()
	services := map[federation.ServiceName]*federation.LocalService{}
	for _, other := range e.view.Local.Names() {
		services[other] = e.view.Local.Service(other)
	}
	service := federation.ServiceName{Namespace: "default", Name: name}
	services[service] = &federation.LocalService{Name: service, Protocol: p,
		Instances: []federation.Instance{{ID: federation.InstanceID(name), Service: service, Address: netip.MustParseAddrPort(address)}},
		Lane:      federation.NewHealthLane([]federation.SlotHealth{{Healthy: 1, Total: 1}})}
	e.view.Local = federation.NewCatalog(e.view.Local.Revision()+1, services)
	e.view.Intentions = append(e.view.Intentions, federation.Intention{Name: "in-" + name, Source: "ingress", Destination: name, Action: federation.Allow})
	e.publish()
}

func (e *edge) publish() {
	e.t.Helper()
	e.view.Number++
	view := e.view
	snap, err := route.Compile(&view)
	if err != nil {
		e.t.Fatal(err)
	}
	e.table.Publish(snap)
	e.mesh.Apply()
}

// listen has the gateway listen as g says, on a free port, and returns the address.
func (e *edge) listen(g federation.Ingress) string {
	e.t.Helper()
	if g.Name == "" {
		g.Name = "public"
	}
	if g.Listen == "" {
		g.Listen = "127.0.0.1:0"
	}
	g.Identity = federation.ServiceName{Namespace: "default", Name: "ingress"}
	if err := g.Validate(g.Name); err != nil {
		e.t.Fatal(err)
	}
	e.listed = append(e.listed[:0:0], e.listed...)
	for i := range e.listed {
		if e.listed[i].Name == g.Name {
			e.listed[i] = g
			g.Name = ""
		}
	}
	if g.Name != "" {
		e.listed = append(e.listed, g)
	}
	for _, d := range e.Apply(e.listed) {
		e.t.Fatal(d)
	}
	return e.address(e.listed[len(e.listed)-1].Name)
}

func (e *edge) address(name string) string {
	e.t.Helper()
	for _, s := range e.Status() {
		if s.Ingress.Name == name && s.Address != nil {
			return s.Address.String()
		}
	}
	e.t.Fatalf("ingress %q does not listen", name)
	return ""
}

// tls is a tls block of a certificate for names, written to files.
func (e *edge) tls(file string, names ...string) []federation.IngressTLS {
	e.t.Helper()
	spec := federation.IngressTLS{Certificate: filepath.Join(e.dir, file+".crt"), Key: filepath.Join(e.dir, file+".key")}
	e.ca.write(e.t, spec, names...)
	return []federation.IngressTLS{spec}
}

func ref(name string) federation.ServiceRef {
	return federation.ServiceRef{Service: federation.ServiceName{Namespace: "default", Name: name}}
}

// authority is a CA of the world outside.
type authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	last int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool(), last: 1}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "outside"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(100 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.root)
	return a
}

// issue returns a certificate for names and its key, in PEM.
func (a *authority) issue(t *testing.T, until time.Time, names ...string) (cert, key []byte) {
	t.Helper()
	a.last++
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(a.last), DNSNames: names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}, a.root, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

func (a *authority) write(t *testing.T, to federation.IngressTLS, names ...string) {
	t.Helper()
	cert, key := a.issue(t, time.Now().Add(90*24*time.Hour), names...)
	put(t, to.Certificate, cert)
	put(t, to.Key, key)
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// lines is the access log.
type lines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

// until waits for a line that has what want has.
func (l *lines) until(t *testing.T, want map[string]any) map[string]any {
	t.Helper()
	var last []byte
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		l.mu.Lock()
		last = bytes.Clone(l.text)
		l.mu.Unlock()
		for line := range bytes.Lines(last) {
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			match := true
			for k, v := range want {
				match = match && got[k] == v
			}
			if match {
				return got
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("no line like %v in\n%s", want, last)
	return nil
}

// client is a browser that finds every host at address.
func (e *edge) client(address string, two bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!two)
	p.SetHTTP2(two)
	tr := &http.Transport{Protocols: p, DisableCompression: true, TLSClientConfig: &tls.Config{RootCAs: e.ca.pool},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}}
	e.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// instance is an HTTP server that tells what it was asked.
func instance(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "host": r.Host, "uri": r.URL.RequestURI(), "header": r.Header,
			"length": r.ContentLength})
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// said is what such a server has told.
type said struct {
	Status int
	Proto  string
	Reply  http.Header // of the response
	Name   string
	Host   string
	URI    string
	Header http.Header // of the request
	Length int64
	Text   string
}

func ask(t *testing.T, c *http.Client, url string, change ...func(*http.Request)) said {
	t.Helper()
	s, err := try(c, url, change...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func try(c *http.Client, url string, change ...func(*http.Request)) (s said, err error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return s, err
	}
	for _, f := range change {
		f(r)
	}
	res, err := c.Do(r)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		return s, err
	}
	if res.StatusCode == http.StatusOK {
		err = json.Unmarshal(b.Bytes(), &s)
	}
	s.Status, s.Proto, s.Reply, s.Text = res.StatusCode, res.Proto, res.Header, b.String()
	return s, err
}

// with sets a field of a request.
func with(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}
