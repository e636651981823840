package poll

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// zone is a DNS that the test writes.
type zone struct {
	mu    sync.Mutex
	names map[string][]netip.Addr
	err   error // of every question
	asked int
}

func (z *zone) set(err error, host string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.err = err
	z.names[host] = nil
	for _, a := range addrs {
		z.names[host] = append(z.names[host], netip.MustParseAddr(a))
	}
}

func (z *zone) lookUp(_ context.Context, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	switch addrs, known := z.names[host]; {
	case z.err != nil:
		return nil, z.err
	case !known || len(addrs) == 0:
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	default:
		return addrs, nil
	}
}

// app is a workload that has a name and no address.
func app(n int, host string) Record {
	return Record{ID: fmt.Sprint("app-", n), Kind: "run", Host: host, Ports: []Port{{Number: 443}}, State: StateRunning,
		Health: federation.HealthPassing, Service: fmt.Sprint("app-", n)}
}

// hosts returns the newest set, as "host=address health" in order.
func (w *world) hosts() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) == 0 {
		return "none"
	}
	byID := map[string]string{}
	for _, in := range w.sets[len(w.sets)-1] {
		byID[string(in.ID)] = fmt.Sprintf("%s=%v %v", in.Labels["host"], in.Address, in.Health)
	}
	return strings.Join(sortedValues(byID), "; ")
}

func TestHostNamesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope, l, z := scopeN(1), newScript(scopeN(1)), &zone{names: map[string][]netip.Addr{}}
		z.set(nil, "a.run.example.com", "198.51.100.7", "198.51.100.8")
		z.set(nil, "b.run.example.com", "198.51.100.7")
		l.set(scope, complete([]Record{app(1, "A.run.example.com."), app(2, "b.run.example.com"), app(3, "none.example.com")}))
		w := start(t, Config{Lister: l, LookUp: z.lookUp})
		want := func(set string) {
			t.Helper()
			if got := w.hosts(); got != set {
				t.Errorf("at %s\ngot  %s\nwant %s", time.Now().Format("15:04:05"), got, set)
			}
		}
		problem := func(text string) {
			t.Helper()
			if err := w.source.Problem(); (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
				t.Errorf("the problem is %v, want %q", err, text)
			}
		}
		pass(time.Second)
		want("a.run.example.com=198.51.100.7:443 passing; b.run.example.com=198.51.100.7:443 passing") // one address, two workloads
		problem("no such host")
		if ig := w.source.Status().Ignored; len(ig) != 1 || ig[0].Reason != ReasonAddress ||
			!strings.Contains(ig[0].Examples[0].Why, "none.example.com") {
			t.Errorf("ignored are %+v", ig)
		}
		l.set(scope, complete([]Record{app(1, "a.run.example.com"), app(2, "b.run.example.com")}))
		z.set(nil, "a.run.example.com", "198.51.100.8", "198.51.100.7") // another order is no move
		z.set(nil, "b.run.example.com", "198.51.100.9", "169.254.169.254")
		pass(time.Minute)
		want("a.run.example.com=198.51.100.7:443 passing; b.run.example.com=198.51.100.9:443 passing")
		problem("")
		z.set(errors.New("the resolver is silent"), "a.run.example.com")
		pass(4 * time.Minute)
		want("a.run.example.com=198.51.100.7:443 passing; b.run.example.com=198.51.100.9:443 passing")
		pass(2 * time.Minute)
		want("a.run.example.com=198.51.100.7:443 failing; b.run.example.com=198.51.100.9:443 failing")
		problem("the resolver is silent")
		z.set(nil, "a.run.example.com", "198.51.100.7") // and b is known not to exist
		z.set(nil, "b.run.example.com")
		pass(time.Minute)
		want("a.run.example.com=198.51.100.7:443 passing; b.run.example.com=198.51.100.9:443 failing")
		z.set(nil, "b.run.example.com", "169.254.169.254") // nobody makes us dial that
		pass(time.Minute)
		want("a.run.example.com=198.51.100.7:443 passing; b.run.example.com=198.51.100.9:443 failing")
		l.set(scope, complete())
		pass(2 * time.Minute)
		want("")
		before := z.asked
		if pass(time.Hour); z.asked != before {
			t.Error("names are asked for that nobody has")
		}
	})
}

func TestRestoredNamesAreResolvedBeforeTheFirstSet(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		scope, l, z := scopeN(1), newScript(scopeN(1)), &zone{names: map[string][]netip.Addr{}}
		z.set(nil, "a.example.com", "198.51.100.7")
		l.set(scope, complete([]Record{app(1, "a.example.com")}))
		w := start(t, Config{Name: "p", Lister: l, LookUp: z.lookUp, Dir: dir})
		pass(time.Minute)
		w.stop()
		l.set(scope, answer{err: errDown})
		w = start(t, Config{Name: "p", Lister: l, LookUp: z.lookUp, Dir: dir})
		pass(time.Second)
		if len(w.sets) == 0 || len(w.sets[0]) != 1 || w.hosts() != "a.example.com=198.51.100.7:443 passing" {
			t.Errorf("after a restart: %s", w.hosts())
		}
	})
}

func TestHostNamesThatAreNone(t *testing.T) {
	for _, host := range []string{"a b", "a/b", "a:80", "ä.example.com", strings.Repeat("a", 254)} {
		got := used(everything, with(app(1, host), func(r *Record) { r.Service = "web" }))
		if !strings.HasPrefix(got, "address: its host name") || !strings.Contains(got, "DNS can have") {
			t.Errorf("%q: %s", host, got)
		}
	}
}
