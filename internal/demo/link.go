package demo

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A link carries the datagrams between one gateway and whoever dials the link's address, each delayed by half the round trip:
// an ocean in a process, without root.
type link struct {
	front *net.UDPConn   // peers dial this
	back  netip.AddrPort // the gateway behind it
	delay time.Duration  // one way

	mu      sync.Mutex
	callers map[netip.AddrPort]*net.UDPConn // one socket towards the gateway for each caller, as a NAT has
}

// maxCallers bounds the sockets of one link; the demo needs a handful.
const maxCallers = 64

// listenLink opens a link on a free loopback port to the gateway at back. Run must be called for it to carry anything.
func listenLink(back netip.AddrPort, roundTrip time.Duration) (*link, error) {
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	_ = front.SetReadBuffer(4 << 20) // a smaller buffer loses a few packets more; QUIC copes
	return &link{front: front, back: back, delay: roundTrip / 2, callers: map[netip.AddrPort]*net.UDPConn{}}, nil
}

func (l *link) address() string { return l.front.LocalAddr().String() }

// run carries datagrams until ctx ends, and returns after all its goroutines ended.
func (l *link) run(ctx context.Context) {
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		l.front.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.callers {
			c.Close()
		}
	})
	defer stop()
	towards := newDelayLine(l.delay)
	wg.Go(func() { towards.run(ctx) })
	buf := make([]byte, 64<<10)
	for {
		n, from, err := l.front.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			continue // an ICMP error of an earlier datagram; the socket is fine
		}
		conn := l.caller(ctx, from, &wg)
		if conn != nil {
			towards.add(buf[:n], func(b []byte) { _, _ = conn.Write(b) })
		}
	}
	wg.Wait()
}

// caller returns the socket that stands for from, opening it at the first datagram.
func (l *link) caller(ctx context.Context, from netip.AddrPort, wg *sync.WaitGroup) *net.UDPConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.callers[from]; c != nil || len(l.callers) >= maxCallers || ctx.Err() != nil {
		return c
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(l.back))
	if err != nil {
		return nil
	}
	_ = conn.SetReadBuffer(4 << 20)
	l.callers[from] = conn
	back := newDelayLine(l.delay)
	wg.Go(func() { back.run(ctx) })
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for ctx.Err() == nil {
			n, err := conn.Read(buf)
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				continue // the gateway is down: its port answers with ICMP until it is back
			}
			back.add(buf[:n], func(b []byte) { _, _ = l.front.WriteToUDPAddrPort(b, from) })
		}
	})
	return conn
}

// A delayLine delivers what is added, in order, after a fixed time.
type delayLine struct {
	delay time.Duration
	queue chan delayed
}

type delayed struct {
	due     time.Time
	payload []byte
	deliver func([]byte)
}

// queueLength is the packets in flight one way: 86 ms at about 50,000 packets a second. More are dropped, as a router would.
const queueLength = 4096

func newDelayLine(delay time.Duration) *delayLine {
	return &delayLine{delay: delay, queue: make(chan delayed, queueLength)}
}

func (d *delayLine) add(payload []byte, deliver func([]byte)) {
	select {
	case d.queue <- delayed{time.Now().Add(d.delay), append([]byte(nil), payload...), deliver}:
	default:
	}
}

func (d *delayLine) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-d.queue:
			if wait := time.Until(p.due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
			p.deliver(p.payload)
		}
	}
}
