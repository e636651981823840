package poll

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestScopesAreReplacedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := scopeN(1), scopeN(2)
		l := newScript(a, b)
		l.set(a, complete(vms(1, 1, 3)))
		l.set(b, complete(vms(2, 1, 2)))
		w := start(t, Config{Lister: l})
		pass(time.Second)
		w.want(ids(vms(1, 1, 3), vms(2, 1, 2)))
		l.set(a, complete(vms(1, 2, 4)))
		pass(time.Minute)
		w.want(ids(vms(1, 2, 4), vms(2, 1, 2)))
		l.set(b, answer{err: errDown})
		l.set(a, answer{listing: Listing{Records: vms(1, 5, 5), Partial: errors.New("zone c did not answer")}})
		pass(time.Minute)
		w.want(ids(vms(1, 2, 5), vms(2, 1, 2)))
		w.wantScope(a, ScopeStale, federation.CodeProviderPartial)
		w.wantScope(b, ScopeFailed, federation.CodeProviderFailed)
		l.set(b, answer{panics: true})
		pass(time.Minute)
		w.want(ids(vms(1, 2, 5), vms(2, 1, 2)))
		l.set(a, complete())
		l.set(b, complete())
		pass(5 * time.Minute)
		w.want("")
		w.wantScope(a, ScopeOK, "")
	})
}

func TestTheFirstSetWaitsForAllScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := scopeN(1), scopeN(2)
		l := newScript(a, b)
		l.set(a, complete(vms(1, 1, 1)))
		l.set(b, answer{hang: true})
		w := start(t, Config{Lister: l})
		pass(9 * time.Second)
		w.want("none")
		pass(2 * time.Second)
		w.want(ids(vms(1, 1, 1)))
	})
	synctest.Test(t, func(t *testing.T) { // a failure has an end
		a, b := scopeN(1), scopeN(2)
		l := newScript(a, b)
		l.set(a, complete(vms(1, 1, 1)))
		l.set(b, answer{err: errDown})
		w := start(t, Config{Lister: l})
		pass(time.Second)
		w.want(ids(vms(1, 1, 1)))
	})
	synctest.Test(t, func(t *testing.T) { // nothing known is not nothing there
		l := newScript()
		l.setScopes(errDown)
		w := start(t, Config{Lister: l})
		pass(time.Hour)
		w.want("none")
		l.setScopes(nil)
		pass(10 * time.Minute)
		w.want("")
	})
}

func TestShrinkGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := scopeN(1)
		l := newScript(a)
		l.set(a, complete(vms(1, 1, 10)))
		w := start(t, Config{Lister: l})
		pass(time.Second)
		l.set(a, complete(vms(1, 1, 4), vms(1, 11, 11))) // 6 of 10 gone, one new
		pass(time.Minute)
		w.want(ids(vms(1, 1, 11)))
		w.wantScope(a, ScopeHeld, federation.CodeProviderHeld)
		l.set(a, answer{err: errDown}) // confirms nothing
		pass(time.Minute)
		w.want(ids(vms(1, 1, 11)))
		l.set(a, complete(vms(1, 1, 5)))
		pass(5 * time.Minute)
		w.want(ids(vms(1, 1, 5)))
		l.set(a, complete(vms(1, 1, 1))) // four are few
		pass(time.Minute)
		w.want(ids(vms(1, 1, 1)))
		l.set(a, complete(vms(1, 1, 20)))
		pass(time.Minute)
		l.set(a, complete(vms(1, 1, 10))) // half is not more than half
		pass(time.Minute)
		w.want(ids(vms(1, 1, 10)))
		l.set(a, complete())
		ended := make(chan error, 2)
		for range 2 { // by hand it does not wait
			go func() { ended <- w.source.Sync(t.Context()) }()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		pass(time.Second)
		w.want("")
	})
}

func TestAScopeThatIsGoneIsAnEmptyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := scopeN(1), scopeN(2), scopeN(3)
		l := newScript(a, b, c)
		l.set(a, complete(vms(1, 1, 9)))
		l.set(b, complete(vms(2, 1, 2)))
		l.set(c, complete(vms(3, 1, 1)))
		w := start(t, Config{Lister: l})
		pass(time.Second)
		l.setScopes(errDown)
		pass(2 * time.Minute)
		w.want(ids(vms(1, 1, 9), vms(2, 1, 2), vms(3, 1, 1)))
		if got := federation.CodeOf(w.source.Problem()); got != federation.CodeProviderFailed {
			t.Errorf("problem is %q", got)
		}
		l.setScopes(nil, c)
		if err := w.source.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		w.want(ids(vms(1, 1, 9), vms(3, 1, 1)))
		pass(time.Minute)
		w.want(ids(vms(3, 1, 1)))
		if n := len(w.source.Status().Scopes); n != 1 {
			t.Errorf("%d scopes are left", n)
		}
	})
}

// TestTTL: workloads leave exactly at the TTL, not before, whatever fails.
func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := scopeN(1), scopeN(2)
		l := newScript(a, b)
		l.set(a, complete(vms(1, 1, 3)))
		l.set(b, complete(vms(2, 1, 1)))
		w := start(t, Config{Lister: l, TTL: 10 * time.Minute})
		pass(time.Second)
		began := l.listed(a)[0]
		l.set(a, answer{err: errDown})
		pass(time.Until(began.Add(10*time.Minute - time.Nanosecond)))
		w.want(ids(vms(1, 1, 3), vms(2, 1, 1)))
		pass(time.Nanosecond)
		w.want(ids(vms(2, 1, 1)))
		w.wantScope(a, ScopeFailed, federation.CodeProviderWithdrawn)
		// A partial listing keeps what it saw, and only that.
		l.set(a, complete(vms(1, 1, 3)))
		pass(10 * time.Minute)
		w.want(ids(vms(1, 1, 3), vms(2, 1, 1)))
		l.set(a, answer{listing: Listing{Records: vms(1, 1, 1), Partial: errDown}})
		pass(12 * time.Minute)
		w.want(ids(vms(1, 1, 1), vms(2, 1, 1)))
	})
	synctest.Test(t, func(t *testing.T) {
		a := scopeN(1)
		l := newScript(a)
		l.set(a, complete(vms(1, 1, 3)))
		w := start(t, Config{Lister: l, TTL: -1})
		pass(time.Second)
		l.set(a, answer{err: errDown})
		pass(1000 * time.Hour)
		w.want(ids(vms(1, 1, 3)))
	})
}

func gaps(times []time.Time) (out []time.Duration) {
	for i := range len(times) - 1 {
		out = append(out, times[i+1].Sub(times[i]))
	}
	return out
}

func wantGaps(t *testing.T, what string, times []time.Time, want ...time.Duration) {
	t.Helper()
	got := gaps(times)
	if len(got) < len(want) {
		t.Fatalf("%s: listed at intervals %v, want %v", what, got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s: listed at intervals %v, want %v", what, got[:len(want)], want)
			return
		}
	}
}

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		name string
		rand float64
		a    answer
		want []time.Duration
	}{
		{"in order", 0.5, complete(), []time.Duration{time.Minute, time.Minute}},
		{"early", 0, complete(), []time.Duration{54 * time.Second, 54 * time.Second}},
		{"late", 1, complete(), []time.Duration{66 * time.Second, 66 * time.Second}},
		{"failing", 0.5, answer{err: errDown}, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
			160 * time.Second, 5 * time.Minute, 5 * time.Minute}},
		{"denied", 0.5, answer{err: &DeniedError{Action: "vm:List", Err: errDown}}, []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute,
			5 * time.Minute, 5 * time.Minute}},
		{"throttled", 0.5, answer{err: &ThrottledError{Err: errDown}}, []time.Duration{2 * time.Minute, 4 * time.Minute, 8 * time.Minute,
			10 * time.Minute, 10 * time.Minute}},
		{"throttled for long", 0.5, answer{err: &ThrottledError{RetryAfter: 20 * time.Minute, Err: errDown}},
			[]time.Duration{21 * time.Minute, 21 * time.Minute}},
		{"throttled for short", 0, answer{err: &ThrottledError{RetryAfter: time.Second, Err: errDown}}, []time.Duration{108 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := scopeN(1)
				l := newScript(a)
				l.set(a, c.a)
				start(t, Config{Lister: l, Rand: func() float64 { return c.rand }})
				pass(2 * time.Hour)
				wantGaps(t, c.name, l.listed(a), c.want...)
			})
		})
	}
}

// TestThrottlingSlowsTheAccount: the other scopes of the account do not run into the same wall, those of another account do not wait.
func TestThrottlingSlowsTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, other := scopeN(1), scopeN(2)
		same := a
		same.Kind = "container"
		l := newScript(a, same, other)
		w := start(t, Config{Lister: l})
		pass(50 * time.Second)
		l.set(a, answer{err: &ThrottledError{RetryAfter: 5 * time.Minute, Err: errDown}})
		began := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- w.source.Sync(t.Context()) }()
		pass(time.Second)
		before := len(l.listed(same))
		pass(4 * time.Minute)
		if n := len(l.listed(same)); n != before {
			t.Errorf("the account was asked %d times while it was throttled", n-before)
		}
		if n := len(l.listed(other)); n < 5 {
			t.Errorf("another account was asked %d times", n)
		}
		pass(2 * time.Minute)
		times := l.listed(same)
		if got := times[before].Sub(began); got != 5*time.Minute {
			t.Errorf("the account was asked again after %v, want 5m0s", got)
		}
		<-ended
		w.wantScope(a, ScopeThrottled, federation.CodeProviderThrottled)
	})
}

func TestBadItemsKeepTheirLastRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := scopeN(1)
		l := newScript(a)
		l.set(a, complete(vms(1, 1, 4)))
		w := start(t, Config{Lister: l})
		pass(time.Second)
		l.set(a, answer{listing: Listing{Records: vms(1, 1, 2), Bad: []BadItem{{"vm-1-3", errDown}, {"vm-1-9", errDown}}}})
		pass(time.Minute)
		w.want(ids(vms(1, 1, 3)))
		if s := w.wantScope(a, ScopeOK, federation.CodeProviderBadItems); s.BadItems != 2 || len(s.Bad) != 2 {
			t.Errorf("bad items are %+v", s)
		}
		l.set(a, answer{listing: Listing{Records: vms(1, 1, 1), Bad: []BadItem{{"", errDown}}}}) // it may be any of those that are missing
		pass(time.Minute)
		w.want(ids(vms(1, 1, 3)))
		w.wantScope(a, ScopeStale, federation.CodeProviderPartial)
		wild := vm(1, 1)
		wild.Zone = strings.Repeat("z", 1000)
		l.set(a, complete([]Record{wild}))
		pass(time.Minute)
		w.want(ids(vms(1, 1, 1)))
	})
}

func TestSnapshotSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	a, b := scopeN(1), scopeN(2)
	synctest.Test(t, func(t *testing.T) {
		l := newScript(a, b)
		l.set(a, complete(vms(1, 1, 3)))
		l.set(b, complete(vms(2, 1, 1)))
		w := start(t, Config{Name: "prod/eu", Lister: l, Dir: dir})
		pass(7 * time.Second)
		if _, err := os.Stat(snapshotPath(dir, "prod/eu")); err != nil {
			t.Error(err) // written before the end: the process may be killed
		}
		w.stop()
		if info, err := os.Stat(snapshotPath(dir, "prod/eu")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info.Mode(), err)
		}

		l = newScript(a, b)
		l.setScopes(errDown)
		w = start(t, Config{Name: "prod/eu", Lister: l, Dir: dir})
		pass(time.Second)
		w.want(ids(vms(1, 1, 3), vms(2, 1, 1)))
		w.wantScope(a, ScopeStale, "")
		w.mu.Lock()
		if late := w.at[0].Sub(w.source.started); late != 0 {
			t.Errorf("the saved set was published after %v", late)
		}
		w.mu.Unlock()
		pass(time.Hour) // the time it was down counts too
		w.want("")
		w.stop()
	})
}

func TestDamagedSnapshotIsSetAside(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut off":         func(b []byte) []byte { return b[:len(b)/2] },
		"one bit":         func(b []byte) []byte { b[len(b)-5] ^= 1; return b },
		"empty":           func([]byte) []byte { return nil },
		"another release": func(b []byte) []byte { return append([]byte("tradewind-provider/9"), b[20:]...) },
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			a := scopeN(1)
			l := newScript(a)
			l.set(a, complete(vms(1, 1, 3)))
			w := start(t, Config{Name: "p", Lister: l, Dir: dir})
			pass(time.Second)
			w.stop()
			path := snapshotPath(dir, "p")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data = damage(data)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			l.set(a, answer{err: errDown})
			w = start(t, Config{Name: "p", Lister: l, Dir: dir})
			pass(time.Second)
			w.want("none")
			if d := w.source.fileErr; d == nil || d.Code != federation.CodeProviderSnapshot || !strings.Contains(d.Fix, path+".damaged") {
				t.Errorf("%s: problem is %v", name, d)
			}
			if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != string(data) {
				t.Errorf("%s: the damaged file was not kept: %v", name, err)
			}
			l.set(a, complete(vms(1, 1, 2)))
			pass(time.Minute)
			w.want(ids(vms(1, 1, 2)))
			w.stop()
			if _, err := load(dir, "p"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

func TestSuccessorKeepsWhatWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := scopeN(1), scopeN(2)
		l := newScript(a, b)
		l.set(a, complete(vms(1, 1, 3)))
		l.set(b, complete(vms(2, 1, 1)))
		w := start(t, Config{Lister: l})
		pass(time.Second)
		w.stop()
		next := newScript(a, b)
		next.set(a, answer{err: errDown}) // so that the first set is made before a listing changes it
		next.set(b, answer{err: &DeniedError{Action: "vm:List", Err: errDown}})
		w = start(t, Config{Lister: next, Predecessor: w.source, Rules: []federation.Discover{{Service: "web"}}})
		pass(time.Second)
		w.want(ids(vms(1, 1, 3), vms(2, 1, 1)))
		next.set(a, complete(vms(1, 2, 3)))
		pass(time.Minute)
		w.want(ids(vms(1, 2, 3), vms(2, 1, 1)))
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.sets[0]); n != 4 {
			t.Errorf("the first set has %d instances, want those of before", n)
		}
	})
}
