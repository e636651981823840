package tunnel

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// transferSim runs a machine on a clock of its own against carriers whose rates are given.
type transferSim struct {
	t       *testing.T
	b       bulk
	v       bulkView
	deliver func(at bulkPlan) float64 // octets a second
	offered float64                   // what whoever writes has; 0: more than any carrier takes
	nothing bool                      // no plan is to be had
	log     []string
}

func newTransferSim(t *testing.T, deliver func(bulkPlan) float64) *transferSim {
	s := &transferSim{t: t, deliver: deliver}
	s.v = bulkView{sent: bulkStart, acked: bulkStart, at: bulkPlan{kindQUIC, 1}, rtt: 40 * time.Millisecond, lanes: true, most: 4}
	return s
}

// run lets d pass, and returns the verdict that ended it, if one did.
func (s *transferSim) run(d time.Duration) bulkVerdict {
	for end := s.v.now + d; s.v.now < end; {
		plan, verdict := s.b.step(s.v)
		switch {
		case verdict == bulkOver:
			s.note("over")
			return verdict
		case verdict == bulkShift && s.nothing:
			s.note("none")
			s.b.failed(s.v)
		case verdict == bulkShift:
			s.v.at = plan
			s.note(plan.kind.String() + string(rune('0'+plan.n)))
		}
		s.v.now += bulkTick
		rate := s.deliver(s.v.at)
		s.v.pressed = s.offered == 0 || s.offered > rate
		if !s.v.pressed {
			rate = s.offered
		}
		n := uint64(rate * bulkTick.Seconds())
		s.v.sent, s.v.acked = s.v.sent+n, s.v.acked+n
	}
	return bulkStay
}

func (s *transferSim) note(what string) { s.log = append(s.log, s.v.now.String()+" "+what) }

func (s *transferSim) expect(want ...string) {
	s.t.Helper()
	if len(want) != len(s.log) {
		s.t.Fatalf("it went %q, not %q", s.log, want)
	}
	for i := range want {
		if s.log[i] != want[i] {
			s.t.Errorf("it went %q, not %q", s.log, want)
		}
	}
}

func constant(quic, tcp float64) func(bulkPlan) float64 {
	return func(at bulkPlan) float64 {
		if at.kind == kindTCP {
			return tcp
		}
		return quic
	}
}

func TestBulkGoesToALane(t *testing.T) {
	s := newTransferSim(t, constant(400e3, 24e6))
	s.run(60 * time.Second)
	s.expect("200ms tcp1")
}

func TestBulkComesBack(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 10e6))
	s.run(40 * time.Second)
	s.expect("200ms tcp1", "1.3s quic1", "31.4s tcp1", "32.5s quic1")
}

func TestBulkBarelyWorse(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 20e6)) // for a quarter of the processor
	s.run(40 * time.Second)
	s.expect("200ms tcp1")
}

func TestBulkWithoutLane(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 24e6))
	s.nothing = true
	s.run(2 * time.Second)
	if len(s.log) != 2 {
		t.Errorf("it went %q", s.log)
	}
}

func TestBulkThatNobodyWaitsFor(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 1e6))
	s.offered = 500e3
	s.v.pressed = false
	if s.run(time.Minute); s.v.at.kind != kindQUIC {
		t.Errorf("it went %q", s.log)
	}
	if last := s.log[len(s.log)-1]; last != "1s over" {
		t.Errorf("a conversation goes on as a bulk transfer: %q", s.log)
	}
}

func TestBulkThatItsSourceSlowsDown(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 20e6))
	s.run(300 * time.Millisecond)
	s.offered = 5e6 // below what both carry, and below 0.8 of what QUIC carried
	s.run(time.Minute)
	s.expect("200ms tcp1")
}

func TestBulkEnds(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 24e6))
	s.run(3 * time.Second)
	s.offered = 1e-9
	if s.run(10*time.Second) != bulkOver {
		t.Errorf("it went %q", s.log)
	}
	s.expect("200ms tcp1", "4s over")
}

// TestBulkStripes has every carrier deliver alike, up to what the path bears.
func TestBulkStripes(t *testing.T) {
	for name, c := range map[string]struct {
		path  float64
		lanes bool
		want  []string
	}{
		"all help":     {100e6, false, []string{"200ms quic2", "1.3s quic4"}},
		"two help":     {900e3, false, []string{"200ms quic2", "1.3s quic4", "2.4s quic2", "32.5s quic4", "33.6s quic2"}},
		"one is all":   {400e3, false, []string{"200ms quic2", "1.3s quic1", "31.4s quic2", "32.5s quic1"}},
		"lanes at all": {100e6, true, []string{"200ms tcp1", "1.3s tcp2", "2.4s tcp4", "3.5s tcp8"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTransferSim(t, func(at bulkPlan) float64 { return min(c.path, 400e3*float64(at.n)) })
			s.v.slowed, s.v.lanes = true, c.lanes
			if c.lanes {
				s.v.most = maxStripes
			}
			s.run(40 * time.Second)
			t.Log(s.log)
			if len(s.log) < len(c.want) {
				t.Fatalf("it went %q", s.log)
			}
			s.log = s.log[:len(c.want)]
			s.expect(c.want...)
		})
	}
}

// TestBulkCarrierBreaks has the flow moved by somebody else.
func TestBulkCarrierBreaks(t *testing.T) {
	s := newTransferSim(t, constant(24e6, 24e6))
	s.run(5 * time.Second)
	s.v.at = bulkPlan{kindQUIC, 1}
	s.run(5 * time.Second)
	if len(s.log) != 2 || s.v.at.kind != kindTCP {
		t.Errorf("it went %q", s.log)
	}
}

// pathSim is a lane whose sender fills the queue of its path: at its bound, or without one at what lets a round trip stand there.
type pathSim struct {
	p        pacer
	v        paceView
	capacity float64
	own      float64 // what waits in the queue of the lane's, octets
	others   float64 // what others keep there
	loss     float64 // share of what leaves the queue that has to be sent again
	bound    uint64
}

func newPathSim(capacity float64) *pathSim {
	return &pathSim{capacity: capacity, v: paceView{minRTT: 40 * time.Millisecond, rtt: 40 * time.Millisecond, pressed: true}}
}

// run returns the mean rate, as a share of the capacity, and the mean delay of the queue.
func (s *pathSim) run(d time.Duration) (share float64, queue time.Duration) {
	var moved float64
	n := 0
	for end := s.v.now + d; s.v.now < end; n++ {
		s.bound = s.p.step(s.v)
		rate := s.capacity * 1.25
		if s.bound != paceUnbound {
			rate = min(rate, float64(s.bound))
		}
		dt := bulkTick.Seconds()
		out := min(s.capacity*dt, s.own+rate*dt)
		s.own = min(max(0, s.own+rate*dt-out), s.capacity*s.v.minRTT.Seconds()) // its window
		s.v.now += bulkTick
		out *= 1 - s.loss
		s.v.again = s.loss
		s.v.delivered += uint64(out)
		moved += out
		s.v.rtt = s.v.minRTT + time.Duration((s.own+s.others)/s.capacity*float64(time.Second))
		queue += s.v.rtt - s.v.minRTT
	}
	return moved / (s.capacity * d.Seconds()), queue / time.Duration(n)
}

func TestPacedLaneLeavesTheQueueEmpty(t *testing.T) {
	s := newPathSim(24e6)
	s.run(3 * time.Second)
	share, queue := s.run(20 * time.Second)
	if share < 0.97 || queue > 8*time.Millisecond {
		t.Errorf("%.3f of the path, behind %v", share, queue)
	}
}

func TestPacedLaneFindsMore(t *testing.T) {
	s := newPathSim(2e6)
	s.run(10 * time.Second)
	s.capacity = 24e6
	s.run(15 * time.Second)
	if share, _ := s.run(5 * time.Second); share < 0.9 {
		t.Errorf("%.2f of the path after it has grown", share)
	}
}

func TestPacedLaneGivesWay(t *testing.T) {
	s := newPathSim(24e6)
	s.run(10 * time.Second)
	s.capacity = 3e6
	s.run(12 * time.Second)
	share, queue := s.run(5 * time.Second)
	if share < 0.9 || queue > 20*time.Millisecond {
		t.Errorf("%.2f of the path after it has shrunk, behind %v", share, queue)
	}
}

// TestPacedLaneThatLoses: what is sent again must not count against the bound, or it shrinks with every window.
func TestPacedLaneThatLoses(t *testing.T) {
	s := newPathSim(24e6)
	s.loss = 0.08
	s.run(60 * time.Second)
	if share, queue := s.run(20 * time.Second); share < 0.97*(1-s.loss) || queue > 8*time.Millisecond {
		t.Errorf("%.3f of the path, behind %v", share, queue)
	}
}

// TestPacedLaneAmongOthers has somebody else keep the queue full: a lane that went on giving way would starve.
func TestPacedLaneAmongOthers(t *testing.T) {
	s := newPathSim(24e6)
	s.run(5 * time.Second)
	s.others = 1e6
	s.run(5 * time.Second)
	if share, _ := s.run(20 * time.Second); share < 0.8 {
		t.Errorf("%.2f of the path", share)
	}
}

func TestNearLaneIsNotPaced(t *testing.T) {
	s := newPathSim(1e9)
	s.v.minRTT, s.v.rtt = 50*time.Microsecond, 60*time.Microsecond
	s.run(5 * time.Second)
	if s.bound != paceUnbound {
		t.Errorf("bound to %d", s.bound)
	}
}

// TestBulkMovesToALaneAndBack sends both ways through an echo until both directions are on lanes, then is silent for a while.
func TestBulkMovesToALaneAndBack(t *testing.T) {
	p := loopback(t, func(c *Config) { c.OnFlow = echo })
	p.ready(t)
	f := mustOpen(t, p.west, east)
	here, there := p.west.peer(east), p.east.peer(west)
	if err := exchangeBytes(f, []byte("before it is a bulk transfer")); err != nil {
		t.Fatal(err)
	}
	onLanes := func() bool { return here.bulk[kindTCP].Load() == 1 && there.bulk[kindTCP].Load() == 1 }
	const least = 32 << 20
	var total atomic.Uint64 // known before the last piece is sent
	var sending sync.WaitGroup
	sending.Go(func() {
		b := make([]byte, f.Headroom()+100<<10)
		for sent, end := uint64(0), time.Now().Add(20*time.Second); total.Load() == 0; {
			pattern(b[f.Headroom():], sent, 1)
			sent += uint64(len(b) - f.Headroom())
			if sent >= least && onLanes() || time.Now().After(end) {
				total.Store(sent)
			}
			if _, err := f.WriteHeadroom(b); err != nil {
				t.Error(err)
				return
			}
		}
	})
	b, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for got := uint64(0); total.Load() == 0 || got < total.Load(); {
		n, err := f.Read(b)
		pattern(want[:n], got, 1)
		if err != nil || !bytes.Equal(b[:n], want[:n]) {
			t.Fatalf("at %d: %v", got, err)
		}
		got += uint64(n)
	}
	sending.Wait()
	if !onLanes() {
		t.Error("it stays on QUIC")
	}
	soon(t, func() bool {
		_, a := here.lanes()
		_, b := there.lanes()
		return a+b == 0 && here.bulk[kindTCP].Load() == 0 && there.bulk[kindTCP].Load() == 0
	})
	if err := exchangeBytes(f, []byte("after it has been quiet")); err != nil {
		t.Error(err)
	}
	_ = f.Close()
	p.ready(t)
}

// TestBulkWithoutTCPStaysOnQUIC has a clean path, on which more sessions are of no use.
func TestBulkWithoutTCPStaysOnQUIC(t *testing.T) {
	got := make(chan uint64, 1)
	p := loopback(t, func(c *Config) { c.OnFlow, c.Lanes = sink(t, got), []string{LaneQUIC} })
	f := mustOpen(t, p.west, east)
	b := make([]byte, f.Headroom()+100<<10)
	sent := uint64(0)
	for end := time.Now().Add(time.Second); time.Now().Before(end) || sent < 32<<20; {
		pattern(b[f.Headroom():], sent, 1)
		n, err := f.WriteHeadroom(b)
		if sent += uint64(n); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	if f.cur.s.link.kind() != kindQUIC || p.west.peer(east).bulk[kindQUIC].Load() != 1 {
		t.Error("it has left QUIC")
	}
	f.mu.Unlock()
	_ = f.CloseWrite()
	if n := <-got; n != sent {
		t.Errorf("%d of %d octets arrived", n, sent)
	}
	_ = f.Close()
	soon(t, func() bool { return p.west.peer(east).bulk[kindQUIC].Load() == 0 })
}
