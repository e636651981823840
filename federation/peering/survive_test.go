package peering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

func TestPartitionAndRecovery(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		pass(2 * time.Minute)
		w.partition("a", "b")
		if took := a.await("b", federation.PeeringFailing, time.Minute); took > 6*time.Second {
			t.Errorf("failing after %v", took)
		}
		if imp := a.catalog.imported("b"); imp == nil || imp.Freshness != federation.FreshnessStale {
			t.Errorf("the import is %+v", imp)
		}
		a.mustImport("b", "b-shop") // used as long as nothing better is known
		pass(5 * time.Minute)
		a.mustImport("b", "b-shop")
		if s := a.show("b"); s.LastError == nil || s.Session.Up {
			t.Errorf("shows %+v", s)
		}
		// What changed meanwhile is there soon after the way is open again.
		b.services = append(b.services, service("search", 2))
		b.m.SetExport("a", federation.ExportView{Origin: "b", Services: sorted(b.services)})
		w.heal()
		took := a.await("b", federation.PeeringActive, 40*time.Second)
		b.await("a", federation.PeeringActive, 10*time.Second)
		pass(time.Second)
		a.mustImport("b", "search")
		t.Logf("recovered after %v", took)
	})
}

func TestMaxStaleCanChange(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		pass(2 * time.Minute)
		w.partition("a", "b")
		pass(10 * time.Minute)
		a.mustImport("b", "b-shop")
		a.m.SetMaxStale(time.Hour)
		pass(time.Second)
		a.mustImport("b", "b-shop")
		a.m.SetMaxStale(5 * time.Minute)
		pass(time.Second)
		if imp := a.catalog.imported("b"); imp != nil && imp.Freshness != federation.FreshnessExpired {
			t.Errorf("ten minutes old with a limit of five, the import is %v", imp.Freshness)
		}
		w.heal()
		a.await("b", federation.PeeringActive, time.Minute)
		pass(time.Second)
		a.mustImport("b", "b-shop")
	})
}

func TestShortPartitionIsOverAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		pass(2 * time.Minute) // of progress: back-off starts from the beginning
		w.killSessions("a")
		took := a.await("b", federation.PeeringFailing, time.Second) + a.await("b", federation.PeeringActive, 5*time.Second)
		if took > 600*time.Millisecond {
			t.Errorf("back after %v", took)
		}
		b.await("a", federation.PeeringActive, time.Second)
	})
}

func TestBackOffGrowsAndStaysInBounds(t *testing.T) {
	var d dialState
	now := time.Unix(0, 0)
	r := fixedRand()
	for i := range 20 {
		d.backOff(now, r)
		wait := d.next.Sub(now)
		if wait < backoffMin || wait > backoffMax || (i > 8 && wait < backoffMax/2) {
			t.Errorf("pause %d is %v", i, wait)
		}
	}
}

func TestRestartWithAllPeersUnreachable(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		for _, region := range []federation.Region{"b", "c", "d"} {
			w.join(a, w.add(region))
		}
		pass(time.Minute)
		for _, n := range w.nodes[1:] {
			w.partition("a", n.region)
		}
		a.stop()
		began := time.Now()
		a.start()
		synctest.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("the start took %v", took)
		}
		for _, region := range []federation.Region{"b", "c", "d"} {
			imp := a.catalog.imported(region)
			if imp.Service(named(string(region)+"-shop")) == nil || imp.Freshness != federation.FreshnessStale {
				t.Errorf("%s after the restart: %+v", region, imp)
			}
			if p, ok := a.catalog.peer(region); !ok || p.State != federation.PeeringFailing {
				t.Errorf("peer %s: %+v", region, p)
			}
		}
		w.heal()
		for _, region := range []federation.Region{"b", "c", "d"} {
			took := a.await(region, federation.PeeringActive, 40*time.Second)
			t.Logf("%s active %v after the way was open", region, took)
		}
	})
}

func TestImportIsSavedSoonAndThenSeldom(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		path := a.m.files.path("b")
		pass(saveFirst + 100*time.Millisecond)
		first, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("nothing was saved within %v of joining: %v", saveFirst, err)
		}
		writes := 0
		for range 120 {
			b.services = append(b.services, service(fmt.Sprintf("s%d", len(b.services)), 1))
			b.m.SetExport("a", federation.ExportView{Origin: "b", Services: sorted(b.services)})
			pass(time.Second)
			now, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first, now) {
				first = now
				writes++
			}
		}
		if writes < 3 || writes > 5 {
			t.Errorf("%d writes in two minutes of change", writes)
		}
	})
}

func TestDamagedImportIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.stop()
		path := a.m.files.path("b")
		saved, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		saved[len(saved)/2] ^= 1
		if err := os.WriteFile(path, saved, 0o600); err != nil {
			t.Fatal(err)
		}
		w.partition("a", "b")
		a.start()
		synctest.Wait()
		if a.catalog.imported("b") != nil {
			t.Error("a damaged file is used")
		}
		if _, err := os.Stat(path + ".damaged"); err != nil {
			t.Error(err)
		}
		if e := a.show("b").LastError; e == nil || e.Code != federation.CodeImportFile {
			t.Errorf("the operator is told %+v", e)
		}
		w.heal()
		a.await("b", federation.PeeringActive, 10*time.Second)
		a.mustImport("b", "b-shop")
	})
}

func TestStrayImportFilesAreRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		path := filepath.Join(a.dir, "imports", "ghost.cx")
		a.stop()
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		a.start()
		synctest.Wait()
		if _, err := os.Stat(path); err == nil {
			t.Error("still there")
		}
	})
}

// TestCrashInTheMiddleOfRemoving leaves the store as it is between the two commits of Remove.
func TestCrashInTheMiddleOfRemoving(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.stop()
		e, err := a.store.Get(t.Context(), recordKey("b"))
		if err != nil {
			t.Fatal(err)
		}
		rec, err := decodeRecord(e)
		if err != nil {
			t.Fatal(err)
		}
		rec.State, rec.Removing = federation.PeeringTerminated, true
		op, err := rec.put()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.store.Commit(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		a.start()
		synctest.Wait()
		if _, ok := a.authority.PeerBundle("b"); ok || len(a.m.List()) != 0 || a.catalog.imported("b") != nil {
			t.Errorf("the removal was not completed: %+v", a.m.List())
		}
	})
}

func TestBlockedLaneEndsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		s := newPipe(a, b)
		w.partition("a", "b")
		l := newLink(s.a, true)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		// Health is stuck; control is another queue and is not held up.
		for range laneBuffer + 2 {
			l.send(ctx, frame{exchange.LaneHealth, []byte("x")})
		}
		l.send(ctx, frame{exchange.LaneControl, []byte("x")})
		synctest.Wait()
		if n := len(l.queues[queueOf[exchange.LaneControl]]); n != 0 {
			t.Errorf("control waits behind health: %d frames", n)
		}
		began := time.Now()
		<-l.dead
		if took := time.Since(began); took != sendTimeout {
			t.Errorf("ended after %v", took)
		}
		if l.cause.Code != federation.CodeLaneBlocked || !strings.Contains(l.cause.Why, "health lane") {
			t.Errorf("cause: %v", l.cause)
		}
		l.wait()
		s.die(nil)

		// A burst that no queue can hold ends it at once.
		s = newPipe(a, b)
		l = newLink(s.a, true)
		for range laneBuffer + 2 + queueSizes[1] {
			l.send(ctx, frame{exchange.LaneUrgent, []byte("x")})
			if len(l.queues[queueOf[exchange.LaneUrgent]]) == 0 {
				synctest.Wait()
			}
		}
		for range 200 {
			l.send(ctx, frame{exchange.LaneUrgent, []byte("x")})
		}
		if !ended(l) {
			t.Error("an endless queue")
		}
		l.wait()
		s.die(nil)
	})
}

func TestAtMostEightGoroutinesForEachPeer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		const ownOfManager = 2 // Run and the saver
		worst := 0
		for i := range 200 {
			switch i % 100 {
			case 20:
				b.services = append(b.services, service(fmt.Sprintf("s%d", i), 1))
				b.m.SetExport("a", federation.ExportView{Origin: "b", Services: sorted(b.services)})
			case 50:
				w.killSessions("a") // both dial again; at times there are two sessions
			case 60:
				p := newPipe(b, a)
				go a.m.Accept(context.Background(), "b", p.b)
			}
			pass(10 * time.Millisecond)
			synctest.Wait()
			worst = max(worst, (ownGoroutines()-2*ownOfManager+1)/2) // both ends of the peering are in this process
		}
		t.Logf("at most %d goroutines", worst)
		if worst > 8 {
			t.Errorf("%d goroutines for one peering", worst)
		}
	})
}

// ownGoroutines counts the goroutines that this package has started or that a transport has lent it.
func ownGoroutines() (count int) {
	for _, g := range stacks() {
		if strings.Contains(g, "peering.(*peer)") || strings.Contains(g, "peering.(*link)") || strings.Contains(g, "peering.(*Manager)") {
			count++
		}
	}
	return count
}

func stacks() []string {
	buf := make([]byte, 8<<20)
	return strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
}

func TestWatchdogSpeaksOfAStuckOwner(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		p := a.m.livePeer("b")
		p.m.cfg.Catalog.(*catalog).block = make(chan struct{})
		w.killSessions("a") // the next publication of a state hangs
		pass(stuckAfter + 3*watchEvery)
		if p.suspect.Load() < 2 {
			t.Error("nobody noticed")
		}
		close(p.m.cfg.Catalog.(*catalog).block)
		a.await("b", federation.PeeringActive, time.Minute)
		pass(2 * watchEvery)
		if p.suspect.Load() != 0 {
			t.Error("still reported")
		}
	})
}

// TestPanicCostsOnePeerAPause: what one peer sends makes the gateway panic; the others, and what that one showed last, stay.
func TestPanicCostsOnePeerAPause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		fuse := &fuse{}
		a, b, c := w.add("a"), w.add("b"), w.add("c")
		a.stop()
		fuse.Trust = a.authority
		a.trust = fuse
		a.start()
		w.join(a, b)
		w.join(a, c)
		pass(time.Minute)
		fuse.lit.Store(true)
		if err := b.authority.Revoke(t.Context(), "spiffe://b.mesh.internal/gw/gw-old", "test"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if s := a.show("b"); s.Alarm == nil || s.Alarm.Code != federation.CodePeeringPanic {
			t.Errorf("no alarm: %+v", s.Alarm)
		}
		a.mustImport("b", "b-shop")
		if s := a.show("c"); s.State != federation.PeeringActive {
			t.Errorf("c is %v", s.State)
		}
		pass(pauseOnPanic + 10*time.Second)
		a.await("b", federation.PeeringActive, 40*time.Second)
		b.await("a", federation.PeeringActive, 40*time.Second)
		b.mustImport("a", "a-shop")
	})
}

// fuse panics once when the bundle of a peer changes.
type fuse struct {
	Trust
	lit atomic.Bool
}

func (f *fuse) SetPeer(ctx context.Context, r federation.Region, td spiffeid.TrustDomain, bundle []byte) error {
	if f.lit.Swap(false) {
		_ = bundle[len(bundle)+1:] // out of range
	}
	return f.Trust.SetPeer(ctx, r, td, bundle)
}

// TestTerminationIsStoredWhenTheStoreRecovers: the news that the peer is gone survives a full disk.
func TestTerminationIsStoredWhenTheStoreRecovers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.await("b", federation.PeeringActive, 5*time.Second)
		b.memory.FailWith(errors.New("no space left on device"))
		if _, err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if b.catalog.imported("a") != nil {
			t.Error("the import of a region that is gone is still used")
		}
		b.memory.FailWith(nil)
		b.await("a", federation.PeeringTerminated, 2*retryEvery)
	})
}

// TestPeerThatRestartsUnnoticed: the end of the old session is lost, so one side still holds it when the other one, in a new
// life, opens another.
func TestPeerThatRestartsUnnoticed(t *testing.T) {
	for region, limit := range map[federation.Region]time.Duration{"a": time.Second, "b": deferDial + time.Second} { // "a" dials first
		bubble(t, func(t *testing.T, w *world) {
			w.join(w.add("a"), w.add("b"))
			pass(time.Minute)
			gone := w.nodes[0]
			if region == "b" {
				gone = w.nodes[1]
			}
			w.partition("a", "b")
			gone.stopSilently()
			w.heal()
			gone.start()
			took := gone.await(w.other(gone).region, federation.PeeringActive, limit)
			w.other(gone).await(region, federation.PeeringActive, time.Second)
			t.Logf("%s: active again after %v", region, took)
			pass(5 * time.Second)
			if s := w.other(gone).show(region).Session; !s.Up || s.Dialled {
				t.Errorf("the other side uses %+v", s)
			}
		})
	}
}

// TestReachablePeerEndsASilentSession: once the peer is found reachable, a session that says nothing is not waited for.
func TestReachablePeerEndsASilentSession(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(b, a)
		pass(time.Minute)
		before := a.show("b").Session
		a.m.Nudge("b") // what speaks is left alone
		pass(10 * time.Second)
		if now := a.show("b").Session; now != before {
			t.Errorf("before %+v, now %+v", before, now)
		}
		w.partition("a", "b")
		b.stopSilently()
		w.heal()
		pass(time.Second)
		a.m.Nudge("b")
		b.start()
		if took := a.await("b", federation.PeeringFailing, 3*time.Second); took > duplicateAge {
			t.Errorf("noticed after %v", took)
		}
		a.await("b", federation.PeeringActive, time.Second)
	})
}

func TestSecondSessionLosesToALivingOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(b, a) // a redeems and dials
		before := a.show("b").Session
		speaks, silent := newPipe(b, a), newPipe(b, a)
		began := time.Now()
		go a.m.Accept(context.Background(), "b", speaks.b)
		if err := speaks.a.Send(t.Context(), exchange.LaneControl, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		<-speaks.dead
		if !strings.Contains(speaks.err.Error(), "the session that a opened stays") {
			t.Errorf("closed: %v", speaks.err)
		}
		go a.m.Accept(context.Background(), "b", silent.b)
		<-silent.dead
		if took := time.Since(began); took != wireDelay+speakWithin || !strings.Contains(silent.err.Error(), "it said nothing") {
			t.Errorf("closed after %v: %v", took, silent.err)
		}
		if now := a.show("b"); now.Session != before || now.State != federation.PeeringActive {
			t.Errorf("before %+v, now %+v", before, now)
		}
	})
}
