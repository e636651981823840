package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func BenchmarkEncodeRow(b *testing.B) {
	for _, slots := range []int{3, 100} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			l := newExportLog("east", federation.Epoch{Counter: 1})
			r := l.put(&many(1, slots).Services[0])
			b.ReportAllocs()
			for b.Loop() {
				l.bodyOf(r)
			}
			b.ReportMetric(float64(len(l.body)), "octets/row")
		})
	}
}

func BenchmarkDecodeRow(b *testing.B) {
	for _, slots := range []int{3, 100} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			l := newExportLog("east", federation.Epoch{Counter: 1})
			r := l.put(&many(1, slots).Services[0])
			body := l.bodyOf(r)
			reader := rowReader{domain: federation.DefaultTrustDomain("east"), slots: 5000, known: map[string]string{}}
			b.ReportAllocs()
			for b.Loop() {
				if _, bad := reader.read(r.name, body); bad != nil {
					b.Fatal(bad)
				}
			}
		})
	}
}

// BenchmarkApply is the receiver alone: deltas with every row changed, as they come from the wire.
func BenchmarkApply(b *testing.B) {
	const services, slots = 1000, 10
	p := newPair(b)
	p.up(many(services, slots))
	p.run(time.Second)
	p.b.m.lim.RowsPerSecond = 1 << 40
	p.connect()
	var batches [][]Send
	for i := range 2 {
		v := many(services, slots)
		for j := range v.Services {
			v.Services[j].Slots[0].Weight = uint32(i + 1)
		}
		p.a.log = nil
		p.a.take(p.a.m.SetExport(p.now, v))
		p.settle()
		var frames []Send
		for _, a := range p.a.log {
			if a, ok := a.(Send); ok && a.Lane == LaneMembership {
				frames = append(frames, a)
			}
		}
		batches = append(batches, frames)
	}
	m := p.b.m
	rows := 0
	now := p.now
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for _, f := range batches[i%2] {
			_, body, _ := unwrap(f.Lane, f.Frame)
			d, _ := decodeDelta(body)
			prepared, ok := m.takeRows(&d)
			if !ok {
				b.Fatal("not taken")
			}
			for _, r := range prepared {
				if !m.commit(r) {
					b.Fatal("not committed")
				}
			}
			rows += len(prepared)
			now = now.Add(time.Millisecond)
			m.Tick(now) // publishes
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkHealth is a change of health all the way: noticed at the sender, encoded, decoded, and visible in the lane.
func BenchmarkHealth(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			p := newPair(b)
			p.up(many(200, 64))
			p.run(time.Second)
			slots := make([]federation.ExportedSlot, batch)
			changes := 0
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for j := range slots {
					slots[j] = slot(fmt.Sprintf("i-%016d", j), uint32(i/200%2), 1)
				}
				p.now = p.now.Add(100 * time.Millisecond)
				p.a.m.out.slots = 1 << 40 // as much as in a large region: the window stays at 5 ms
				p.a.take(p.a.m.SetHealth(p.now, name(fmt.Sprintf("svc-%05d", i%200)), slots))
				p.settle()
				p.a.log, p.b.log = nil, nil
				changes += batch
			}
			b.ReportMetric(float64(changes)/b.Elapsed().Seconds(), "changes/s")
		})
	}
}

// BenchmarkHealthApply is the receiver alone: statements as they come from the wire.
func BenchmarkHealthApply(b *testing.B) {
	p := newPair(b)
	p.up(many(200, 64))
	p.run(time.Second)
	m := p.b.m
	var slots [2][]byte
	for i := range slots {
		for j := range 64 {
			slots[i] = append(slots[i], byte(j), 1, byte(i), 1)
		}
	}
	hv := uint64(1000)
	m.sess.health.rate, m.sess.health.burst, m.sess.health.tokens = 1e12, 1e12, 1e12
	m.brake.drainUntil = p.now.Add(time.Hour)
	var f []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f = f[:0]
		for j := range 10 {
			hv++
			f = appendMessage(f, 1, func(b []byte) []byte {
				b = appendUint(b, 1, uint64(j))
				b = appendString(b, 2, []string{"svc-00000", "svc-00001", "svc-00002", "svc-00003", "svc-00004", "svc-00005", "svc-00006",
					"svc-00007", "svc-00008", "svc-00009"}[j])
				return appendBytes(appendUint(b, 3, hv), 4, slots[i%2])
			})
		}
		m.sess.frames.tokens = 100
		m.Receive(p.now, LaneHealth, frame(kindHealth, f))
		if m.sess == nil {
			b.Fatal(m.trouble)
		}
	}
	b.ReportMetric(float64(b.N*640)/b.Elapsed().Seconds(), "changes/s")
}

// BenchmarkSetExport is the sender's work when one service of many changes.
func BenchmarkSetExport(b *testing.B) {
	p := newPair(b)
	v := many(10_000, 10)
	p.up(v)
	p.run(time.Second)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.Services = slices.Clone(v.Services) // a view never changes
		s := &v.Services[i%len(v.Services)]
		s.Slots = slices.Clone(s.Slots)
		s.Slots[0].Weight++
		p.a.take(p.a.m.SetExport(p.now, v))
		p.a.log, p.a.toSend = nil, nil
	}
}

// BenchmarkWorld is virtual seconds of five regions under fire for each second of a core.
func BenchmarkWorld(b *testing.B) {
	var virtual time.Duration
	for i := 0; b.Loop(); i++ {
		w := live(uint64(i), time.Minute)
		if w.failed != "" {
			b.Fatal(w.failed)
		}
		virtual += w.now.Sub(epoch0)
	}
	b.ReportMetric(virtual.Seconds()/b.Elapsed().Seconds(), "virtual-s/s")
}
