package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Direction is one way through a link, or both.
type Direction uint8

// The directions.
const (
	AToB Direction = 1 << iota
	BToA
	Both = AToB | BToA
)

// Side is an end of a link.
type Side uint8

// The sides.
const (
	A Side = iota
	B
)

// An End is where a link begins: a device in a network namespace that exists.
type End struct {
	Namespace string         // as of ip netns
	Device    string         // the TUN to make; default eth0, as in any virtual machine
	Addresses []netip.Prefix // of the device; the other end gets routes to those that are in no network of its own
}

// Config says what a link joins, and how well.
type Config struct {
	A, B       End
	MTU        int // of both devices, in octets; default 1500, as on most paths between clouds
	AToB, BToA Profile
	Seed       uint64 // of all random choices; 0 is a seed like any other
}

// A Link joins two namespaces. All methods may be called from any goroutine.
type Link struct {
	mtu   int
	ends  [2]*device
	wake  int // eventfd that ends a sleep
	start time.Time

	mu     sync.Mutex // one caller at a time; never taken by the loop, which must not wait for a caller that has lost its processor
	phase  phase
	orders chan func() // of the caller, done by the loop between two packets
	ended  chan struct{}

	// What follows belongs to the loop while it runs.
	dirs [2]*lane
	nats [2]*nat
	free [][]byte
}

// A phase is what a Link does.
type phase uint8

const (
	made phase = iota
	running
	over
)

// A lane is one direction with what is on its way there.
type lane struct {
	*wire
	flight
	from, to *device
	leaving  *nat // of the side that sends
	entering *nat // of the side that receives
}

// maxFlight is how much memory the packets on their way in one direction may take, in octets: 2 Gbit/s for a second.
const maxFlight = 256 << 20

// New makes the devices, with addresses and routes, and needs root. Packets wait in them until Run.
func New(c Config) (*Link, error) {
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return nil, fmt.Errorf("make a link: MTU %d is not from %d to %d", c.MTU, minMTU, maxMTU)
	}
	if err := errors.Join(c.AToB.validate(), c.BToA.validate()); err != nil {
		return nil, fmt.Errorf("make a link: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("make a link: %w", ErrNotRoot)
	}
	l := &Link{mtu: c.MTU, wake: -1, start: time.Now(), nats: [2]*nat{newNAT(), newNAT()},
		orders: make(chan func(), 1), ended: make(chan struct{})}
	for i, end := range []End{c.A, c.B} {
		peer := []End{c.B, c.A}[i]
		if end.Device == "" {
			end.Device = "eth0"
		}
		d, err := open(end, c.MTU, peer.Addresses)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("make a link: %w", err)
		}
		l.ends[i] = d
	}
	var err error
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.Close()
		return nil, fmt.Errorf("make a link: %w", err)
	}
	l.dirs[0] = &lane{wire: newWire(c.AToB, c.Seed, 0), from: l.ends[A], to: l.ends[B], leaving: l.nats[A], entering: l.nats[B]}
	l.dirs[1] = &lane{wire: newWire(c.BToA, c.Seed, 1), from: l.ends[B], to: l.ends[A], leaving: l.nats[B], entering: l.nats[A]}
	return l, nil
}

// ErrNotRoot is returned by New to whoever may not make devices.
var ErrNotRoot = errors.New("network namespaces and TUN devices need root")

// Close removes the devices of a Link that is not run. Run does so itself at its end.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase == made {
		l.close()
	}
}

func (l *Link) close() {
	l.phase = over
	for _, d := range l.ends {
		if d != nil {
			d.close()
		}
	}
	if l.wake >= 0 {
		_ = unix.Close(l.wake)
		l.wake = -1
	}
}

// Set replaces the profile of a direction, or of both, for packets that enter from now on.
func (l *Link) Set(d Direction, p Profile) error {
	if err := p.validate(); err != nil {
		return fmt.Errorf("set the profile of a link: %w", err)
	}
	l.do(func() {
		for i, lane := range l.dirs {
			if d&(1<<i) != 0 {
				lane.change(l.now(), p)
			}
		}
	})
	return nil
}

// Profile returns that of one direction.
func (l *Link) Profile(d Direction) (p Profile) {
	l.do(func() {
		p = l.dirs[0].Profile
		if d == BToA {
			p = l.dirs[1].Profile
		}
	})
	return p
}

// Rebind makes the NAT before a side forget its UDP mappings: flows that began at that side go on from a new source port, and
// what is sent to their old one is dropped. Flows that began at the other side stay as they are.
func (l *Link) Rebind(s Side) {
	l.do(func() { l.nats[s&1].forget() })
}

// Stats returns the counters.
func (l *Link) Stats() (s Stats) {
	overruns := [2]uint64{l.ends[A].overruns(), l.ends[B].overruns()}
	l.do(func() {
		for i, lane := range l.dirs {
			lane.Counters.Queue = lane.waiting(l.now())
			lane.Overruns = max(lane.Overruns, overruns[i]) // 0 once the device is gone
		}
		s = Stats{AToB: l.dirs[0].Counters, BToA: l.dirs[1].Counters}
	})
	return s
}

// do has the loop do something, or does it when no loop runs, and returns when it is done.
func (l *Link) do(something func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase != running {
		something()
		return
	}
	done := make(chan struct{})
	l.orders <- func() { something(); close(done) }
	l.rouse()
	select {
	case <-done:
	case <-l.ended: // perhaps without having looked
		l.obey()
	}
}

// obey does what was ordered, if anything.
func (l *Link) obey() {
	select {
	case order := <-l.orders:
		order()
	default:
	}
}

func (l *Link) now() time.Duration { return time.Since(l.start) }

// Run carries packets until ctx ends, then removes the devices and returns nil. It returns an error when a device is removed by
// somebody else. A link runs once.
func (l *Link) Run(ctx context.Context) error {
	l.mu.Lock()
	if l.phase != made {
		l.mu.Unlock()
		return errors.New("run a link: it has run, or was closed")
	}
	l.phase = running
	l.mu.Unlock()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, with its priority, ends with the goroutine
		hurry()
		result <- l.carry(ctx)
	}()
	rouser, halt := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(rouser)
		select {
		case <-ctx.Done():
			l.rouse()
		case <-halt:
		}
	}()
	err := <-result
	close(halt)
	<-rouser
	close(l.ended)
	l.Stats() // keeps what only the devices know
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
	return err
}

// rouse ends a sleep of the loop, also one that it is about to begin.
func (l *Link) rouse() { _, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// hurry gives the thread the lowest real-time priority, so that a wire does not become slow because its ends are busy, and exact
// timers. Where that is refused the link works all the same, and Counters.Late shows what it costs.
func hurry() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1,
		Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0) // threads that the runtime starts from here stay ordinary
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}

// grain is the shortest sleep: shorter ones cost more of a processor than the packets themselves.
const grain = 50 * time.Microsecond

// carry is the loop: deliver what is due, fetch what was sent, sleep.
func (l *Link) carry(ctx context.Context) error {
	polled := []unix.PollFd{
		{Fd: int32(l.wake), Events: unix.POLLIN},
		{Fd: int32(l.ends[A].fd), Events: unix.POLLIN},
		{Fd: int32(l.ends[B].fd), Events: unix.POLLIN},
	}
	for ctx.Err() == nil {
		l.obey()
		fetched, more, err := l.round()
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if fetched { // there will be more soon: let some gather
			rest := unix.NsecToTimespec(int64(grain))
			_ = unix.Nanosleep(&rest, nil)
			continue
		}
		if _, err := unix.Ppoll(polled, l.sleep(), nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for packets: %w", err)
		}
		_, _ = unix.Read(l.wake, make([]byte, 8)) // resets it
	}
	return nil
}

// sleep is how long nothing is due; nil is for ever.
func (l *Link) sleep() *unix.Timespec {
	now := l.now()
	first := time.Duration(-1)
	for _, lane := range l.dirs {
		if due, any := lane.next(); any && (first < 0 || due < first) {
			first = due
		}
	}
	if first < 0 {
		return nil
	}
	rest := unix.NsecToTimespec(int64(max(first-now, grain)))
	return &rest
}

// batch is how many packets are fetched before those that are due go out: some 100 µs of work.
const batch = 64

// round delivers and fetches once, both ways. more is true when a device may have more packets right now.
func (l *Link) round() (fetched, more bool, err error) {
	for _, lane := range l.dirs {
		l.deliver(lane)
		n, err := l.fetch(lane)
		if err != nil {
			return false, false, err
		}
		fetched = fetched || n > 0
		more = more || n == batch
	}
	return fetched, more, nil
}

// fetch reads up to a batch of packets and decides about each.
func (l *Link) fetch(to *lane) (int, error) {
	for n := range batch {
		b := l.buffer()
		size, err := to.from.read(b)
		if err != nil || size == 0 {
			l.free = append(l.free, b)
			return n, err
		}
		l.take(to, b[:size])
	}
	return batch, nil
}

// take decides about a packet. It owns b.
func (l *Link) take(to *lane, b []byte) {
	p := parse(b)
	to.leaving.leave(b, p)
	v := to.pass(l.now(), len(b), p.protocol)
	switch {
	case v.fate != delivered:
		l.release(b)
	case len(to.heap)*l.mtu >= maxFlight:
		to.Overflow++
		l.release(b)
	default:
		to.push(v, b)
		if v.twice {
			to.push(v, append(l.buffer()[:0], b...))
		}
	}
}

// deliver hands over what is due.
func (l *Link) deliver(to *lane) {
	for {
		due, any := to.next()
		if !any {
			return
		}
		late := l.now() - due
		if late < 0 {
			return
		}
		to.Worst = max(to.Worst, late)
		if late > time.Millisecond {
			to.Late++
		}
		b := to.pop().data
		switch {
		case !to.entering.enter(b, parse(b)):
			to.Forgotten++
		case !to.to.write(b):
			to.Refused++
		default:
			to.Delivered++
			to.DeliveredOctets += uint64(len(b))
		}
		l.release(b)
	}
}

// buffer returns a buffer for any packet of the devices.
func (l *Link) buffer() []byte {
	if n := len(l.free); n > 0 {
		b := l.free[n-1]
		l.free = l.free[:n-1]
		return b
	}
	return make([]byte, l.mtu)
}

func (l *Link) release(b []byte) { l.free = append(l.free, b[:l.mtu]) }
