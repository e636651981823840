package tunnel

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// idleLink is a link on which nothing ever happens.
type idleLink struct {
	of    kind
	ready bool
	over  chan struct{}
}

func (l *idleLink) kind() kind                              { return l.of }
func (l *idleLink) control() controlStream                  { return nil }
func (l *idleLink) open() (carrier, error)                  { return nil, errNoLane }
func (l *idleLink) primed() bool                            { return l.ready }
func (l *idleLink) serve(context.Context, *session)         {}
func (l *idleLink) onFrame(flow.Header, []byte)             {}
func (l *idleLink) tick(time.Time) pulse                    { return pulse{} }
func (l *idleLink) remote() net.Addr                        { return nil }
func (l *idleLink) close(quic.ApplicationErrorCode, string) {}
func (l *idleLink) done() <-chan struct{}                   { return l.over }
func (l *idleLink) cause() error                            { return errLaneClosed }
func (l *idleLink) release()                                {}
func newIdleLink(k kind) *idleLink                          { return &idleLink{of: k, ready: true, over: make(chan struct{})} }
func gatewayID(name string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://east.mesh.internal/gw/" + name)
}
func (p *peer) stage(all ...*session) { p.table.Store(&all) }
func idleSession(k kind, g string, rtt time.Duration) *session {
	s := &session{live: &liveConn{id: gatewayID(g)}, link: newIdleLink(k)}
	s.srtt.Store(int64(rtt))
	return s
}

// taken is how often each session is chosen.
func taken(p *peer, gateway spiffeid.ID, tried ...*session) map[*session]int {
	n := map[*session]int{}
	for range 4000 {
		n[p.bestOf(gateway, tried)]++
	}
	return n
}

func TestWhichSessionANewFlowTakes(t *testing.T) {
	const near, far = 40 * time.Millisecond, 80 * time.Millisecond
	p := &peer{region: federation.Region("east")}
	a, b, c, d := idleSession(kindQUIC, "a", near), idleSession(kindQUIC, "a", near+5*time.Millisecond), idleSession(kindQUIC, "b", far),
		idleSession(kindTCP, "a", near)
	p.stage(a, b, c, d)
	all := spiffeid.ID{}
	only := func(what string, got map[*session]int, want ...*session) {
		t.Helper()
		for _, s := range want {
			if got[s] == 0 {
				t.Errorf("%s: one that is as good is never taken", what)
			}
			delete(got, s)
		}
		if len(got) > 0 {
			t.Errorf("%s: others are taken", what)
		}
	}
	only("the near ones of the preferred kind", taken(p, all), a, b)
	only("without them", taken(p, all, a, b), c)
	only("without QUIC", taken(p, all, a, b, c), d)
	only("of one gateway", taken(p, gatewayID("b")), c)
	only("of nobody", taken(p, gatewayID("x")), nil)

	a.bulk.Store(1)
	only("beside a bulk transfer", taken(p, all), b)
	b.bulk.Store(1)
	only("bulk everywhere", taken(p, all), a, b)
	a.bulk.Store(0)
	b.bulk.Store(0)

	a.flows.Store(10)
	only("beside flows", taken(p, all), b)
	b.recent.Store(100 << 20)
	only("beside bytes", taken(p, all), a)
	b.recent.Store(0)
	a.flows.Store(0)

	a.state.Store(suspect)
	b.state.Store(suspect)
	only("beside silent ones", taken(p, all), c)
	c.state.Store(suspect)
	only("QUIC is silent", taken(p, all), d)
	d.link.(*idleLink).ready = false
	only("and TCP has had no lane yet", taken(p, all), a, b)
	d.link.(*idleLink).ready = true
	close(d.link.(*idleLink).over)
	only("and TCP has ended", taken(p, all), a, b)
	if group := p.group(gatewayID("a")); len(group) != 2 {
		t.Errorf("%d sessions with a gateway that has two and one that has ended", len(group))
	}
	a.leaving.Store(true)
	b.superseded.Store(true)
	c.state.Store(dead)
	only("nothing is left", taken(p, all), nil)
}

// TestLoadIsEven opens flows on sessions that are alike: by two choices they stay within a few of each other.
func TestLoadIsEven(t *testing.T) {
	p := &peer{region: federation.Region("east")}
	var all []*session
	for range quicSessions {
		all = append(all, idleSession(kindQUIC, "a", time.Millisecond))
	}
	p.stage(all...)
	for range 4000 {
		p.best(nil).flows.Add(1)
	}
	for i, s := range all {
		if n := s.flows.Load(); n < 990 || n > 1010 {
			t.Errorf("session %d has %d of 4000 flows", i, n)
		}
	}
}

func TestSessionsAreKeptEachForItself(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		eventually(t, func() bool { return p.west.Path(east).QUIC == quicSessions })
		var flows []*Flow
		used := map[*session]bool{}
		for range 16 * quicSessions {
			f := mustOpen(t, p.west, east)
			if err := exchangeBytes(f, []byte("x")); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
		}
		table := *p.west.peer(east).table.Load()
		for _, s := range table {
			used[s] = s.flows.Load() > 0
		}
		if len(used) != quicSessions {
			t.Errorf("flows are on %d sessions", len(used))
		}
		on := int(table[0].flows.Load())
		start := time.Now()
		table[0].close(closeSilent, "a test")
		eventually(t, func() bool { return p.west.Path(east).QUIC == quicSessions-1 })
		eventually(t, func() bool { return p.west.Path(east).QUIC == quicSessions })
		if took := time.Since(start); took > time.Second {
			t.Errorf("another took its place after %v", took)
		}
		for _, f := range flows {
			if err := exchangeBytes(f, []byte("y")); err != nil {
				t.Errorf("a flow broke, of %d that were on the session that ended: %v", on, err)
			}
			_ = f.Close()
		}
	})
}
