package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

const (
	joinEvery  = time.Minute      // a gateway that was replaced is found before its neighbours are overloaded; one API call a minute
	joinFirst  = 5 * time.Second  // after a failure, and then twice as long each time
	joinMost   = 5 * time.Minute  // an API that throttles recovers sooner when it is left alone
	joinWithin = 30 * time.Second // for one entry
	joinTick   = 2 * time.Second  // between looks at the peering itself: a session that ends has the addresses looked up
)

// joinKinds are the clouds of go-discover's providers.
var joinKinds = map[string]string{"aws": "aws", "gce": "gcp", "azure": "azure"}

// addressType is addr_type in our words: go-discover calls the one kind of IPv6 address that there is public.
func addressType(words map[string]string) string {
	if t := words["addr_type"]; t != "public_v6" {
		return t
	}
	return "private_v6"
}

// finder is one entry of retry_join.
type finder struct {
	text string
	find func(ctx context.Context) ([]string, error) // "host:port", sorted
}

func newFinder(j config.Join) (finder, error) {
	if j.Address != "" {
		// A name is looked up with each dial, so nothing here has to follow it.
		return finder{j.Text, func(context.Context) ([]string, error) { return []string{j.Address}, nil }}, nil
	}
	kind := joinKinds[j.Words["provider"]]
	c, err := cloudOf(kind, fmt.Sprintf("retry_join %q", j.Text))
	if err != nil {
		return finder{}, err
	}
	return finder{j.Text, func(ctx context.Context) ([]string, error) {
		found, err := c.addresses(ctx, j.Words)
		out := make([]string, 0, len(found))
		for _, a := range found {
			out = append(out, net.JoinHostPort(a.String(), j.Port))
		}
		return out, err
	}}, nil
}

// checkJoins returns why the addresses of wanted cannot be looked up by this gateway.
func (a *Agent) checkJoins(wanted []config.Peer) error {
	_, err := newFinders(wanted)
	return err
}

func newFinders(wanted []config.Peer) (map[federation.Region][]finder, error) {
	out := map[federation.Region][]finder{}
	var errs []error
	for _, p := range wanted {
		for _, j := range p.RetryJoin {
			f, err := newFinder(j)
			errs = append(errs, err)
			out[p.Region] = append(out[p.Region], f)
		}
	}
	return out, errors.Join(errs...)
}

// joins are the peers whose addresses are looked up. Only the watcher of the configuration touches it, but for problems.
type joins struct {
	running map[federation.Region]*joiner
	all     atomic.Pointer[[]*joiner] // what runs, for those who look
}

// adopt makes what runs equal to wanted, which checkJoins has accepted.
func (j *joins) adopt(ctx context.Context, a *Agent, group *sync.WaitGroup, wanted []config.Peer) {
	finders, err := newFinders(wanted)
	if err != nil {
		a.log.Error("adopt peers", "error", err)
		return
	}
	next := map[federation.Region]*joiner{}
	for _, p := range wanted {
		old := j.running[p.Region]
		if old != nil && reflect.DeepEqual(old.entries, p.RetryJoin) {
			next[p.Region] = old
			continue
		}
		inner, stop := context.WithCancel(ctx)
		n := &joiner{peer: p.Region, entries: p.RetryJoin, finders: finders[p.Region], stop: stop, peerings: a.peers, log: a.room("join"),
			last: make([][]string, len(p.RetryJoin)), previous: make(chan struct{})}
		if close(n.previous); old != nil { // two writers of one peer's addresses would undo each other's work
			n.previous = old.ended
		}
		n.ended = make(chan struct{})
		next[p.Region] = n
		group.Go(func() { n.run(inner) })
	}
	for region, old := range j.running {
		if next[region] != old {
			old.stop()
		}
	}
	j.running = next
	list := make([]*joiner, 0, len(next))
	for _, n := range next {
		list = append(list, n)
	}
	slices.SortFunc(list, func(x, y *joiner) int { return cmp.Compare(x.peer, y.peer) })
	j.all.Store(&list)
}

// peerings is what a joiner needs of the peering manager.
type peerings interface {
	Show(region federation.Region) (peering.PeeringStatus, error)
	SetAddresses(ctx context.Context, region federation.Region, addresses []string) error
}

// joiner keeps the addresses of one peer's gateways as they are found.
type joiner struct {
	peer     federation.Region
	entries  []config.Join
	finders  []finder
	last     [][]string // what each has found last
	stop     func()
	previous chan struct{} // closed when the one before has ended
	ended    chan struct{}
	peerings peerings
	log      *slog.Logger
	problem  atomic.Pointer[federation.Diagnostic]
}

// run looks the addresses up until ctx ends. Without a peering nobody is asked.
func (j *joiner) run(ctx context.Context) {
	defer close(j.ended)
	<-j.previous
	tick := time.NewTicker(joinTick)
	defer tick.Stop()
	var next time.Time // to look, but sooner when there is no session
	var last time.Time
	failures, down := 0, 0
	for {
		s, err := j.peerings.Show(j.peer)
		now := time.Now()
		if s.Session.Up {
			down = 0
		} else if soon := last.Add(doubled(joinFirst, down, joinEvery)); failures == 0 && soon.Before(next) {
			next = soon
		}
		if err == nil && s.TrustDomain != "" && s.State != federation.PeeringTerminated && !now.Before(next) {
			err := j.look(ctx, s.Gateways)
			if ctx.Err() != nil {
				return
			}
			j.note(err)
			wait := joinEvery
			if failures++; err == nil {
				failures = 0
			} else {
				wait = doubled(joinFirst, failures-1, joinMost)
			}
			last, down = time.Now(), down+1
			next = last.Add(wait + rand.N(wait/5)) // gateways that started together must not ask together for ever
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// doubled is d, doubled so many times, or most.
func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	return min(d<<min(times, 10), most)
}

// look asks every entry and puts what they found in force. Absence is no deletion: while an entry fails, all that is known stays
// behind what is found, and when nobody is found nothing changes.
func (j *joiner) look(ctx context.Context, known []string) error {
	var errs []error
	for i, f := range j.finders {
		inner, cancel := context.WithTimeout(ctx, joinWithin)
		found, err := f.find(inner)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", f.text, err))
			continue
		}
		j.last[i] = found
	}
	var all []string
	add := func(list []string) {
		for _, a := range list {
			if err := peering.CheckAddress(a); err != nil {
				errs = append(errs, err)
			} else if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	for _, found := range j.last {
		add(found)
	}
	switch {
	case len(errs) > 0:
		add(known)
	case len(all) == 0:
		errs = append(errs, errors.New("no gateway is found; the addresses known before stay in use"))
	}
	if len(all) == 0 {
		return errors.Join(errs...)
	}
	if more := len(all) - peering.MaxAddresses; more > 0 {
		errs = append(errs, fmt.Errorf("there are %d addresses; the last %d are not used", len(all), more))
		all = all[:peering.MaxAddresses]
	}
	return errors.Join(append(errs, j.peerings.SetAddresses(ctx, j.peer, all))...)
}

// note keeps what is wrong for whoever looks, and logs it when it is new.
func (j *joiner) note(err error) {
	if err == nil {
		if j.problem.Swap(nil) != nil {
			j.log.Info("gateway addresses are found again", "peer", string(j.peer))
		}
		return
	}
	d := &federation.Diagnostic{Code: federation.CodeJoinLookup, What: fmt.Sprintf("the gateways of %s cannot all be looked up", j.peer),
		Why: err.Error(), Fix: fmt.Sprintf("correct retry_join of peer %q in gateway.hcl, or the permissions of this gateway", j.peer), Err: err}
	if old := j.problem.Swap(d); old == nil || old.Why != d.Why {
		j.log.Warn("gateway addresses not looked up", "peer", string(j.peer), "code", string(d.Code), "reason", d.Why)
	}
}

// problems are the diagnoses of what runs.
func (j *joins) problems() map[federation.Region]*federation.Diagnostic {
	out := map[federation.Region]*federation.Diagnostic{}
	if list := j.all.Load(); list != nil {
		for _, one := range *list {
			out[one.peer] = one.problem.Load()
		}
	}
	return out
}
