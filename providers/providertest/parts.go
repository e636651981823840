package providertest

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

var (
	web  = federation.ServiceName{Namespace: federation.DefaultNamespace, Name: "web"}
	cart = federation.ServiceName{Namespace: "shop", Name: "cart"}
)

// world returns the instances first to last of service.
func world(service federation.ServiceName, first, last int) []federation.Instance {
	var set []federation.Instance
	for i := first; i <= last; i++ {
		set = append(set, federation.Instance{ID: federation.InstanceID(service.Name + "-" + strconv.Itoa(i)), Service: service,
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 8080), Health: federation.HealthPassing})
	}
	return set
}

func completeSets(t *testing.T, r *rig) {
	worlds := [][]federation.Instance{
		slices.Concat(world(web, 1, 3), world(cart, 10, 12)),
		slices.Concat(world(web, 2, 3), world(cart, 10, 13)),
		world(cart, 10, 10),
		slices.Concat(world(web, 1, 120), world(cart, 130, 250)), // more than the page of most cloud APIs
		slices.Concat(world(web, 1, 1), world(cart, 10, 10)),
	}
	moved := world(web, 1, 1)
	moved[0].Address = netip.MustParseAddrPort("192.0.2.77:9090")
	worlds = append(worlds, slices.Concat(moved, world(cart, 10, 10)))
	r.Set(t, worlds[0])
	defer r.start(t)()
	r.await(t, worlds[0])
	for i, next := range worlds[1:] {
		r.Set(t, next)
		r.await(t, next, worlds[i])
	}
}

func emptyWorld(t *testing.T, r *rig) {
	r.Set(t, nil)
	defer r.start(t)()
	r.await(t, nil)
	r.Set(t, world(web, 1, 2))
	r.await(t, world(web, 1, 2), nil)
	r.Set(t, nil)
	r.await(t, nil, world(web, 1, 2))
}

func failure(t *testing.T, r *rig) {
	if r.Break == nil {
		t.Skip("this source has no failure of its outside world")
	}
	before := slices.Concat(world(web, 1, 3), world(cart, 10, 12))
	r.Set(t, before)
	defer r.start(t)()
	r.await(t, before)
	r.Break(t)
	r.listen(t, before)
	after := world(web, 2, 5)
	r.Set(t, after)
	r.listen(t, before, after) // some worlds mend themselves when they are set
	r.Repair(t)
	r.await(t, after, before)
}

func failureAtStart(t *testing.T, r *rig) {
	if r.Break == nil {
		t.Skip("this source has no failure of its outside world")
	}
	r.Set(t, world(web, 1, 3))
	r.Break(t)
	defer r.start(t)()
	r.listen(t) // above all no empty set
	r.Repair(t)
	r.await(t, world(web, 1, 3))
}

// listen checks for a while that nothing but the allowed sets is published.
func (r *rig) listen(t *testing.T, allowed ...[]federation.Instance) {
	t.Helper()
	over := time.After(r.Quiet)
	for {
		r.check(t, allowed...)
		select {
		case <-r.news:
		case <-over:
			return
		}
	}
}

func stops(t *testing.T, r *rig) {
	r.Set(t, world(web, 1, 3))
	for range 3 {
		before := r.count()
		stop := r.start(t)
		deadline := time.After(r.Within)
		for r.count() == before {
			select {
			case <-r.news:
			case <-deadline:
				t.Fatal("a source that is run again publishes nothing")
			}
		}
		r.await(t, world(web, 1, 3))
		stop()
	}
	stop := r.start(t)
	stop() // at once, in whatever state it is
}

func immutable(t *testing.T, r *rig) {
	first, second := world(web, 1, 5), world(web, 3, 9)
	r.Set(t, first)
	defer r.start(t)()
	r.await(t, first)
	r.mu.Lock()
	held := r.sets[len(r.sets)-1]
	before := full(held)
	r.mu.Unlock()
	r.Set(t, second)
	r.await(t, second, first)
	if after := full(held); after != before {
		t.Errorf("a published set was changed afterwards:\n%s\nbecame\n%s", before, after)
	}
}
