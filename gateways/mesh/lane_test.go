package mesh_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// lane is one end of a flow over any net.Conn: the real flow protocol on a plain carrier. OPEN and ACCEPT are held until the
// first bytes or Flush, as the tunnel does.
type lane struct {
	conn net.Conn
	peer federation.Region

	mu  sync.Mutex // guards out, way and the writing of conn
	out flow.Out
	way flow.Way

	in       flow.In
	place    flow.Place
	left     int // octets of the DATA frame at hand
	eof      bool
	answered bool
	opened   flow.Open
	outcomes []flow.Outcome
	data     atomic.Int64 // octets of the opener's that were written
	kept     sync.WaitGroup
}

// frame reads the next frame that is not DATA's body. For DATA it sets left.
func (l *lane) frame() (flow.Event, error) {
	var raw [flow.HeaderLen]byte
	if _, err := io.ReadFull(l.conn, raw[:]); err != nil {
		return flow.Event{}, l.died(err)
	}
	h := flow.ParseHeader(raw[:])
	if err := l.in.Header(&l.place, h); err != nil {
		return flow.Event{}, err
	}
	if h.Type == flow.TypeData {
		l.left = h.Length
		l.in.Took(h.Length)
		return flow.Event{Type: h.Type}, nil
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(l.conn, body); err != nil {
		return flow.Event{}, l.died(err)
	}
	e, err := l.in.Body(&l.place, h, body)
	switch {
	case err != nil:
		return e, err
	case e.Type == flow.TypeReset:
		return e, &tunnel.ResetError{Code: e.Reset, Peer: l.peer, Remote: true}
	case e.Type == flow.TypeRefuse:
		return e, &tunnel.RefusedError{Code: e.Refusal, Peer: l.peer, Reason: e.Reason}
	case e.Type == flow.TypeOutcome:
		l.outcomes = append(l.outcomes, e.Outcome)
	}
	return e, nil
}

func (l *lane) died(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return &tunnel.PathError{Peer: l.peer, Address: "192.0.2.1:8443", Reason: err.Error(), Err: err}
}

func (l *lane) Read(p []byte) (int, error) {
	for l.left == 0 {
		if l.eof {
			return 0, io.EOF
		}
		e, err := l.frame()
		if err != nil {
			return 0, err
		}
		l.eof = e.Type == flow.TypeFin
	}
	n, err := l.conn.Read(p[:min(len(p), l.left)])
	l.left -= n
	if err != nil {
		err = l.died(err)
	}
	return n, err
}

// send writes what waits and b. l.mu is held.
func (l *lane) send(b []byte) error {
	waiting, _ := l.out.Next(&l.way, nil)
	if b = append(waiting, b...); len(b) == 0 {
		return nil
	}
	if _, err := l.conn.Write(b); err != nil {
		return l.died(err)
	}
	return nil
}

func (l *lane) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := 0; n < len(p); {
		size := min(len(p)-n, flow.MaxData)
		b := make([]byte, flow.HeaderLen, flow.HeaderLen+size)
		if err := l.out.Data(&l.way, b, size); err != nil {
			return n, net.ErrClosed
		}
		if err := l.send(append(b, p[n:n+size]...)); err != nil {
			return n, err
		}
		n += size
		l.data.Add(int64(size))
	}
	return len(p), nil
}

func (l *lane) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.send(nil)
}

func (l *lane) emit(f func() error, now bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := f(); err != nil || !now {
		return err
	}
	return l.send(nil)
}

func (l *lane) CloseWrite() error { return l.emit(l.out.Fin, true) }

// Close ends the carrier; what was written before still arrives.
func (l *lane) Close() error {
	l.linger()
	return nil
}

func (l *lane) Abort() { l.Reset(flow.ResetAborted) }

func (l *lane) Reset(code flow.ResetCode) {
	_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = l.emit(func() error { return l.out.Reset(code, nil) }, true)
	l.linger()
}

// linger closes so that neither end loses what is under way: a TCP socket closed with unread bytes would reset.
func (l *lane) linger() {
	if t, ok := l.conn.(*net.TCPConn); ok {
		_ = t.CloseWrite()
		_ = t.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		return
	}
	_ = l.conn.Close()
}

func (l *lane) WaitAccept(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for !l.answered {
		e, err := l.frame()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		l.answered = e.Type == flow.TypeAccept
	}
	return nil
}

func (l *lane) Outcomes() []flow.Outcome { return l.outcomes }
func (l *lane) Open() flow.Open          { return l.opened }
func (l *lane) Peer() federation.Region  { return l.peer }
func (l *lane) Accept() error            { return l.emit(l.out.Accept, true) }

func (l *lane) Refuse(code flow.RefusalCode, reason string) error {
	return l.emit(func() error { return l.out.Refuse(code, reason) }, true)
}

func (l *lane) Report(o flow.Outcome) error {
	return l.emit(func() error { return l.out.Outcome(o) }, false)
}

func (l *lane) Keep(func(error)) { l.kept.Add(1) }
func (l *lane) Release()         { l.kept.Done() }

// openLane is the opener's end over conn.
func openLane(conn net.Conn, peer federation.Region, o flow.Open) (*lane, error) {
	l := &lane{conn: conn, peer: peer, way: flow.Way{ID: 1}, out: flow.NewOut(flow.Opener), in: flow.NewIn(flow.Opener)}
	return l, l.emit(func() error { return l.out.Open(o) }, false)
}

// acceptLane is the answerer's end over conn, OPEN read.
func acceptLane(conn net.Conn, peer federation.Region) (*lane, error) {
	l := &lane{conn: conn, peer: peer, way: flow.Way{ID: 1}, out: flow.NewOut(flow.Answerer), in: flow.NewIn(flow.Answerer)}
	e, err := l.frame()
	l.opened = e.Open
	return l, err
}

// links is a network of tunnels between regions in one process.
type links struct {
	t     *testing.T
	here  federation.Region
	mu    sync.Mutex
	peers map[federation.Region]*link
	wg    sync.WaitGroup
}

// link is how one region reaches another.
type link struct {
	serve  func(context.Context, mesh.Incoming) // the other end
	answer func(context.Context, federation.Region, []byte) []byte
	rtt    time.Duration
	down   bool
	opened atomic.Int64
	raw    func(net.Conn) // instead of serve: the carrier itself
}

func (n *links) get(peer federation.Region) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[peer]
}

func (n *links) setDown(peer federation.Region, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers[peer].down = down
}

func (n *links) Path(peer federation.Region) tunnel.Path {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.peers[peer]
	if l == nil {
		return tunnel.Path{Peer: peer, LastError: "no such peer"}
	}
	path := tunnel.Path{Peer: peer, Up: !l.down, RTT: l.rtt, Address: "192.0.2.1:8443", Lane: "test"}
	if path.Up {
		path.Sessions = 1
	}
	return path
}

func (n *links) Ask(ctx context.Context, peer federation.Region, question []byte) ([]byte, error) {
	l := n.get(peer)
	if l == nil || l.answer == nil {
		return nil, errors.New("no session")
	}
	return l.answer(ctx, n.here, question), nil
}

func (n *links) Open(ctx context.Context, peer federation.Region, o flow.Open) (mesh.Flow, error) {
	l := n.get(peer)
	if l == nil || n.Path(peer).Up == false {
		return nil, &tunnel.PathError{Peer: peer, Reason: "no live session"}
	}
	l.opened.Add(1)
	a, b := tcpPair(n.t)
	n.wg.Go(func() {
		defer func() { _ = b.Close() }()
		if l.raw != nil {
			l.raw(b)
			return
		}
		in, err := acceptLane(b, n.here)
		if err != nil {
			return
		}
		l.serve(context.WithoutCancel(ctx), in)
		in.kept.Wait()
		_, _ = io.Copy(io.Discard, b) // until the opener is done with what it was sent
	})
	return openLane(a, peer, o)
}

// tcpPair returns the two ends of a loopback connection.
func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	s, err := l.Accept()
	if err != nil {
		t.Error(err)
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}
