package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/link"
	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// flood sends from a to the given port of b, at up to a given rate in bit/s of IP, until the test is done with it.
func (s site) flood(ctx context.Context, conn net.Conn, rate float64) {
	const every, size = 2 * time.Millisecond, 1472
	tick := time.NewTicker(every)
	defer tick.Stop()
	payload := make([]byte, size)
	begin, sent := time.Now(), 0.0
	for {
		for sent < rate/8*time.Since(begin).Seconds() {
			if _, err := conn.Write(payload); err != nil {
				return
			}
			sent += size + headers
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// throughput is what counter counts in half a second, in bit/s, after as long to get going.
func throughput(counter *atomic.Int64) float64 {
	const half = 500 * time.Millisecond
	<-time.After(half)
	from, begin := counter.Load(), time.Now()
	<-time.After(2 * half)
	return float64(counter.Load()-from) * 8 / time.Since(begin).Seconds()
}

// count adds the octets that r has, and perhaps some for the headers of each read, to counter.
func count(r io.Reader, counter *atomic.Int64, headers int64) {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if err != nil {
			return
		}
		counter.Add(int64(n) + headers)
	}
}

// within checks that one of five measurements is within 5 % of want. On a busy machine the counting goroutine may be kept from what
// has arrived, which makes one measurement low and the next one high; that no window carries more is shown under exact time.
func within(t *testing.T, want float64, measure func() float64) {
	t.Helper()
	for range 5 {
		got := measure()
		t.Logf("%.2f Mbit/s of %.2f", got/1e6, want/1e6)
		if math.Abs(got/want-1) <= 0.05 {
			return
		}
	}
	t.Errorf("not what was set, five times")
}

// rateUDP has a queue of 300 ms, so that a sender that is kept waiting by others on the machine does not leave the wire idle.
func (s site) rateUDP(t *testing.T) {
	const rate, queue = 8e6, 300e3
	s.set(t, link.AToB, link.Profile{Rate: rate, Queue: queue})
	sink, err := s.b.ListenPacket(t.Context(), "udp", s.b.Address+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var counter atomic.Int64
	_ = sink.(*net.UDPConn).SetReadBuffer(4 << 20)
	go count(sink.(*net.UDPConn), &counter, headers)
	go s.flood(t.Context(), s.dial(t, "udp", "9"), 2*rate)
	within(t, rate, func() float64 { return throughput(&counter) })
	if c := s.l.Stats().AToB; c.QueueFull == 0 || c.QueueMax > queue {
		t.Errorf("the queue dropped %d packets and held at most %d octets; want more than none, and %v", c.QueueFull, c.QueueMax, queue)
	}
}

func (s site) rateTCP(t *testing.T) {
	const rate = 20e6
	s.set(t, link.AToB, link.Profile{Rate: rate, Delay: 5 * time.Millisecond})
	s.set(t, link.BToA, link.Profile{Delay: 5 * time.Millisecond})
	streams, err := s.b.Listen(t.Context(), "tcp", s.b.Address+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	var counter atomic.Int64
	go func() {
		conn, err := streams.Accept()
		if err == nil {
			defer conn.Close()
			count(conn, &counter, 0)
		}
	}()
	conn := s.dial(t, "tcp", "9")
	_ = conn.(*net.TCPConn).SetLinger(0) // what was not sent yet must not meet the next test
	go func() { _, _ = io.Copy(conn, zeros{}) }()
	within(t, rate*1448/1500, func() float64 { return throughput(&counter) }) // headers of IP and TCP with time stamps: 52 octets
	conn.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (s site) loss(t *testing.T) {
	const n, p = 5000, 0.05
	s.set(t, link.AToB, link.Profile{Loss: p})
	sink, err := s.b.ListenPacket(t.Context(), "udp", s.b.Address+":10")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	_ = sink.(*net.UDPConn).SetReadBuffer(4 << 20)
	before := s.l.Stats().AToB
	conn := s.dial(t, "udp", "10")
	for range n {
		if _, err := conn.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	world.Until(t, 10*time.Second, "all packets to enter", func() error {
		if c := s.l.Stats().AToB; c.Packets+c.Overruns < before.Packets+before.Overruns+n {
			return errors.New("some have not")
		}
		return nil
	})
	s.set(t, link.AToB, link.Profile{})
	received, last := 0, []byte("last")
	world.Until(t, 10*time.Second, "the last packet", func() error { // it may meet a full buffer
		_, _ = conn.Write(last)
		_ = sink.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 100)
		for {
			size, _, err := sink.ReadFrom(buf)
			if err != nil || bytes.Equal(buf[:size], last) {
				return err
			}
			received++
		}
	})
	after := s.l.Stats().AToB
	lost := int(after.Lost - before.Lost)
	if limit := 4.5 * math.Sqrt(n*p*(1-p)); math.Abs(float64(lost)-n*p) > limit {
		t.Errorf("%d of %d packets were lost, want %v ± %.0f", lost, n, n*p, limit)
	}
	if overrun := int(after.Overruns - before.Overruns); received+lost+overrun != n {
		t.Errorf("%d sent, %d lost, %d lost by the kernel, %d received", n, lost, overrun, received)
	}
}
