package mesh_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

var shop = federation.ServiceName{Namespace: "default", Name: "shop"}
var web = federation.ServiceName{Namespace: "default", Name: "web"}

// region is one region of the test world: a mesh, its table, and the view it is published from.
type region struct {
	*mesh.Mesh
	t       *testing.T
	name    federation.Region
	table   *route.Table
	links   *links
	view    federation.View
	lane    map[federation.ServiceName]*federation.HealthLane
	lines   *lines
	metrics *prometheus.Registry
	failed  *failures
	tokens  *jwt.Verifier
	roots   *x509.CertPool // of those who issue tokens
	ahead   atomic.Int64   // of the time, for tokens: nanoseconds
}

// failures notes the instances that were reported as unreachable.
type failures struct {
	mu  sync.Mutex
	ids []federation.InstanceID
}

func (f *failures) add(_ federation.ServiceName, id federation.InstanceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids = append(f.ids, id)
}

func (f *failures) list() []federation.InstanceID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ids)
}

// newRegion returns a running region. Its listeners, connections and goroutines are gone when the test ends.
func newRegion(t *testing.T, name federation.Region, change ...func(*mesh.Config)) *region {
	t.Helper()
	r := &region{t: t, name: name, table: route.NewTable(), lines: newLines(), metrics: prometheus.NewRegistry(), failed: &failures{}}
	r.links = &links{t: t, here: name, peers: map[federation.Region]*link{}}
	r.lane = map[federation.ServiceName]*federation.HealthLane{}
	r.view = federation.View{
		Region: name, TrustDomain: federation.DefaultTrustDomain(name), Local: federation.NewCatalog(0, nil),
		Peers: map[federation.Region]federation.Peer{}, Imports: map[federation.Region]*federation.Import{},
		Resolvers: map[federation.ServiceName]federation.Resolver{},
	}
	r.roots = x509.NewCertPool()
	r.tokens = jwt.New(jwt.Config{TLS: &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12},
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }})
	cfg := mesh.Config{
		Tokens: r.tokens,
		Region: name, Table: r.table, Tunnel: r.links, AccessLog: r.lines, Metrics: r.metrics, ReportFailure: r.failed.add,
	}
	for _, f := range change {
		f(&cfg)
	}
	r.Mesh = mesh.New(cfg)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run of %s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("Run of %s does not return", name)
		}
		r.links.wg.Wait()
	})
	return r
}

// noLeaks makes the test fail when goroutines are left. Call it first: it then looks last.
func noLeaks(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// publish compiles the view, makes it current and applies it.
func (r *region) publish() []*federation.Diagnostic {
	r.t.Helper()
	r.view.Number++
	view := r.view
	snap, err := route.Compile(&view)
	if err != nil {
		r.t.Fatal(err)
	}
	r.table.Publish(snap)
	return r.Apply()
}

// serve makes addresses the instances of a local service, all healthy.
func (r *region) serve(name federation.ServiceName, addresses ...string) {
	services := map[federation.ServiceName]*federation.LocalService{}
	for _, other := range r.view.Local.Names() {
		services[other] = r.view.Local.Service(other)
	}
	s := &federation.LocalService{Name: name, Protocol: federation.ProtocolTCP}
	var slots []federation.SlotHealth
	for i, a := range addresses {
		s.Instances = append(s.Instances, federation.Instance{
			ID: federation.InstanceID(fmt.Sprintf("%s-%d", name.Name, i)), Service: name, Address: netip.MustParseAddrPort(a),
		})
		slots = append(slots, federation.SlotHealth{Healthy: 1, Total: 1})
	}
	s.Lane = federation.NewHealthLane(slots)
	r.lane[name] = s.Lane
	services[name] = s
	r.view.Local = federation.NewCatalog(r.view.Local.Revision()+1, services)
}

// peer makes other a peer that shows names, each with healthy instances.
func (r *region) peer(other *region, rtt time.Duration, healthy uint32, names ...federation.ServiceName) *federation.Import {
	r.links.peers[other.name] = &link{
		serve: other.HandleFlow, answer: other.Answer, rtt: rtt,
	}
	return r.know(other.name, healthy, names...)
}

// know makes other a peer without a link.
func (r *region) know(other federation.Region, healthy uint32, names ...federation.ServiceName) *federation.Import {
	domain := federation.DefaultTrustDomain(other)
	peers := maps.Clone(r.view.Peers)
	peers[other] = federation.Peer{Region: other, TrustDomain: domain, State: federation.PeeringActive}
	i := &federation.Import{Peer: other, AsOf: time.Now(), Services: map[federation.ServiceName]*federation.ImportedService{}}
	for _, name := range names {
		id, err := federation.WorkloadID(domain, name)
		if err != nil {
			r.t.Fatal(err)
		}
		i.Services[name] = &federation.ImportedService{
			Name: name, Protocol: federation.ProtocolTCP, Identity: id,
			Slots: []federation.ImportedSlot{{Key: string(other)}},
			Lane:  federation.NewHealthLane([]federation.SlotHealth{{Healthy: healthy, Total: max(1, healthy)}}),
		}
	}
	imports := maps.Clone(r.view.Imports)
	imports[other] = i
	r.view.Peers, r.view.Imports = peers, imports
	return i
}

// export shows name to peers.
func (r *region) export(name federation.ServiceName, to ...string) {
	r.view.Exports = append(slices.Clone(r.view.Exports), federation.Export{Service: name, To: to})
}

// intend adds intentions "NAME ACTION SOURCE DESTINATION".
func (r *region) intend(lines ...string) {
	list := slices.Clone(r.view.Intentions)
	for _, line := range lines {
		f := strings.Fields(line)
		list = append(list, federation.Intention{Name: f[0], Action: federation.Action(f[1]), Source: f[2], Destination: f[3]})
	}
	r.view.Intentions = list
}

// upstream adds a listener on a free port for caller web, and publishes. It returns the address.
func (r *region) upstream(name, service string) string {
	r.t.Helper()
	ref, err := federation.ParseServiceRef(service)
	if err != nil {
		r.t.Fatal(err)
	}
	r.view.Upstreams = append(slices.Clone(r.view.Upstreams), federation.Upstream{
		Name: name, Service: ref, Listen: "127.0.0.1:0", Caller: web,
	})
	if problems := r.publish(); len(problems) > 0 {
		r.t.Fatal(problems[0])
	}
	return r.address(name)
}

func (r *region) address(name string) string {
	r.t.Helper()
	for _, l := range r.Listeners() {
		if l.Upstream.Name == name && l.Address != nil {
			return l.Address.String()
		}
	}
	r.t.Fatalf("upstream %q does not listen", name)
	return ""
}

// pair returns two regions: aws calls, gcp serves shop at the addresses given. Everything is allowed that the tests use.
func pair(t *testing.T, addresses ...string) (aws, gcp *region) {
	t.Helper()
	aws, gcp = newRegion(t, "aws"), newRegion(t, "gcp")
	gcp.serve(shop, addresses...)
	gcp.export(shop, "aws")
	gcp.know("aws", 0)
	gcp.intend("in allow web@aws shop")
	gcp.publish()
	aws.peer(gcp, 10*time.Millisecond, uint32(len(addresses)), shop)
	aws.intend("out allow web shop@*")
	return aws, gcp
}

// instance is a server that runs serve for each connection until the test ends.
func instance(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// echo sends back what it gets, then ends.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// hello says who it is, then echoes.
func hello(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = io.WriteString(c, name+"\n")
		echo(c)
	}
}

// refusing returns an address at which nobody listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

// call sends message, ends its side and returns all that comes back.
func call(t *testing.T, address, message string) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil { // a denied caller can be reset before its connect returns
		return "", err
	}
	c := conn.(*net.TCPConn)
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, message); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// listenOnly connects, sends nothing and returns how that ends.
func listenOnly(t *testing.T, address string) error {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

func mustCall(t *testing.T, address, message, want string) {
	t.Helper()
	if got, err := call(t, address, message); err != nil || got != want {
		t.Fatalf("call answered %q, %v; want %q", got, err, want)
	}
}

// lines collects an access log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	new chan struct{}
}

func newLines() *lines { return &lines{new: make(chan struct{}, 1)} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.new <- struct{}{}:
	default:
	}
	return l.buf.Write(b)
}

// next returns the next line.
func (l *lines) next(t *testing.T) entry {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		l.mu.Lock()
		line, err := l.buf.ReadBytes('\n')
		l.mu.Unlock()
		if err == nil {
			var e entry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("access log line %q: %v", line, err)
			}
			return e
		}
		select {
		case <-l.new:
		case <-deadline:
			t.Fatal("no line in the access log")
		}
	}
}

// entry is a line of the access log.
type entry struct {
	Direction    string `json:"direction"`
	Source       string `json:"source"`
	Assurance    string `json:"assurance"`
	Destination  string `json:"destination"`
	SrcRegion    string `json:"src_region"`
	DstRegion    string `json:"dst_region"`
	Peer         string `json:"peer"`
	Endpoint     string `json:"endpoint"`
	Upstream     string `json:"upstream"`
	Decision     string `json:"decision"`
	Intention    string `json:"intention"`
	Shadow       string `json:"shadow"`
	Flags        string `json:"response_flags"`
	FailoverFrom string `json:"failover_from"`
	Retries      int    `json:"retries"`
	Sent         int64  `json:"bytes_sent"`
	Received     int64  `json:"bytes_received"`
	Reason       string `json:"reason"`
}

// eventually polls until ok or a deadline that no working code comes near.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// isReset reports whether err is what a reset connection gives, at whichever call it is noticed.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// refuseAll is a peer that refuses every flow with code.
func refuseAll(code flow.RefusalCode) func(context.Context, mesh.Incoming) {
	return func(_ context.Context, in mesh.Incoming) {
		_ = in.Refuse(code, "")
		_ = in.Close()
	}
}
