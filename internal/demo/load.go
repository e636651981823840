package demo

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A load sends requests at a fixed rate and keeps what became of each. A request is a GET, so it may be repeated: it is tried
// again until it succeeds or its deadline passes, and only then has it failed.
type load struct {
	url     string
	rate    int // requests a second
	timeout time.Duration

	mu      sync.Mutex
	answers []answer
}

// answer is the end of one request.
type answer struct {
	at      time.Time // when it ended
	server  server    // who answered; zero: nobody did
	retries int
}

// server is who answers a request.
type server struct{ region, machine string }

// tally sums up the answers since a moment.
type tally struct {
	requests, failed, retried int
	regions                   map[string]int
	machines                  map[server]int
}

// step returns a step of the story that the tally is of.
func (t tally) step(name string, ok bool, detail string) Step {
	return Step{Name: name, OK: ok, Requests: t.requests, Failed: t.failed, Retried: t.retried, Detail: detail}
}

// run sends requests until ctx ends, at most rate*timeout at once, and returns after the last one ended.
func (l *load) run(ctx context.Context) {
	client := &http.Client{Transport: &http.Transport{
		DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		DisableKeepAlives: true, // a connection is balanced when it is made: each request makes one, so that each shows where traffic goes now
	}}
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / time.Duration(l.rate))
	defer tick.Stop()
	slots := make(chan struct{}, 256)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				if a := l.request(ctx, client); ctx.Err() == nil { // what the end of the demo interrupts says nothing
					l.record(a)
				}
				<-slots
			})
		default: // all slots wait for an answer: the service is down, and more requests would not tell more
		}
	}
}

func (l *load) request(ctx context.Context, client *http.Client) answer {
	begin := time.Now()
	deadline, cancel := context.WithDeadline(ctx, begin.Add(l.timeout))
	defer cancel()
	a := answer{}
	for {
		by, err := l.once(deadline, client)
		a.at = time.Now()
		if err == nil {
			a.server = by
			return a
		}
		if deadline.Err() != nil {
			return a
		}
		a.retries++
		pause := time.NewTimer(10 * time.Millisecond) // a refused connection costs nothing; ask again soon, not in a spin
		select {
		case <-deadline.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// once sends the request one time and returns who answered.
func (l *load) once(ctx context.Context, client *http.Client) (server, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return server{}, err
	}
	res, err := client.Do(req)
	if err != nil {
		return server{}, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)); err != nil {
		return server{}, err
	}
	if res.StatusCode != http.StatusOK {
		return server{}, errStatus(res.StatusCode)
	}
	return server{res.Header.Get(regionHeader), res.Header.Get(machineHeader)}, nil
}

type errStatus int

func (e errStatus) Error() string { return http.StatusText(int(e)) }

func (l *load) record(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = append(l.answers, a)
}

// since sums up the requests that ended at or after from.
func (l *load) since(from time.Time) tally { return l.between(from, time.Time{}) }

// between sums up the requests that ended at or after from and, unless that is zero, before to.
func (l *load) between(from, to time.Time) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := newTally()
	for i := len(l.answers) - 1; i >= 0 && !l.answers[i].at.Before(from); i-- {
		if to.IsZero() || l.answers[i].at.Before(to) {
			t.count(l.answers[i])
		}
	}
	return t
}

func newTally() tally { return tally{regions: map[string]int{}, machines: map[server]int{}} }

func (t *tally) count(a answer) {
	t.requests++
	if a.retries > 0 {
		t.retried++
	}
	if a.server.region == "" {
		t.failed++
		return
	}
	t.regions[a.server.region]++
	t.machines[a.server]++
}

// add counts what other has counted.
func (t *tally) add(other tally) {
	t.requests += other.requests
	t.failed += other.failed
	t.retried += other.retried
	for r, n := range other.regions {
		t.regions[r] += n
	}
	for m, n := range other.machines {
		t.machines[m] += n
	}
}

// sample sends n requests beside the others, at most width at once, on connections that stay open. The gateway balances each request by
// itself.
func (l *load) sample(ctx context.Context, n, width int) tally {
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: width}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var (
		mu   sync.Mutex
		t    = newTally()
		wg   sync.WaitGroup
		left atomic.Int64
	)
	left.Store(int64(n))
	for range width {
		wg.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				a := l.request(ctx, client)
				mu.Lock()
				t.count(a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return t
}

// first returns when the first request after from was answered by somebody who is wanted, and whether one was.
func (l *load) first(from time.Time, wanted func(server) bool) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.answers {
		if a.at.After(from) && wanted(a.server) {
			return a.at, true
		}
	}
	return time.Time{}, false
}

// last returns when somebody who is wanted answered a request for the last time after from, or from, and how many others have answered
// since.
func (l *load) last(from time.Time, wanted func(server) bool) (at time.Time, since int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.answers) - 1; i >= 0 && l.answers[i].at.After(from); i-- {
		if wanted(l.answers[i].server) {
			return l.answers[i].at, since
		}
		since++
	}
	return from, since
}
