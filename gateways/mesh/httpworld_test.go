package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// httpWorld is some regions in one process, whose instances and tunnels are pipes, so that all of it runs in virtual time.
type httpWorld struct {
	t       *testing.T
	regions []*httpRegion
	servers map[netip.AddrPort]*pipeServer
	refuses func(netip.AddrPort) bool // nil: nobody
}

type httpRegion struct {
	*Mesh
	world *httpWorld
	name  federation.Region
	view  *federation.View
}

// newHTTPWorld returns a world of regions r0, r1 and so on, each with instances of shop that do what serve says. Every region may call
// every other one.
func newHTTPWorld(
	t *testing.T, regions, instances int, serve func(region, instance int) http.HandlerFunc, change func(*federation.View),
) *httpWorld {
	w := &httpWorld{t: t, servers: map[netip.AddrPort]*pipeServer{}}
	name := func(i int) federation.Region { return federation.Region(fmt.Sprint("r", i)) }
	for i := range regions {
		r := &httpRegion{world: w, name: name(i), view: &federation.View{
			Number: 1, Region: name(i), TrustDomain: federation.DefaultTrustDomain(name(i)),
			Peers: map[federation.Region]federation.Peer{}, Imports: map[federation.Region]*federation.Import{},
			Intentions: []federation.Intention{{Name: "all", Action: federation.Allow, Source: "*", Destination: "*"},
				{Name: "far", Action: federation.Allow, Source: "*@*", Destination: "*"},
				{Name: "out", Action: federation.Allow, Source: "*", Destination: "*@*"}},
			Exports: []federation.Export{{Service: planShop, To: []string{"*"}}},
			Routes:  map[federation.ServiceName]federation.Route{}, Resolvers: map[federation.ServiceName]federation.Resolver{}}}
		local := &federation.LocalService{Name: planShop, Protocol: federation.ProtocolHTTP}
		var slots []federation.SlotHealth
		for n := range instances {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), byte(n + 1)}), 80)
			id := federation.InstanceID(fmt.Sprint("shop-", n))
			local.Instances = append(local.Instances, federation.Instance{ID: id, Service: planShop, Address: at})
			slots = append(slots, federation.SlotHealth{Healthy: 1, Total: 1})
			w.servers[at] = newPipeServer(serve(i, n))
		}
		local.Lane = federation.NewHealthLane(slots)
		r.view.Local = federation.NewCatalog(1, map[federation.ServiceName]*federation.LocalService{planShop: local})
		for j := range regions {
			if i == j {
				continue
			}
			domain := federation.DefaultTrustDomain(name(j))
			id, err := federation.WorkloadID(domain, planShop)
			if err != nil {
				t.Fatal(err)
			}
			r.view.Peers[name(j)] = federation.Peer{Region: name(j), TrustDomain: domain, State: federation.PeeringActive}
			health := federation.SlotHealth{Healthy: uint32(instances), Total: uint32(instances)}
			r.view.Imports[name(j)] = &federation.Import{Peer: name(j), AsOf: time.Now(),
				Services: map[federation.ServiceName]*federation.ImportedService{planShop: {Name: planShop, Protocol: federation.ProtocolHTTP,
					Identity: id, Slots: []federation.ImportedSlot{{Key: "all"}}, Lane: federation.NewHealthLane([]federation.SlotHealth{health})}}}
		}
		change(r.view)
		snap, err := route.Compile(r.view)
		if err != nil {
			t.Fatal(err)
		}
		table := route.NewTable()
		table.Publish(snap)
		r.Mesh = New(Config{Region: r.name, Table: table, Tunnel: r, AccessLog: io.Discard}) // its lines wait in memory, for nothing runs
		r.dialer = w.dial
		w.regions = append(w.regions, r)
	}
	return w
}

// end ends all that runs.
func (w *httpWorld) end() {
	for _, r := range w.regions {
		r.http.pool.Close()
		r.live.each(func(c *conn) { c.end(stopping) })
		r.serving.Wait()
	}
	for _, s := range w.servers {
		s.end()
	}
}

// ask sends a request of a caller in region i, and returns the status of the answer; 0: there is none.
func (w *httpWorld) ask(i int, method, target string, change ...func(*http.Request)) (status int) {
	r := w.regions[i]
	req := &http.Request{Method: method, RequestURI: target, Host: "shop.example.com", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody}
	for _, f := range change {
		f(req)
	}
	x := l7.Copy(req)
	x.Request.Body = req.Body
	x.Edit = func(res *http.Response) { status = res.StatusCode }
	who := caller{id: r.cfg.Table.Load().Identity(planWeb), assurance: federation.AssuranceBinding,
		wants: federation.ServiceRef{Service: planShop}}
	r.requestOut(x, &who)
	return status
}

// lines is how many lines of the access log of region i have text in them.
func (w *httpWorld) lines(i int, text string) int {
	r := w.regions[i]
	r.access.mu.Lock()
	defer r.access.mu.Unlock()
	n := 0
	for line := range bytes.Lines(r.access.pending) {
		if bytes.Contains(line, []byte(text)) {
			n++
		}
	}
	return n
}

// speaks makes p the protocol of shop in v.
func speaks(v *federation.View, p federation.Protocol) {
	v.Local.Service(planShop).Protocol = p
	for _, i := range v.Imports {
		i.Services[planShop].Protocol = p
	}
}

func (w *httpWorld) dial(ctx context.Context, to netip.AddrPort) (callerConn, error) {
	if s := w.servers[to]; s != nil && (w.refuses == nil || !w.refuses(to)) {
		return s.connect(ctx)
	}
	return nil, syscall.ECONNREFUSED
}

// Path implements Tunnel.
func (r *httpRegion) Path(peer federation.Region) tunnel.Path {
	return tunnel.Path{Peer: peer, Up: true, RTT: 10 * time.Millisecond, Sessions: 1}
}

// Ask implements Tunnel.
func (r *httpRegion) Ask(context.Context, federation.Region, []byte) ([]byte, error) {
	return nil, errors.New("nobody is asked")
}

// Open implements Tunnel.
func (r *httpRegion) Open(_ context.Context, peer federation.Region, open flow.Open) (Flow, error) {
	for _, other := range r.world.regions {
		if other.name == peer {
			here, there := net.Pipe()
			accepted := make(chan struct{})
			go other.HandleFlow(context.Background(), &pipeIncoming{pipedConn{there}, open, r.name, accepted})
			return &pipeFlow{pipedConn{here}, accepted}, nil
		}
	}
	return nil, tunnel.ErrNoPath
}

type pipedConn struct{ net.Conn }

func (c pipedConn) CloseWrite() error    { return c.Close() }
func (c pipedConn) Abort()               { _ = c.Close() }
func (c pipedConn) Reset(flow.ResetCode) { _ = c.Close() }

type pipeFlow struct {
	pipedConn
	accepted chan struct{}
}

func (f *pipeFlow) Flush() error             { return nil }
func (f *pipeFlow) Outcomes() []flow.Outcome { return nil }
func (f *pipeFlow) WaitAccept(ctx context.Context) error {
	select {
	case <-f.accepted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type pipeIncoming struct {
	pipedConn
	open     flow.Open
	peer     federation.Region
	accepted chan struct{}
}

func (f *pipeIncoming) Open() flow.Open                       { return f.open }
func (f *pipeIncoming) Peer() federation.Region               { return f.peer }
func (f *pipeIncoming) Accept() error                         { close(f.accepted); return nil }
func (f *pipeIncoming) Refuse(flow.RefusalCode, string) error { return f.Close() }
func (f *pipeIncoming) Report(flow.Outcome) error             { return nil }
func (f *pipeIncoming) Keep(func(error))                      {}
func (f *pipeIncoming) Release()                              {}

// pipeServer is an HTTP server whose connections are pipes.
type pipeServer struct {
	server http.Server
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
	ended  chan struct{}
}

func newPipeServer(h http.HandlerFunc) *pipeServer {
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	silent := log.New(io.Discard, "", 0) //nolint:forbidigo // the library wants one
	s := &pipeServer{server: http.Server{Handler: h, Protocols: both, ErrorLog: silent}, conns: make(chan net.Conn),
		closed: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_ = s.server.Serve(s)
	}()
	return s
}

func (s *pipeServer) connect(ctx context.Context) (callerConn, error) {
	here, there := net.Pipe()
	select {
	case s.conns <- there:
		return pipedConn{here}, nil
	case <-s.closed:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (s *pipeServer) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *pipeServer) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener.
func (s *pipeServer) Addr() net.Addr { return &net.TCPAddr{} }

func (s *pipeServer) end() {
	_ = s.server.Shutdown(context.Background())
	<-s.ended
}

// draws is a source of chance that is the same in each run and may be used by many.
type draws struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *draws) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64()
}
