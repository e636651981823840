package poll

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// watched is a script that can be watched. It says nothing by itself.
type watched struct {
	*script
	mu     sync.Mutex
	tell   func(Listing)
	broken chan error
	begun  []time.Time
	err    error // of each Watch, at once
}

func (w *watched) Watch(ctx context.Context, _ Scope, _ Budget, tell func(Listing)) error {
	w.mu.Lock()
	w.begun, w.tell = append(w.begun, time.Now()), tell
	broken, err := make(chan error, 1), w.err
	w.broken = broken
	w.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-broken:
		return err
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := scopeN(1)
		l := &watched{script: newScript(a)}
		l.set(a, complete(vms(1, 1, 10)))
		w := start(t, Config{Lister: l})
		pass(time.Second)
		w.want(ids(vms(1, 1, 10)))
		l.tell(Listing{Records: vms(1, 2, 10)})
		pass(time.Second)
		w.want(ids(vms(1, 2, 10)))
		l.tell(Listing{Records: vms(1, 2, 3)}) // a told listing is a listing: the guard holds
		pass(time.Second)
		w.want(ids(vms(1, 2, 10)))
		l.tell(Listing{Records: vms(1, 2, 3)})
		pass(time.Second)
		w.want(ids(vms(1, 2, 3)))
		if n := len(l.listed(a)); n != 1 {
			t.Errorf("listed %d times although it is watched", n)
		}
		if s := w.wantScope(a, ScopeOK, ""); !s.Watching {
			t.Error("it is not watched")
		}
		// A broken watch falls back to listings, and is tried again ever more slowly while it says nothing.
		l.set(a, complete(vms(1, 2, 4)))
		l.mu.Lock()
		l.err = errDown
		l.broken <- errDown
		l.mu.Unlock()
		pass(time.Nanosecond)
		w.wantScope(a, ScopeFailed, federation.CodeProviderFailed)
		w.want(ids(vms(1, 2, 3)))
		pass(6 * time.Second)
		w.want(ids(vms(1, 2, 4)))
		pass(2 * time.Hour)
		if n := len(l.begun); n < 10 || n > 40 {
			t.Errorf("a watch that always breaks was begun %d times in two hours", n)
		}
		if n := len(l.listed(a)); n < 100 {
			t.Errorf("it was listed %d times in two hours without a watch", n)
		}
		l.mu.Lock()
		l.err = nil
		l.mu.Unlock()
		pass(10 * time.Minute)
		if s := w.wantScope(a, ScopeOK, ""); !s.Watching {
			t.Error("it is not watched again")
		}
	})
}

// TestHungWatch: a watch that is silent for ever withdraws nothing, and what it does not say is found by a listing.
func TestHungWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := scopeN(1)
		l := &watched{script: newScript(a)}
		l.set(a, complete(vms(1, 1, 3)))
		w := start(t, Config{Lister: l})
		pass(5 * time.Hour)
		w.want(ids(vms(1, 1, 3)))
		if len(l.begun) != 1 {
			t.Errorf("the watch of a quiet scope was begun %d times", len(l.begun))
		}
		l.set(a, complete(vms(1, 1, 4)))
		pass(16 * time.Minute)
		w.want(ids(vms(1, 1, 4)))
		if len(l.begun) != 2 {
			t.Errorf("the hung watch was begun %d times", len(l.begun))
		}
		l.set(a, complete(vms(1, 1, 5)))
		if err := w.source.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		pass(time.Second)
		w.want(ids(vms(1, 1, 5)))
	})
}

// TestBudgetIsNeverExceeded: in no span of time more requests than the burst and what refills in it, and none is lost either.
func TestBudgetIsNeverExceeded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := Limit{Rate: rapid.Float64Range(0.5, 20).Draw(rt, "rate"), Burst: rapid.IntRange(1, 10).Draw(rt, "burst")}
		callers := rapid.SliceOfN(rapid.IntRange(0, 3000), 1, 60).Draw(rt, "arrivals")
		paused := rapid.IntRange(0, 2000).Draw(rt, "pause at")
		synctest.Test(t, func(t *testing.T) {
			b := NewBudgets(map[string]Limit{"test": limit})
			began := time.Now()
			var mu sync.Mutex
			var made []time.Time
			var group sync.WaitGroup
			for i, at := range callers {
				group.Go(func() {
					<-time.After(time.Duration(at) * time.Millisecond)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if i%7 == 6 { // some give up
						ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
						defer cancel()
					}
					if b.Of(scopeN(1)).Wait(ctx) == nil {
						mu.Lock()
						made = append(made, time.Now())
						mu.Unlock()
					}
				})
			}
			pause := began.Add(time.Duration(paused) * time.Millisecond)
			resume := pause.Add(time.Second)
			group.Go(func() {
				<-time.After(time.Until(pause))
				b.bucket(scopeN(1)).pause(resume)
			})
			group.Wait()
			for i := range made {
				if made[i].After(pause) && made[i].Before(resume) {
					t.Errorf("a request was made %v into a pause", made[i].Sub(pause))
				}
				for j := i; j < len(made); j++ {
					span := made[j].Sub(made[i]).Seconds()
					if most := float64(limit.Burst) + span*limit.Rate + 0.001; float64(j-i+1) > most {
						t.Fatalf("%d requests in %vs, at most %v are allowed", j-i+1, span, most)
					}
				}
			}
			if len(made) < len(callers)-len(callers)/7-1 {
				t.Errorf("%d of %d requests were made", len(made), len(callers))
			}
		})
	})
}

func TestBudgetsAreShared(t *testing.T) {
	b := NewBudgets(nil)
	one, two := Scope{Provider: "aws", Account: "1", Region: "r", Kind: "ec2"}, Scope{Provider: "aws", Account: "1", Region: "r", Kind: "ecs"}
	other := Scope{Provider: "aws", Account: "1", Region: "s", Kind: "ec2"}
	if b.bucket(one) != b.bucket(two) || b.bucket(one) == b.bucket(other) {
		t.Error("a bucket is of a provider, account and region")
	}
}

func FuzzParseRate(f *testing.F) {
	for _, text := range []string{"10/s", "90/m", "5000/h", "1e400/s", "NaN/s", "-1/s", "1/", "/s", "0x1p-2/s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseRate(text)
		if err == nil && (!(l.Rate >= leastRate && l.Rate <= mostRate) || l.Burst < 1 || l.Burst > 2*mostRate) {
			t.Errorf("%q is %+v", text, l)
		}
	})
}

// TestOwnRates: a limit of one's own takes the place of the provider's, and has a bucket of its own.
func TestOwnRates(t *testing.T) {
	own, err := ParseRate("90/m")
	if err != nil || own != (Limit{Rate: 1.5, Burst: 3}) {
		t.Fatalf("90/m is %+v, %v", own, err)
	}
	usual, scope := NewBudgets(nil), Scope{Provider: "aws", Account: "1", Region: "r"}
	slow := usual.With(own)
	switch b := slow.bucket(scope); {
	case b.burst != 3 || b.every != time.Second*2/3:
		t.Errorf("the bucket has %d and one more every %v", b.burst, b.every)
	case b != usual.With(own).bucket(scope):
		t.Error("two blocks with the same rate do not share it")
	case b == usual.bucket(scope) || usual.With(Limit{}).bucket(scope) != usual.bucket(scope):
		t.Error("who sets no rate does not share the usual one")
	}
}
