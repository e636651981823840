package exchange

import (
	"fmt"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

var epoch0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testConfig(local, peer federation.Region, counter uint64) Config {
	return Config{Local: local, Peer: peer, LocalDomain: federation.DefaultTrustDomain(local), PeerDomain: federation.DefaultTrustDomain(peer),
		Epoch: federation.Epoch{Counter: counter, Incarnation: counter * 1000}, MaxStale: 24 * time.Hour}
}

// end is one side of a pair.
type end struct {
	m      *Machine
	imp    *federation.Import
	closed *Close
	log    []Action
	toSend []Send
}

func (e *end) take(actions []Action) {
	for _, a := range actions {
		e.log = append(e.log, a)
		switch a := a.(type) {
		case Send:
			e.toSend = append(e.toSend, a)
		case Publish:
			e.imp = a.Import
		case Close:
			e.closed = &a
			e.toSend = nil
		}
	}
}

type pair struct {
	now  time.Time
	a, b *end
}

func newPair(t testing.TB) *pair {
	ma, err := New(testConfig("east", "west", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := New(testConfig("west", "east", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{now: epoch0, a: &end{m: ma}, b: &end{m: mb}}
}

func (p *pair) connect() {
	p.a.closed, p.b.closed = nil, nil
	p.a.take(p.a.m.Connected(p.now))
	p.b.take(p.b.m.Connected(p.now))
	p.settle()
}

func (p *pair) settle() {
	for len(p.a.toSend)+len(p.b.toSend) > 0 {
		for _, d := range [][2]*end{{p.a, p.b}, {p.b, p.a}} {
			frames := d[0].toSend
			d[0].toSend = nil
			for _, f := range frames {
				d[1].take(d[1].m.Receive(p.now, f.Lane, f.Frame))
			}
		}
	}
}

func (p *pair) run(d time.Duration) {
	until := p.now.Add(d)
	for {
		p.settle()
		next := earlier(p.a.m.Deadline(), p.b.m.Deadline())
		if next.IsZero() || next.After(until) {
			break
		}
		if next.After(p.now) {
			p.now = next
		}
		p.a.take(p.a.m.Tick(p.now))
		p.b.take(p.b.m.Tick(p.now))
	}
	p.now = until
}

func exported(name string, slots ...federation.ExportedSlot) federation.ExportedService {
	n, err := federation.ParseServiceName(name)
	if err != nil {
		panic(err)
	}
	return federation.ExportedService{Name: n, Protocol: federation.ProtocolTCP, Detail: federation.DetailEndpoints, Slots: slots}
}

func slot(key string, healthy, total uint32) federation.ExportedSlot {
	return federation.ExportedSlot{Key: key, Locality: federation.Locality{Zone: "a"}, Weight: 100,
		Health: federation.SlotHealth{Healthy: healthy, Total: total}}
}

func view(services ...federation.ExportedService) federation.ExportView {
	return federation.ExportView{Services: services}
}

func many(services, slots int) federation.ExportView {
	var v federation.ExportView
	for i := range services {
		s := exported(fmt.Sprintf("svc-%05d", i))
		for j := range slots {
			s.Slots = append(s.Slots, slot(fmt.Sprintf("i-%016d", j), 1, 1))
		}
		v.Services = append(v.Services, s)
	}
	return v
}
