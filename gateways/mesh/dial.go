package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"syscall"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

// maxDials is how many instances of a service one connection tries in one region. Five that refuse in a row are an outage,
// and then another region, or the caller's own retry, serves better.
const maxDials = 5

// errNoInstance says that a service has no instance that may be picked.
var errNoInstance = errors.New("no healthy instance")

// poolEntry is a pool with what it was made of.
type poolEntry struct {
	target  route.LocalTarget
	outlier federation.Outlier
	balance federation.Balance
	subsets uintptr // which map of the resolver they were made of: resources are replaced, not changed
	pool    *balance.Pool
}

// pool returns the pool of target. It is made anew when the membership or the settings have changed since the last call.
func (m *Mesh) pool(snap *route.Snapshot, target route.LocalTarget) *balance.Pool {
	resolver := m.resolver(snap, target.Name())
	made := poolEntry{target: target, outlier: resolver.Outlier, balance: resolver.Balance, subsets: reflect.ValueOf(resolver.Subsets).Pointer()}
	if e, found := m.pools.Load(target.Name()); found {
		old := *e.(*poolEntry)
		pool := old.pool
		if old.pool = nil; old == made {
			return pool
		}
	}
	members := make([]balance.Member, target.Len())
	for i := range members {
		instance := target.Instance(i)
		e := balance.Endpoint{Instance: instance.ID, Address: instance.Address}
		members[i] = balance.Member{Endpoint: e, Weight: uint16(target.Weight(i)), Name: endpointName(e)}
	}
	entry := made // made itself is not to be on the heap
	entry.pool = m.cfg.Balance.Bind(balance.Target{
		Snapshot: snap.Number(), Service: target.Name(), Members: members, Lane: target.Lane(), Outlier: resolver.Outlier,
		Balance: resolver.Balance, Subsets: subsets(resolver, target),
	})
	m.pools.Store(target.Name(), &entry)
	return entry.pool
}

// subsets returns the instances of each subset of r.
func subsets(r *federation.Resolver, target route.LocalTarget) map[string][]int {
	if len(r.Subsets) == 0 {
		return nil
	}
	of := make(map[string][]int, len(r.Subsets))
	for name, subset := range r.Subsets {
		of[name] = []int{}
		for i := range target.Len() {
			if subset.Holds(target.Instance(i).Labels) {
				of[name] = append(of[name], i)
			}
		}
	}
	return of
}

// errFull says that a service has as many connections as its resolver allows.
var errFull = errors.New("the service has as many connections as its resolver allows")

// full reports whether another connection would be more than limit; 0 is no limit.
func full(pool *balance.Pool, limit int) bool {
	if limit <= 0 {
		return false
	}
	open := int64(0)
	for _, s := range pool.Status() {
		open += s.InFlight
	}
	return open >= int64(limit)
}

// resolver returns the settings of service, defaults filled in. They are not to be changed.
func (m *Mesh) resolver(snap *route.Snapshot, service federation.ServiceName) *federation.Resolver {
	if u, found := snap.Upstream(federation.ServiceRef{Service: service}); found {
		return &u.Resolver
	}
	r := federation.Resolver{}.Defaulted()
	return &r
}

// dialing is an attempt to connect one of a service's instances.
type dialing struct {
	conn     *conn
	service  federation.ServiceName
	pool     *balance.Pool
	modes    []balance.Mode // in the order they are gone through
	timeout  time.Duration  // of each instance
	deadline time.Time      // of all
	limit    int            // connections of the service; 0: any number
	rec      *record        // counts the attempts
	failed   func()         // is told of each that refused; nil: nobody

	proxy  federation.ProxyVersion // what the instance is told first; empty: nothing
	client netip.AddrPort          // of whom; zero: unknown
}

// The ways to pick: first only what is good, in need what is there.
var (
	onlyUsable = []balance.Mode{balance.Usable}
	inPanic    = []balance.Mode{balance.Suspect, balance.Any}
	whenAsked  = []balance.Mode{balance.Usable, balance.Suspect} // a peer has chosen this region: its health decides, suspicion does not
)

// dial connects one instance and returns it with the lease that counts the connection. It tries others while they refuse,
// and returns errNoInstance when there was none to try, else the last refusal.
func (m *Mesh) dial(d dialing) (callerConn, balance.Lease, error) {
	if full(d.pool, d.limit) {
		return nil, balance.Lease{}, errFull
	}
	var tried [maxDials]int
	n, mode := 0, 0
	err := errNoInstance
	for n < maxDials && mode < len(d.modes) && spent(d.conn, d.deadline) == nil {
		lease, ok := d.pool.Pick(tried[:n], d.modes[mode])
		if !ok {
			mode++
			continue
		}
		endpoint, start := lease.Endpoint(), time.Now()
		until := earlier(start.Add(d.timeout), d.deadline)
		d.rec.attempt()
		c, failure := m.reach(d.conn, endpoint, until)
		if failure == nil && d.proxy != "" {
			failure = introduce(c, d.proxy, d.client, endpoint.Address, until)
		}
		if failure == nil {
			lease.Connected(time.Since(start))
			return c, lease, nil
		}
		if over := spent(d.conn, d.deadline); over != nil { // given up here, not by the instance
			lease.Done(balance.Abandoned)
			return nil, balance.Lease{}, over
		}
		tried[n], err = lease.Index(), failure
		n++
		if d.failed != nil {
			d.failed()
		}
		if exhausted(failure) { // this host is at fault: a healthy instance must not be ejected for it
			lease.Done(balance.Abandoned)
			continue
		}
		lease.Done(balance.Unreached)
		if m.cfg.ReportFailure != nil {
			m.cfg.ReportFailure(d.service, endpoint.Instance)
		}
	}
	return nil, balance.Lease{}, err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// reach opens a connection to e for c, whose address must be one that a catalog may name.
func (m *Mesh) reach(c *conn, e balance.Endpoint, deadline time.Time) (callerConn, error) {
	if err := federation.CheckAddress(e.Address.Addr()); err != nil {
		return nil, fmt.Errorf("connect instance %q: %w", e.Instance, err)
	}
	ctx, stop := context.WithDeadline(context.Background(), deadline)
	defer stop()
	c.waits(stop)
	to, err := m.dialer(ctx, e.Address)
	if err != nil {
		return nil, fmt.Errorf("connect instance %q: %w", e.Instance, err)
	}
	return to, nil
}

// dialTCP is how instances are connected, but for tests. Not DialTCP of net: it binds the local port before the kernel knows where to, so
// that a port serves one connection and not one for each instance.
func dialTCP(ctx context.Context, to netip.AddrPort) (callerConn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// exhausted reports whether a connection failed for want of something on this host: file descriptors, memory, or a local port
// for one more connection to the same instance.
func exhausted(err error) bool {
	if errors.Is(err, errFull) {
		return true
	}
	for _, scarce := range [...]error{syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN} {
		if errors.Is(err, scarce) {
			return true
		}
	}
	return false
}

// fared says what a finished connection tells about the instance, which was side b of the splice.
func fared(r splice.Result) balance.Result {
	switch {
	case r.BtoA > 0, r.Cause == splice.Closed:
		return balance.Answered
	case r.Side == splice.B && (r.Cause == splice.Reset || r.Cause == splice.Failed):
		return balance.Unanswered
	}
	return balance.Abandoned
}
