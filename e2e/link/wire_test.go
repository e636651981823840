package link

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const full = 1500 // octets of a packet

// send passes n packets of full size, one every gap, and returns the verdicts.
func send(w *wire, n int, gap time.Duration) []verdict {
	var verdicts []verdict
	for i := range n {
		verdicts = append(verdicts, w.pass(time.Duration(i)*gap, full, udp))
	}
	return verdicts
}

// near fails unless got is within 4.5 standard deviations of n draws with probability p: a fault by chance once in 150,000.
func near(t *testing.T, what string, got, n int, p float64) {
	t.Helper()
	mean, limit := float64(n)*p, 4.5*math.Sqrt(float64(n)*p*(1-p))
	if math.Abs(float64(got)-mean) > limit {
		t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, n, mean, limit)
	}
}

func TestAPerfectWireDeliversAtOnce(t *testing.T) {
	w := newWire(Profile{}, 1, 0)
	for i, v := range send(w, 100, time.Microsecond) {
		if want := (verdict{left: time.Duration(i) * time.Microsecond, due: time.Duration(i) * time.Microsecond}); v != want {
			t.Fatalf("packet %d: %+v, want %+v", i, v, want)
		}
	}
}

func TestDelayIsExact(t *testing.T) {
	w := newWire(Profile{Delay: 20 * time.Millisecond}, 1, 0)
	for i, v := range send(w, 100, time.Millisecond) {
		if want := time.Duration(20+i) * time.Millisecond; v.due != want {
			t.Fatalf("packet %d arrives at %v, want %v", i, v.due, want)
		}
	}
}

func TestJitterIsEvenlySpreadAndKeepsOrderUnlessToldOtherwise(t *testing.T) {
	const n, gap, delay, jitter = 20000, 10 * time.Millisecond, 20 * time.Millisecond, 4 * time.Millisecond
	w := newWire(Profile{Delay: delay, Jitter: jitter}, 1, 0)
	var sum, squares float64
	for i, v := range send(w, n, gap) { // the gap is wider than the jitter: nobody waits
		off := v.due - time.Duration(i)*gap - delay
		if off < -jitter || off > jitter {
			t.Fatalf("packet %d is off by %v", i, off)
		}
		sum, squares = sum+off.Seconds(), squares+off.Seconds()*off.Seconds()
	}
	deviation := jitter.Seconds() / math.Sqrt(3) // of an even spread
	if mean := sum / n; math.Abs(mean) > 4.5*deviation/math.Sqrt(n) {
		t.Errorf("mean is off by %v", time.Duration(mean*1e9))
	}
	if got := math.Sqrt(squares / n); math.Abs(got/deviation-1) > 0.03 {
		t.Errorf("standard deviation is %.4f ms, want %.4f", got*1e3, deviation*1e3)
	}
	inOrder := func(verdicts []verdict) bool {
		return slices.IsSortedFunc(verdicts, func(a, b verdict) int { return int(a.due - b.due) })
	}
	w = newWire(Profile{Delay: delay, Jitter: jitter}, 1, 0)
	if !inOrder(send(w, 1000, 100*time.Microsecond)) {
		t.Error("a packet overtook another")
	}
	w = newWire(Profile{Delay: delay, Jitter: jitter, JitterReorders: true}, 1, 0)
	if inOrder(send(w, 1000, 100*time.Microsecond)) {
		t.Error("no packet overtook another")
	}
}

// runs are the lengths of the runs of lost packets.
func runs(verdicts []verdict) (total int, lengths []int) {
	length := 0
	for _, v := range append(verdicts, verdict{}) {
		switch {
		case v.fate == lost:
			total, length = total+1, length+1
		case length > 0:
			lengths, length = append(lengths, length), 0
		}
	}
	return total, lengths
}

func TestLossIsIndependent(t *testing.T) {
	const n, p = 200000, 0.03
	w := newWire(Profile{Loss: p}, 7, 0)
	total, lengths := runs(send(w, n, time.Microsecond))
	near(t, "lost", total, n, p)
	near(t, "runs", len(lengths), n, p*(1-p)) // a run begins where a delivered packet is followed by a lost one
	if w.Lost != uint64(total) {
		t.Errorf("counted %d lost, were %d", w.Lost, total)
	}
}

func TestBurstsHaveTheirShareAndLength(t *testing.T) {
	const n, share, length = 1000000, 0.02, 5.0
	total, lengths := runs(send(newWire(Profile{Burst: Bursts(share, length)}, 7, 0), n, time.Microsecond))
	// Losses come five together, so the deviation of their number is wider by the root of (1+r)/(1-r), r = 1-Enter-Leave.
	if got := float64(total) / n; math.Abs(got-share) > 4.5*math.Sqrt(share*(1-share)/n*9) {
		t.Errorf("share is %.5f, want %v", got, share)
	}
	if got := float64(total) / float64(len(lengths)); math.Abs(got/length-1) > 0.05 {
		t.Errorf("mean run is %.3f packets, want %v", got, length)
	}
	// Beside the bursts, single losses hold in the good state only.
	p := Profile{Loss: 0.1, Burst: Burst{Enter: 0.01, Leave: 0.01, Loss: 0.5}}
	total, _ = runs(send(newWire(p, 7, 0), n, time.Microsecond))
	if got := float64(total) / n; math.Abs(got-0.3) > 0.01 {
		t.Errorf("half of the time 10 %% and half of it 50 %% made %.4f", got)
	}
}

func TestTheSameSeedMeansTheSameFate(t *testing.T) {
	p := Profile{Delay: 5 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.1, Duplicate: 0.1, Reorder: 0.1,
		ReorderDelay: time.Millisecond}
	a, b := send(newWire(p, 3, 0), 1000, time.Millisecond), send(newWire(p, 3, 0), 1000, time.Millisecond)
	if !slices.Equal(a, b) {
		t.Error("two runs with one seed differ")
	}
	if slices.Equal(a, send(newWire(p, 3, 1), 1000, time.Millisecond)) || slices.Equal(a, send(newWire(p, 4, 0), 1000, time.Millisecond)) {
		t.Error("another direction or seed is the same")
	}
	for i, v := range send(newWire(Profile{Loss: 0.1}, 3, 0), 1000, time.Millisecond) {
		if v.fate != a[i].fate {
			t.Fatalf("packet %d: loss depends on what else is set", i)
		}
	}
}

func TestRateIsExact(t *testing.T) {
	const rate = 12e6 // a full packet takes a millisecond
	w := newWire(Profile{Rate: rate, Queue: 1 << 24, Delay: 3 * time.Millisecond}, 1, 0)
	for i, v := range send(w, 5000, 0) {
		if want := time.Duration(i+1+3) * time.Millisecond; v.due != want {
			t.Fatalf("packet %d arrives at %v, want %v", i, v.due, want)
		}
	}
}

func TestNoWindowCarriesMoreThanTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Profile{Rate: rapid.Int64Range(minRate*1000, 1e9).Draw(t, "rate"), Queue: rapid.IntRange(2000, 100000).Draw(t, "queue")}
		w := newWire(p, 1, 0)
		var now, begin time.Duration
		carried, packets := 0, 0
		for range 200 {
			now += time.Duration(rapid.IntRange(0, 100000).Draw(t, "gap"))
			size := rapid.IntRange(20, full).Draw(t, "size")
			v := w.pass(now, size, tcp)
			if v.fate == queueFull {
				continue
			}
			if v.due-time.Duration(float64(size*8)/float64(p.Rate)*1e9) >= now+1 { // it waited: the wire is busy since begin
				carried, packets = carried+size, packets+1
			} else {
				begin, carried, packets = now, size, 1
			}
			rounded := float64(packets) * 1e-9 // each packet's time is in whole nanoseconds
			if took := (v.due - begin).Seconds() + rounded; float64(carried*8) > took*float64(p.Rate)*1.0001+8 {
				t.Fatalf("%d octets in %.6f s at %d bit/s", carried, took, p.Rate)
			}
		}
		if w.QueueMax > max(p.Queue, full) {
			t.Fatalf("the queue held %d octets, allowed are %d", w.QueueMax, p.Queue)
		}
	})
}

func TestTheQueueDropsItsTail(t *testing.T) {
	w := newWire(Profile{Rate: 12e6, Queue: 10 * full}, 1, 0)
	accepted := 0
	for _, v := range send(w, 30, 0) {
		if v.fate == delivered {
			accepted++
		}
	}
	if accepted != 10 || w.QueueFull != 20 || w.QueueMax != 10*full {
		t.Errorf("of 30 packets %d accepted, %d dropped, high-water %d; want 10, 20, %d", accepted, w.QueueFull, w.QueueMax, 10*full)
	}
	if got := w.waiting(4 * time.Millisecond); got != 6*full {
		t.Errorf("after 4 of 10 ms %d octets wait, want %d", got, 6*full)
	}
	if v := w.pass(4*time.Millisecond, 4*full, udp); v.fate != delivered || v.due != 14*time.Millisecond {
		t.Errorf("what fits exactly: %+v", v)
	}
	w = newWire(Profile{Rate: minRate, Queue: 100}, 1, 0)
	if v := w.pass(0, full, udp); v.fate != delivered {
		t.Error("a packet that finds the wire idle was dropped, though it is sent at once")
	}
	if got := (&Profile{Rate: 8e6}).queue(); got != 100000 {
		t.Errorf("8 Mbit/s has a queue of %d octets unless told, want 100 ms of it", got)
	}
}

func TestReorderHoldsBackAndTheRestPasses(t *testing.T) {
	const n, p = 10000, 0.05
	w := newWire(Profile{Delay: 10 * time.Millisecond, Reorder: p, ReorderDelay: 5 * time.Millisecond}, 1, 0)
	held := 0
	for i, v := range send(w, n, time.Millisecond) {
		switch v.due - time.Duration(i)*time.Millisecond {
		case 15 * time.Millisecond:
			held++
		case 10 * time.Millisecond:
		default:
			t.Fatalf("packet %d arrives at %v", i, v.due)
		}
	}
	near(t, "held back", held, n, p)
	if w.Reordered != uint64(held) {
		t.Errorf("counted %d, were %d", w.Reordered, held)
	}
}

func TestCopies(t *testing.T) {
	const n, p = 10000, 0.1
	w := newWire(Profile{Duplicate: p}, 1, 0)
	twice := 0
	for _, v := range send(w, n, time.Millisecond) {
		if v.twice {
			twice++
		}
	}
	near(t, "copies", twice, n, p)
	if w.Duplicated != uint64(twice) {
		t.Errorf("counted %d, were %d", w.Duplicated, twice)
	}
}

func TestWhatDoesNotEnter(t *testing.T) {
	for name, c := range map[string]struct {
		profile       Profile
		udp, tcp, big fate
	}{
		"black hole": {Profile{Blackhole: true}, swallowed, swallowed, swallowed},
		"no UDP":     {Profile{BlockUDP: true}, blocked, delivered, blocked},
		"no TCP":     {Profile{BlockTCP: true}, delivered, blocked, delivered},
		"MTU":        {Profile{MTU: 1400}, delivered, delivered, tooBig},
	} {
		w := newWire(c.profile, 1, 0)
		got := [...]fate{w.pass(0, 1400, udp).fate, w.pass(0, 1400, tcp).fate, w.pass(0, 1401, udp).fate}
		if want := [...]fate{c.udp, c.tcp, c.big}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if dropped := w.Blackholed + w.Blocked + w.TooBig; w.Packets != 3 || w.Octets != 4201 || dropped == 0 {
			t.Errorf("%s: counters %+v", name, w.Counters)
		}
	}
}

func TestAChangeHoldsForWhatEntersAfterIt(t *testing.T) {
	l := &lane{wire: newWire(Profile{Delay: 50 * time.Millisecond}, 1, 0)}
	l.pass(0, full, udp)
	l.change(0, Profile{Delay: 10 * time.Millisecond})
	if v := l.pass(time.Millisecond, full, udp); v.due != 50*time.Millisecond {
		t.Errorf("behind a slower packet: %v, want its time, 50ms", v.due)
	}
	if v := l.pass(time.Second, full, udp); v.due != 1010*time.Millisecond {
		t.Errorf("later: %v, want 1.01s", v.due)
	}
}

func TestWhatWaitsLeavesAtTheNewRate(t *testing.T) {
	const slow, fast = 1.2e6, 12e6 // a full packet takes 10 ms and 1 ms
	for _, c := range []struct {
		rate int64
		want []time.Duration // in µs, of three that wait and one that comes after the change at 5 ms, half of the first being sent
	}{
		{fast, []time.Duration{5500, 6500, 7500, 8500}},
		{slow / 10, []time.Duration{55000, 155000, 255000, 355000}},
		{0, []time.Duration{5000, 5000, 5000, 5000}},
		{slow, []time.Duration{10000, 20000, 30000, 40000}},
	} {
		l := &lane{wire: newWire(Profile{Rate: slow, Queue: 1e6}, 1, 0)}
		for range 3 {
			l.push(l.pass(0, full, udp), nil)
		}
		p := Profile{Rate: c.rate, Queue: 1e6}
		if c.rate == 0 {
			p.Queue = 0
		}
		l.change(5*time.Millisecond, p)
		l.push(l.pass(5*time.Millisecond, full, udp), nil)
		for i, want := range c.want {
			if got := l.pop(); got.due != want*time.Microsecond || got.turn != uint64(i+1) {
				t.Errorf("to %d bit/s: packet %d at %v, want %d at %v", c.rate, got.turn, got.due, i+1, want*time.Microsecond)
			}
		}
	}
}

func TestAFlightIsInOrderOfTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f flight
		var want []parcel
		check := func() {
			due, _ := f.next()
			got := f.pop()
			if got.due != due || got.due != want[0].due || got.turn != want[0].turn {
				t.Fatalf("got %v turn %d, want %v turn %d", got.due, got.turn, want[0].due, want[0].turn)
			}
			want = want[1:]
		}
		for i := range rapid.IntRange(0, 200).Draw(t, "n") {
			if len(want) > 0 && rapid.Bool().Draw(t, "pop") {
				check()
				continue
			}
			due := time.Duration(rapid.IntRange(0, 20).Draw(t, "due"))
			f.push(verdict{due: due}, []byte{byte(i)})
			want = append(want, parcel{verdict: verdict{due: due}, turn: f.turns})
			slices.SortStableFunc(want, func(a, b parcel) int { return int(a.due - b.due) })
		}
		for len(want) > 0 {
			check()
		}
		if _, any := f.next(); any {
			t.Fatal("more came out than went in")
		}
	})
}

func TestAProfileThatCannotBeMeantIsRefused(t *testing.T) {
	for name, p := range map[string]Profile{
		"loss in percent":        {Loss: 5},
		"not a number":           {Loss: math.NaN()},
		"endless burst":          {Burst: Burst{Enter: 0.1, Loss: 1}},
		"jitter over delay":      {Jitter: time.Millisecond},
		"negative delay":         {Delay: -1},
		"rate in Mbit/s":         {Rate: 200},
		"queue without a rate":   {Queue: 1000},
		"reorder without delay":  {Reorder: 0.1},
		"MTU below that of IPv4": {MTU: 60},
	} {
		if p.validate() == nil {
			t.Errorf("%s: %+v is accepted", name, p)
		}
	}
	p := Profile{Delay: time.Second, Jitter: time.Second, Loss: 1, Burst: Bursts(0.5, 3), Rate: 1e9, Queue: 1000}
	if err := p.validate(); err != nil {
		t.Error(err)
	}
}
