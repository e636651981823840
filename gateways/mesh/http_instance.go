package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// errUnreached says that no instance has been given the request.
var errUnreached = errors.New("no instance could be reached")

// ask is the search for an instance of this region for one request. Instances that failed are not asked again.
type ask struct {
	mesh     *Mesh
	conn     *conn
	rec      *record
	service  federation.ServiceName
	pool     *balance.Pool
	modes    []balance.Mode // in the order they are gone through
	timeout  time.Duration  // to connect one instance
	deadline time.Time      // to find one
	two      bool
	key      uint64 // of the affinity; 0: none
	leave    func() // of the limits of the service; nil: not asked yet
	resolver *federation.Resolver
	load     *limit.Adaptive
	detour   bool // meant for another region, which cannot take it
	urgency  int
	picked   *atomic.Int64 // is told one more than the index of the instance that is asked; nil: nobody wants to know

	caller [1]http1.Field // what the instance is told

	tried  [maxDials]int
	n      int
	mode   int
	failed uint64 // key of the last instance that broke off
	err    error  // of the last instance that was not reached
}

// try sends r to the next instance that can be reached, and returns its answer. The error is errNoInstance when there is none left to ask,
// wrapped with errUnreached when all were dead. way.Ends is of the conn of a.
func (a *ask) try(r *http.Request, way l7.Way) (conveyed, error) {
	if !a.load.Admit(limit.Share(a.urgency, a.detour), a.mesh.sinceStart()) {
		return conveyed{}, errCrowded
	}
	var took time.Duration
	result := limit.Ignored
	defer func() { a.load.End(took, result, a.mesh.sinceStart()) }()
	for fresh := false; a.n < maxDials && a.mode < len(a.modes) && spent(a.conn, a.deadline) == nil; {
		lease, ok := a.pick()
		if !ok {
			a.mode++
			continue
		}
		k, err := a.client(lease, fresh)
		if err != nil {
			a.unreached(lease, err)
			continue
		}
		a.rec.endpoint = lease.Name()
		sent := a.conn.withheld(r)
		a.caller[0] = http1.Field{Name: headerCaller, Value: a.conn.source.String()}
		way.Fields = a.caller[:]
		if a.picked != nil {
			a.picked.Store(int64(lease.Index()) + 1)
		}
		begin := time.Now()
		res, err := k.Do(sent, way)
		took = time.Since(begin)
		result = loadOf(sent, res, err)
		if err == nil {
			lease.Connected(took)
			l7.StripReserved(res.Header)
			return conveyed{res: res, done: func(answered bool) {
				a.conn.waits(nil)
				lease.Done(verdictOf(answered, res.StatusCode))
			}}, nil
		}
		a.conn.waits(nil)
		if a.conn.isOver() || r.Context().Err() != nil {
			lease.Done(balance.Abandoned)
			return conveyed{}, err
		}
		if k.Reused() && !fresh && resendable(r, err) && a.mesh.burdenOf(a.service).budget.Retry(a.resolver.RetryBudget, a.mesh.sinceStart()) {
			lease.Done(balance.Abandoned) // it had closed the connection while that was idle: no fault of it, as a rule
			fresh = true
			continue
		}
		a.tried[a.n] = lease.Index()
		a.n++
		a.failed = lease.Key()
		lease.Done(balance.Unanswered)
		return conveyed{}, fmt.Errorf("instance %q: %w", lease.Endpoint().Instance, err)
	}
	if a.err != nil {
		err := a.err
		a.err = nil
		return conveyed{}, fmt.Errorf("%w: %w", errUnreached, err)
	}
	return conveyed{}, errNoInstance
}

// avoid has the instance whose key is failed asked only if there is no other.
func (a *ask) avoid(failed uint64) {
	if i, found := a.pool.Index(failed); found && failed != 0 {
		a.tried[0], a.n = i, 1
	}
}

// pick chooses the next instance.
func (a *ask) pick() (balance.Lease, bool) {
	if a.key != 0 {
		return a.pool.PickFor(a.key, a.tried[:a.n], a.modes[a.mode])
	}
	return a.pool.Pick(a.tried[:a.n], a.modes[a.mode])
}

// enter asks the limits of the service, once, and chooses subset. The error is a *limitError, or errNoInstance when there is no such
// subset here.
func (a *ask) enter(subset string) error {
	pool, found := a.pool.Subset(subset)
	if !found {
		return fmt.Errorf("subset %q: %w", subset, errNoInstance)
	}
	a.pool = pool
	var err error
	a.leave, err = a.mesh.admit(a.conn, a.resolver, a.deadline)
	return err
}

func verdictOf(answered bool, status int) balance.Result {
	switch {
	case !answered:
		return balance.Unanswered
	case status >= http.StatusInternalServerError:
		return balance.ServerError
	}
	return balance.Answered
}

// client returns a connection to the instance of lease, a used one if there is one and it need not be fresh.
func (a *ask) client(lease balance.Lease, fresh bool) (*l7.Client, error) {
	endpoint := lease.Endpoint()
	key := instanceKey{endpoint, a.two}
	if !fresh {
		if k := a.mesh.http.pool.Get(key); k != nil {
			return k, nil
		}
	}
	c, err := a.mesh.reach(a.conn, endpoint, earlier(time.Now().Add(a.timeout), a.deadline))
	a.conn.waits(nil)
	if err != nil {
		return nil, err
	}
	return a.mesh.http.pool.Add(key, c, a.two)
}

// unreached notes that the instance of lease could not be connected.
func (a *ask) unreached(lease balance.Lease, err error) {
	a.err = err
	a.rec.retries++
	a.tried[a.n] = lease.Index()
	a.n++
	if exhausted(err) || spent(a.conn, a.deadline) != nil { // not the instance's fault
		lease.Done(balance.Abandoned)
		return
	}
	instance := lease.Endpoint().Instance
	lease.Done(balance.Unreached)
	if a.mesh.cfg.ReportFailure != nil {
		a.mesh.cfg.ReportFailure(a.service, instance)
	}
}

func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
