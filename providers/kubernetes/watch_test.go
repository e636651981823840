package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

// told is what a watch has told.
type told struct {
	changed chan struct{}
	ended   chan error

	mu   sync.Mutex
	last *poll.Listing
	sins []string
}

func watching(t *testing.T, d *live) *told {
	l, w := lister(t, Config{Clusters: []Cluster{serve(t, d)}}), &told{changed: make(chan struct{}, 1), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		w.ended <- l.Watch(ctx, prod, nil, func(l poll.Listing) {
			w.mu.Lock()
			w.last = &l
			if l.Partial == nil && len(l.Records) == 0 {
				w.sins = append(w.sins, "a complete listing of nothing")
			}
			w.mu.Unlock()
			select {
			case w.changed <- struct{}{}:
			default:
			}
		})
		close(w.ended)
	}()
	t.Cleanup(func() {
		cancel()
		if err, open := <-w.ended; open && err != nil {
			t.Errorf("the watch ended: %v", err)
		}
		for _, s := range w.sins {
			t.Error("the watch told", s)
		}
	})
	return w
}

func (w *told) until(t *testing.T, what string, is func(poll.Listing) bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		w.mu.Lock()
		last := w.last
		w.mu.Unlock()
		if last != nil && is(*last) {
			return
		}
		select {
		case <-w.changed:
		case <-limit:
			t.Fatalf("no listing with %s was told; the last one is %+v", what, last)
		}
	}
}

func count(n int) func(poll.Listing) bool {
	return func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == n }
}

// web is an API server with one Service and one endpoint.
func web() *live {
	d := newLive()
	d.put("services", svc("default", "web", nil))
	d.put("endpointslices", pod(1, nil))
	return d
}

func TestWatch(t *testing.T) {
	d := web()
	w := watching(t, d)
	w.until(t, "one endpoint", count(1))
	d.put("endpointslices", pod(2, nil))
	w.until(t, "two", count(2))
	d.put("endpointslices", pod(2, func(_, e m) { e["conditions"] = m{"ready": false, "serving": true, "terminating": true} }))
	w.until(t, "one that drains", func(l poll.Listing) bool { return len(l.Records) == 2 && l.Records[1].State == poll.StateDraining })
	d.put("services", svc("default", "web", m{"mesh/export": "true"}))
	w.until(t, "an annotation", func(l poll.Listing) bool { return l.Records[0].Labels["mesh/export"] == "true" })
	d.put("endpointslices", pod(2, func(_, e m) { e["addresses"] = []any{"?"} }))
	w.until(t, "an unreadable one", func(l poll.Listing) bool { return len(l.Bad) == 1 && l.Bad[0].ID == "k8s://prod/default/web/web-2" })
	d.drop("endpointslices", "default/web-2")
	w.until(t, "one again", func(l poll.Listing) bool { return count(1)(l) && len(l.Bad) == 0 })
	if lists, watches := d.counts("endpointslices"); lists != 1 || watches != 1 {
		t.Errorf("%d lists and %d watches, want one each", lists, watches)
	}
}

// TestBrokenWatch: a watch that breaks goes on where it was.
func TestBrokenWatch(t *testing.T) {
	d := web()
	w := watching(t, d)
	w.until(t, "one endpoint", count(1))
	d.put("endpointslices", pod(2, nil))
	d.snap(nil)
	d.put("endpointslices", pod(3, nil))
	w.until(t, "three", count(3))
	if lists, _ := d.counts("endpointslices"); lists != 1 {
		t.Errorf("%d lists, want one", lists)
	}
}

// TestCompacted: what is missing between two watches is listed, what was deleted meanwhile is gone.
func TestCompacted(t *testing.T) {
	for _, how := range []string{"event", "status", "restored"} {
		t.Run(how, func(t *testing.T) {
			d := web()
			w := watching(t, d)
			w.until(t, "one endpoint", count(1))
			away := make(chan struct{})
			d.snap(func(http.ResponseWriter, *http.Request, bool) bool { <-away; return false })
			d.put("endpointslices", pod(2, nil), pod(3, nil))
			d.drop("endpointslices", "default/web-1")
			d.forget()
			once := sync.Once{}
			d.mu.Lock()
			d.fault = func(w http.ResponseWriter, _ *http.Request, watch bool) (done bool) {
				if how == "event" || !watch {
					return false
				}
				once.Do(func() {
					done = true
					if how == "status" {
						fail(w, 410, "Expired", "too old resource version: 11 (14)")
					} else {
						fail(w, 504, "Timeout", "Too large resource version: 11, current: 5")
					}
				})
				return done
			}
			d.mu.Unlock()
			close(away)
			w.until(t, "the two new ones", func(l poll.Listing) bool { return count(2)(l) && l.Records[0].ID == "k8s://prod/default/web/web-2" })
		})
	}
}

// TestOutage: while the API server is away nothing is told but that.
func TestOutage(t *testing.T) {
	d := web()
	w := watching(t, d)
	w.until(t, "one endpoint", count(1))
	d.snap(func(w http.ResponseWriter, _ *http.Request, _ bool) bool {
		fail(w, 503, "ServiceUnavailable", "shutting down")
		return true
	})
	w.until(t, "trouble", func(l poll.Listing) bool { return l.Partial != nil && len(l.Records) == 0 })
	d.put("endpointslices", pod(2, nil))
	d.snap(nil)
	w.until(t, "two", count(2))
}

// TestRefused: asking again is of no use.
func TestRefused(t *testing.T) {
	for code, is := range map[int]func(error) bool{
		401: func(err error) bool { return errors.Is(err, poll.ErrCredentials) },
		403: func(err error) bool {
			var d *poll.DeniedError
			return errors.As(err, &d) && (d.Action == "endpointslices.discovery.k8s.io watch in all namespaces" ||
				d.Action == "services watch in all namespaces")
		},
	} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			t.Parallel()
			d := web()
			d.fault = func(w http.ResponseWriter, _ *http.Request, watch bool) bool {
				if watch {
					fail(w, code, "", "no")
				}
				return watch
			}
			w := watching(t, d)
			select {
			case err := <-w.ended:
				if !is(err) {
					t.Errorf("the watch ended with %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Error("the watch goes on")
			}
		})
	}
}

// TestEndlessShortWatches: a proxy that ends each watch at once is not asked without pause.
func TestEndlessShortWatches(t *testing.T) {
	d := web()
	d.fault = func(w http.ResponseWriter, _ *http.Request, watch bool) bool { return watch } // 200 and the end
	w := watching(t, d)
	w.until(t, "one endpoint", count(1))
	d.put("endpointslices", pod(2, nil))
	time.AfterFunc(time.Second, func() { d.snap(nil) })
	w.until(t, "two", count(2))
	if _, watches := d.counts("endpointslices"); watches > 10 {
		t.Errorf("%d watches", watches)
	}
}

// TestSource holds the adapter, with the framework around it, to the contract of sources.
func TestSource(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Rig {
		d := newLive()
		cluster, server := serveAt(t, d)
		l := lister(t, Config{Clusters: []Cluster{cluster}})
		l.confirm = 50 * time.Millisecond
		budgets := poll.NewBudgets(map[string]poll.Limit{"kubernetes": {Rate: 1000, Burst: 1000}})
		source := poll.New(poll.Config{Name: "k", Lister: l, Rules: []federation.Discover{{Service: "*", Namespace: "*"}},
			Interval: 50 * time.Millisecond, Gap: time.Millisecond, Budgets: budgets})
		closing := &closes{source, server}
		return providertest.Rig{Source: closing, Gradual: true, Within: 20 * time.Second,
			Set: func(_ *testing.T, set []federation.Instance) { d.hold(set) },
			Break: func(*testing.T) {
				d.snap(func(w http.ResponseWriter, _ *http.Request, _ bool) bool { fail(w, 500, "", "no"); return true })
			},
			Repair: func(*testing.T) { d.snap(nil) },
			Describe: func(in federation.Instance) string {
				return fmt.Sprint(in.Service, " ", in.Address, " ", in.Health)
			}}
	})
}

// closes is a source that leaves no connection behind, for the count of goroutines.
type closes struct {
	*poll.Source
	server *httptest.Server
}

func (c *closes) Run(ctx context.Context, publish func([]federation.Instance)) error {
	defer c.server.CloseClientConnections()
	return c.Source.Run(ctx, publish)
}

// hold makes the objects those of the instances.
func (l *live) hold(set []federation.Instance) {
	slices, wanted := map[string]m{}, map[string]m{}
	for i, in := range set {
		ns, name := in.Service.Namespace, in.Service.Name
		wanted[ns+"/"+name] = svc(ns, name, nil)
		o := pod(i+1, func(s, e m) {
			meta := s["metadata"].(m)
			meta["namespace"], meta["name"], meta["labels"] = ns, string(in.ID), m{serviceLabel: name}
			e["addresses"], e["targetRef"] = []any{in.Address.Addr().String()}, m{"kind": "Pod", "name": string(in.ID)}
			s["ports"] = []any{m{"port": in.Address.Port()}}
		})
		slices[id(o)] = o
	}
	for _, o := range wanted {
		l.put("services", o)
	}
	for _, o := range slices {
		l.put("endpointslices", o)
	}
	l.mu.Lock()
	var gone []string
	for k := range l.objects["endpointslices"] {
		if slices[k] == nil {
			gone = append(gone, k)
		}
	}
	l.mu.Unlock()
	l.drop("endpointslices", gone...)
}
