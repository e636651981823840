package mesh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// pipeConn makes one end of a net.Pipe a caller's connection.
type pipeConn struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipeConn) CloseWrite() error { return nil }

func (p *pipeConn) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}

// quietFlow is a flow that is accepted after a while and then silent.
type quietFlow struct {
	net.Conn
	accept time.Duration
	never  bool
	mu     sync.Mutex
	resets []flow.ResetCode
}

func (f *quietFlow) CloseWrite() error { return nil }
func (f *quietFlow) Flush() error      { return nil }
func (f *quietFlow) Abort()            { f.Reset(flow.ResetAborted) }

func (f *quietFlow) Reset(c flow.ResetCode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets = append(f.resets, c)
	_ = f.Close()
}

func (f *quietFlow) Outcomes() []flow.Outcome { return nil }

func (f *quietFlow) WaitAccept(ctx context.Context) error {
	if f.never {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-time.After(f.accept):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type quietTunnel struct {
	mu   sync.Mutex
	open func() *quietFlow
	n    int
}

func (q *quietTunnel) Open(context.Context, federation.Region, flow.Open) (Flow, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n++
	return q.open(), nil
}

func (q *quietTunnel) Path(peer federation.Region) tunnel.Path {
	return tunnel.Path{Peer: peer, Up: true, RTT: time.Millisecond}
}

func (q *quietTunnel) Ask(context.Context, federation.Region, []byte) ([]byte, error) {
	return nil, errors.New("none")
}

// quietMesh is a mesh whose web may call shop in gcp over tunnel.
func quietMesh(t *testing.T, tun Tunnel, log io.Writer) *Mesh {
	t.Helper()
	shop := federation.ServiceName{Namespace: "default", Name: "shop"}
	td := federation.DefaultTrustDomain("gcp")
	id, err := federation.WorkloadID(td, shop)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := route.Compile(&federation.View{
		Number: 1, Region: "aws", TrustDomain: federation.DefaultTrustDomain("aws"), Local: federation.NewCatalog(0, nil),
		Peers: map[federation.Region]federation.Peer{"gcp": {Region: "gcp", TrustDomain: td}},
		Imports: map[federation.Region]*federation.Import{"gcp": {Peer: "gcp", Services: map[federation.ServiceName]*federation.ImportedService{
			shop: {Name: shop, Identity: id, Lane: federation.NewHealthLane([]federation.SlotHealth{{Healthy: 1, Total: 1}})},
		}}},
		Intentions: []federation.Intention{{Name: "out", Source: "web", Destination: "shop@*", Action: federation.Allow}},
		Resolvers:  map[federation.ServiceName]federation.Resolver{shop: {Service: shop, IdleTimeout: federation.Duration(90 * time.Second)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	table := route.NewTable()
	table.Publish(snap)
	return New(Config{Region: "aws", Table: table, Tunnel: tun, AccessLog: log})
}

var quietCaller = caller{
	bound: federation.ServiceName{Namespace: "default", Name: "web"}, assurance: federation.AssuranceBinding,
	wants: federation.ServiceRef{Service: federation.ServiceName{Namespace: "default", Name: "shop"}},
}

// serveToEnd serves one connection, and looks after it as Run does.
func (m *Mesh) serveToEnd(ctx context.Context, c callerConn, who caller) {
	over := make(chan struct{})
	go m.serveOutbound(ctx, c, who, func() { close(over) })
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-over:
			return
		case <-sweep.C:
			m.live.each((*conn).sweep)
		}
	}
}

func TestIdleConnectionEndsExactlyOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := net.Pipe()
		f := &quietFlow{Conn: near, accept: 80 * time.Millisecond}
		m := quietMesh(t, &quietTunnel{open: func() *quietFlow { return f }}, io.Discard)
		user, c := net.Pipe()
		conn, start := &pipeConn{Conn: c, closed: make(chan struct{})}, time.Now()
		m.serveToEnd(context.Background(), conn, quietCaller)
		if took, want := time.Since(start), firstBytesWait+80*time.Millisecond+90*time.Second; took != want {
			t.Errorf("it ended after %v, want %v", took, want)
		}
		<-conn.closed
		_, _ = user.Close(), far.Close()
		for _, want := range []string{`"response_flags":"SI"`, `"reason":"no byte either way for 1m30s"`} {
			if !bytes.Contains(m.access.pending, []byte(want)) {
				t.Errorf("access log says %s, want %s in it", m.access.pending, want)
			}
		}
	})
}

func TestPeerThatNeverAnswersIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun := &quietTunnel{open: func() *quietFlow {
			_, near := net.Pipe()
			return &quietFlow{Conn: near, never: true}
		}}
		m := quietMesh(t, tun, io.Discard)
		_, c := net.Pipe()
		start := time.Now()
		m.serveToEnd(context.Background(), &pipeConn{Conn: c, closed: make(chan struct{})}, quietCaller)
		// Two rounds of 5 s for the peer, and what the way there takes.
		if took, want := time.Since(start), 10*time.Second+time.Millisecond; took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
		if !bytes.Contains(m.access.pending, []byte(`"response_flags":"UF"`)) || !bytes.Contains(m.access.pending, []byte("deadline exceeded")) {
			t.Errorf("access log says %s", m.access.pending)
		}
	})
}

func TestCallerThatLeavesEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *quietFlow
		m := quietMesh(t, &quietTunnel{open: func() *quietFlow {
			_, near := net.Pipe()
			f = &quietFlow{Conn: near, never: true}
			return f
		}}, io.Discard)
		_, c := net.Pipe()
		conn := &pipeConn{Conn: c, closed: make(chan struct{})}
		start := time.Now()
		time.AfterFunc(time.Second, func() { _ = c.Close() })
		m.serveToEnd(context.Background(), conn, quietCaller)
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v, want 1 s", took)
		}
		if !bytes.Contains(m.access.pending, []byte(`"response_flags":"DC"`)) {
			t.Errorf("access log says %s", m.access.pending)
		}
		if len(f.resets) == 0 {
			t.Error("the peer was not told")
		}
	})
}

// TestPublicationBetweenDecisionAndFirstByte publishes a denial that nobody tells the mesh of: the connection itself must see
// that its snapshot has been overtaken.
func TestPublicationBetweenDecisionAndFirstByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := net.Pipe()
		f := &quietFlow{Conn: near, accept: time.Millisecond}
		tun := &quietTunnel{}
		m := quietMesh(t, tun, io.Discard)
		tun.open = func() *quietFlow {
			snap, err := route.Compile(&federation.View{Number: 2, Region: "aws", TrustDomain: federation.DefaultTrustDomain("aws")})
			if err != nil {
				t.Error(err)
			}
			m.cfg.Table.Publish(snap)
			return f
		}
		_, c := net.Pipe()
		start := time.Now()
		m.serveToEnd(context.Background(), &pipeConn{Conn: c, closed: make(chan struct{})}, quietCaller)
		if took := time.Since(start); took > time.Second {
			t.Errorf("it stayed open for %v", took)
		}
		if len(f.resets) == 0 || f.resets[0] != flow.ResetRevoked {
			t.Errorf("the peer was told %v", f.resets)
		}
		if !bytes.Contains(m.access.pending, []byte("region gcp is no longer a peer")) {
			t.Errorf("access log says %s", m.access.pending)
		}
		_ = far.Close()
	})
}

// TestConnectionThatComesAsTheGatewayStops is accepted too late to be found among the open ones when Run ends them.
func TestConnectionThatComesAsTheGatewayStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun := &quietTunnel{open: func() *quietFlow {
			_, near := net.Pipe()
			return &quietFlow{Conn: near, never: true}
		}}
		m := quietMesh(t, tun, io.Discard)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		_, c := net.Pipe()
		conn, start := &pipeConn{Conn: c, closed: make(chan struct{})}, time.Now()
		m.serveToEnd(ctx, conn, quietCaller)
		<-conn.closed
		if took := time.Since(start); took != 0 || tun.n != 0 {
			t.Errorf("it took %v and %d flows", took, tun.n)
		}
		if !bytes.Contains(m.access.pending, []byte(`"response_flags":"LR"`)) || !bytes.Contains(m.access.pending, []byte(stopping.reason)) {
			t.Errorf("access log says %s", m.access.pending)
		}
	})
}

// TestCutEndsWhatIsWaitedFor goes through the waits of one connection.
func TestCutEndsWhatIsWaitedFor(t *testing.T) {
	f := &quietFlow{}
	_, f.Conn = net.Pipe()
	c := &conn{}
	var first, second, third int
	c.waits(func() { first++ })
	c.waits(func() { second++ })
	c.rides(f)
	c.end(ending{flow.ResetRevoked, "one"})
	c.end(ending{flow.ResetDraining, "two"})
	c.waits(func() { third++ })
	if first != 0 || second != 1 || third != 1 || !c.isOver() || c.why().reason != "one" {
		t.Errorf("stopped %d, %d and %d times, %+v", first, second, third, c.why())
	}
	if len(f.resets) != 1 || f.resets[0] != flow.ResetRevoked {
		t.Errorf("the peer was told %v", f.resets)
	}
}

// countedWrites is a log file that counts its system calls.
type countedWrites struct {
	mu           sync.Mutex
	calls, lines int
	at           time.Time
}

func (w *countedWrites) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls, w.lines, w.at = w.calls+1, w.lines+bytes.Count(b, []byte("\n")), time.Now()
	return len(b), nil
}

func TestAccessLogLinesGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &countedWrites{}
		m := quietMesh(t, &quietTunnel{}, w)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); m.access.run(ctx) }()
		start := time.Now()
		m.access.write(&record{})
		synctest.Wait()
		if w.lines != 1 || !w.at.Equal(start) {
			t.Errorf("a lone line was out after %v", w.at.Sub(start))
		}
		for range 1000 { // a second at a thousand a second
			<-time.After(time.Millisecond)
			m.access.write(&record{})
		}
		<-time.After(logGather)
		synctest.Wait()
		if w.lines != 1001 || w.calls > 210 {
			t.Errorf("%d lines in %d writes", w.lines, w.calls)
		}
		m.access.write(&record{})
		m.access.write(&record{})
		stop()
		<-done
		if w.lines != 1003 {
			t.Errorf("%d of 1003 lines", w.lines)
		}
	})
}
