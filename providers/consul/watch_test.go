package consul

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settle lets d pass and everything that happens in it happen.
func settle(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestWatchTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		s.set(10, "web", instance(1, nil))
		h, stop := startWatch(s.lister(t, Config{}))
		settle(time.Second)
		list, _ := h.all()
		calls := 0
		for _, l := range list { // never less than everything
			calls += l.Calls
			if len(l.Records) != 1 || l.Partial != nil {
				t.Errorf("told %+v", l)
			}
		}
		if calls != 2 {
			t.Errorf("%d requests, want one for the list and one for the service", calls)
		}
		began := time.Now()
		s.set(11, "web", instance(1, nil), instance(2, nil))
		synctest.Wait()
		if l, at := h.last(t); len(l.Records) != 2 || at != began {
			t.Errorf("%d records after %v, want 2 at once", len(l.Records), at.Sub(began))
		}
		s.set(12, "db", instance(3, nil))
		settle(minGap) // the new service's first answer
		if l, _ := h.last(t); len(l.Records) != 3 {
			t.Errorf("%d records, want 3", len(l.Records))
		}
		s.set(13, "web")
		settle(minGap)
		if l, _ := h.last(t); len(l.Records) != 1 || l.Partial != nil {
			t.Errorf("%d records, partial: %v; want 1: the service is gone", len(l.Records), l.Partial)
		}
		told := h.count()
		settle(time.Minute + time.Second)
		if h.count() == told {
			t.Error("nothing was confirmed within the wait")
		}
		if err := stop(); err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
}

// TestWatchIndex is what Consul's documentation asks of a client of blocking queries.
func TestWatchIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		s.set(500, "web", instance(1, nil))
		h, stop := startWatch(s.lister(t, Config{}))
		settle(time.Second)
		s.requests("")
		s.set(20, "web", instance(2, nil)) // restored
		settle(time.Second)
		var indexes []uint64
		for _, a := range s.requests("/web") {
			indexes = append(indexes, a.index)
		}
		if fmt.Sprint(indexes) != "[0 20]" {
			t.Errorf("indexes after one that went back from 500 to 20: %v, want 0 and then 20", indexes)
		}
		if l, _ := h.last(t); len(l.Records) != 1 || !strings.HasSuffix(l.Records[0].ID, "web-2") {
			t.Errorf("told %+v", l.Records)
		}
		s.meet(func(string, uint64) *fault { return &fault{header: map[string]string{"X-Consul-Index": "0"}} })
		settle(time.Second)
		s.requests("")
		settle(time.Minute)
		if n := len(s.requests("/web")); n > 700 {
			t.Errorf("%d requests a minute of a server whose index is 0, want at most ten a second", n)
		}
		stop()
	})
}

func TestWatchOfAServerInTrouble(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault fault
		least time.Duration // between requests, at the end
		most  int           // requests about one service in ten minutes
		want  func(error) bool
	}{
		{"no leader", fault{status: 500, text: "No cluster leader"}, retryMost / 2, 60,
			func(err error) bool { return strings.Contains(err.Error(), "No cluster leader") }},
		{"throttled", fault{status: 429, text: "rate limit exceeded", header: map[string]string{"Retry-After": "40"}}, 40 * time.Second, 15,
			func(err error) bool {
				var throttled *poll.ThrottledError
				return errors.As(err, &throttled) && throttled.RetryAfter == 40*time.Second
			}},
		{"away", fault{fail: errors.New("connection refused")}, retryMost / 2, 60,
			func(err error) bool { return strings.Contains(err.Error(), "refused") }},
		{"hung", fault{hang: true}, retryMost / 2, 60, func(err error) bool { return errors.Is(err, errHung) }},
		{"garbage", fault{status: 200, text: `{"web":`}, retryMost / 2, 60, func(err error) bool { return err != nil }},
		{"denied for one", fault{status: 403, text: "Permission denied"}, retryMost / 2, 60, func(err error) bool {
			var denied *poll.DeniedError
			return errors.As(err, &denied)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript()
				s.set(10, "web", instance(1, nil))
				s.set(11, "db", instance(2, nil))
				h, stop := startWatch(s.lister(t, Config{}))
				settle(time.Second)
				s.meet(func(path string, _ uint64) *fault {
					if strings.HasSuffix(path, "/web") {
						return &c.fault
					}
					return nil
				})
				settle(80 * time.Second) // a hung query is noticed last
				l, _ := h.last(t)
				if l.Partial == nil || !c.want(l.Partial) || len(l.Records) != 1 {
					t.Errorf("%d records, partial: %v; want the other service alone", len(l.Records), l.Partial)
				}
				settle(10 * time.Minute)
				s.requests("")
				settle(10 * time.Minute)
				asked := s.requests("/web")
				if n := len(asked); n == 0 || n > c.most {
					t.Errorf("%d requests in ten minutes, want 1 to %d", n, c.most)
				}
				for i := 1; i < len(asked); i++ {
					if gap := asked[i].at.Sub(asked[i-1].at); gap < c.least || asked[i].index != 0 {
						t.Errorf("asked again after %v with index %d, want at least %v and 0", gap, asked[i].index, c.least)
					}
				}
				s.meet(nil)
				settle(time.Minute)
				if l, _ := h.last(t); l.Partial != nil || len(l.Records) != 2 {
					t.Errorf("after the trouble: %d records, partial: %v", len(l.Records), l.Partial)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestWatchHung has a query that never returns. It is given up when Consul would have answered, and Timeout.
func TestWatchHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		s.set(10, "web", instance(1, nil))
		s.meet(func(path string, index uint64) *fault {
			if strings.HasSuffix(path, "/web") && index > 0 {
				return &fault{hang: true}
			}
			return nil
		})
		h, stop := startWatch(s.lister(t, Config{Access: Access{Timeout: 5 * time.Second}, Wait: 32 * time.Second}))
		settle(time.Second)
		began := time.Now().Add(-time.Second)
		settle(5 * time.Minute)
		list, at := h.all()
		for i, l := range list {
			if l.Partial != nil {
				if took := at[i].Sub(began); took != (32+2+5)*time.Second {
					t.Errorf("noticed after %v, want 39s", took)
				}
				stop()
				return
			}
		}
		t.Error("a hung query was not noticed")
	})
}

// TestWatchEnds: what asking again does not mend ends the watch.
func TestWatchEnds(t *testing.T) {
	for _, c := range []struct {
		text string
		want func(error) bool
	}{
		{"ACL not found", func(err error) bool { return errors.Is(err, poll.ErrCredentials) }},
		{"Permission denied: token with AccessorID 'a1' lacks permission 'node:read' on \"n\"", func(err error) bool {
			var denied *poll.DeniedError
			return errors.As(err, &denied) && denied.Action == ruleNodes && denied.Who == "the token with AccessorID a1"
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			s.meet(func(string, uint64) *fault { return &fault{status: http.StatusForbidden, text: c.text} })
			h := &heard{}
			if err := s.lister(t, Config{}).Watch(t.Context(), dc1, nil, h.tell); !c.want(err) {
				t.Errorf("%s: Watch returned %v", c.text, err)
			}
		})
	}
}

// TestWatchStreams: agents answer blocking queries from what the servers stream to them, without the headers that an answer is
// judged by.
func TestWatchStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		s.set(10, "web", instance(1, nil))
		s.meet(func(path string, index uint64) *fault {
			if strings.HasSuffix(path, "/web") && index > 0 {
				return &fault{header: map[string]string{"X-Consul-Query-Backend": "streaming", "X-Consul-KnownLeader": "false"}}
			}
			return nil
		})
		h, stop := startWatch(s.lister(t, Config{}))
		settle(time.Second)
		s.requests("")
		s.set(11, "web", instance(1, nil), instance(2, nil))
		settle(time.Second)
		if l, _ := h.last(t); l.Partial != nil || len(l.Records) != 2 {
			t.Errorf("%d records, partial: %v", len(l.Records), l.Partial)
		}
		settle(5 * time.Minute)
		list, _ := h.all()
		for _, l := range list {
			if l.Partial != nil {
				t.Errorf("a listing is partial: %v", l.Partial)
			}
		}
		if plain := s.requests("/web"); len(plain) > 10 {
			t.Errorf("%d requests in five quiet minutes", len(plain))
		}
		stop()
	})
}

// TestWatchWithheld: the list leaves out what the token may no longer see, and only says that there is something.
func TestWatchWithheld(t *testing.T) {
	withheld := map[string]string{"X-Consul-Results-Filtered-By-ACLs": "true"}
	for _, c := range []struct {
		name  string
		faces map[string]string // of the answer about the service
		want  int
	}{{"gone", nil, 1}, {"hidden", withheld, 2}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript()
				s.set(10, "web", instance(1, nil))
				s.set(11, "db", instance(2, nil))
				l := s.lister(t, Config{})
				if first, err := l.List(t.Context(), dc1, nil); err != nil || len(first.Records) != 2 {
					t.Fatal(first, err)
				}
				h, stop := startWatch(l)
				settle(time.Second)
				s.meet(func(path string, _ uint64) *fault {
					switch {
					case strings.HasSuffix(path, "/web"):
						return &fault{header: c.faces}
					case strings.HasSuffix(path, "/services"):
						return &fault{header: withheld}
					}
					return nil
				})
				s.set(12, "web")
				settle(time.Second)
				told, _ := h.last(t)
				listed, err := l.List(t.Context(), dc1, nil)
				if err != nil {
					t.Fatal(err)
				}
				for what, got := range map[string]poll.Listing{"told": told, "listed": listed} {
					if hidden := c.want == 2; len(got.Records) != 1 || (got.Partial != nil) != hidden {
						t.Errorf("%s %d records, partial: %v", what, len(got.Records), got.Partial)
					}
				}
				stop()
			})
		})
	}
}

// TestWatchTakesTurns has more services than watches.
func TestWatchTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const services, watches = 30, 4
		s := newScript()
		s.own = map[string]uint64{}
		for i := range services {
			name := fmt.Sprintf("s%d", i)
			s.own[name] = 10
			s.set(10, name, instance(i+1, nil))
		}
		h, stop := startWatch(s.lister(t, Config{MaxWatches: watches}))
		settle(time.Minute)
		if l, _ := h.last(t); len(l.Records) != services || l.Partial != nil {
			t.Fatalf("%d records, partial: %v", len(l.Records), l.Partial)
		}
		for i := range services {
			began := time.Now()
			s.mu.Lock()
			s.services[fmt.Sprintf("s%d", i)] = []any{instance(i+1, func(service map[string]any) { service["Port"] = 9000 + i })}
			s.own[fmt.Sprintf("s%d", i)]++
			s.mu.Unlock() // nobody is woken: this service's watch may not be open
			for time.Since(began) < 10*services/watches*turnWait {
				settle(time.Second)
				if l, _ := h.last(t); l.Partial == nil && len(l.Records) == services && hasPort(l, uint16(9000+i)) {
					break
				}
			}
			if took := time.Since(began); took > 2*services/watches*turnWait {
				t.Errorf("the change of service %d was told after %v", i, took)
			}
		}
		if s.mostOpen > watches+1 {
			t.Errorf("%d blocking queries at once, want at most %d and that of the catalog", s.mostOpen, watches)
		}
		stop()
	})
}

func hasPort(l poll.Listing, port uint16) bool {
	for _, r := range l.Records {
		if r.Ports[0].Number == port {
			return true
		}
	}
	return false
}

// TestWatchNeverLoses: whatever faults come and go, no complete listing lacks an instance that was there all the time.
func TestWatchNeverLoses(t *testing.T) {
	faults := []*fault{nil, {status: 500, text: "No cluster leader"}, {status: 429}, {status: 403, text: "Permission denied"}, {hang: true},
		{fail: errors.New("reset")}, {status: 200, text: "[]", header: map[string]string{"X-Consul-KnownLeader": "false"}},
		{status: 200, text: "[]", header: map[string]string{"X-Consul-LastContact": "60000"}},
		{status: 200, text: "[]", header: map[string]string{"X-Consul-Results-Filtered-By-ACLs": "true"}},
		{status: 200, text: "[", header: map[string]string{"X-Consul-Index": "7"}}}
	rapid.Check(t, func(rt *rapid.T) {
		plan := rapid.SliceOfN(rapid.IntRange(0, len(faults)-1), 1, 12).Draw(rt, "faults")
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			s.set(10, "web", instance(1, nil))
			h, stop := startWatch(s.lister(t, Config{Wait: 10 * time.Second}))
			settle(time.Second)
			for i, n := range plan {
				s.meet(func(path string, _ uint64) *fault {
					if strings.HasSuffix(path, "/web") {
						return faults[n]
					}
					return nil
				})
				if i%2 == 1 {
					s.set(uint64(20+i), "web", instance(1, nil), instance(100+i, nil))
				}
				settle(20 * time.Second)
			}
			s.meet(nil)
			settle(2 * time.Minute)
			last, _ := h.last(t)
			if last.Partial != nil || len(last.Records) == 0 {
				rt.Errorf("in the end: %d records, partial: %v", len(last.Records), last.Partial)
			}
			list, _ := h.all()
			for _, l := range list {
				if l.Partial == nil && !strings.Contains(fmt.Sprint(l.Records), "web-1 ") {
					rt.Errorf("a complete listing without the instance: %v", l.Records)
				}
			}
			stop()
		})
	})
}
