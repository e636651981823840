package peering

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

func named(s string) federation.ServiceName {
	return federation.ServiceName{Namespace: federation.DefaultNamespace, Name: s}
}

// imports reports whether n knows the given service of region.
func (n *node) imports(region federation.Region, name string) bool {
	return n.catalog.imported(region).Service(named(name)) != nil
}

func (n *node) mustImport(region federation.Region, name string) {
	n.w.t.Helper()
	if !n.imports(region, name) {
		n.w.t.Errorf("%s does not import %s of %s: %+v", n.region, name, region, n.show(region))
	}
}

func TestEstablishTellsEachStepAndProvesBothWays(t *testing.T) {
	for _, names := range [][2]federation.Region{{"a", "b"}, {"b", "a"}} { // whoever sorts first, the redeemer dials at once
		bubble(t, func(t *testing.T, w *world) {
			acceptor, dialler := w.add(names[0]), w.add(names[1])
			text := acceptor.mustToken(dialler.region)
			var steps []string
			r, err := dialler.m.Establish(t.Context(), text, func(s Step) {
				if s.State != StepRunning {
					steps = append(steps, s.Name+" "+s.State.String()+": "+s.Detail)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{
				"token done: valid, single use, 15m0s left",
				"reach done: " + acceptor.addresses[0] + " answers in 60ms",
				fmt.Sprintf("trust done: spiffe://%s.mesh.internal ⇄ spiffe://%s.mesh.internal (fingerprints %s %s)", dialler.region, acceptor.region,
					dialler.authority.Bundle().Fingerprint(), acceptor.authority.Bundle().Fingerprint()),
				"session done: we dialled " + acceptor.addresses[0],
				"catalog done: 1 services offered to you, 1 shown to them",
				"return done: they reach us, from " + acceptor.addresses[0],
			}
			if diff := cmp.Diff(want, steps); diff != "" {
				t.Error(diff)
			}
			if r.OneWay || r.Offered != 1 || r.Shown != 1 || r.Took > time.Second {
				t.Errorf("result %+v", r)
			}
			t.Logf("up and proven both ways in %v", r.Took)
			if _, err := acceptor.m.Wait(t.Context(), dialler.region, federation.PeeringActive); err != nil {
				t.Error(err)
			}
			dialler.mustImport(acceptor.region, string(acceptor.region)+"-shop")
			acceptor.mustImport(dialler.region, string(dialler.region)+"-shop")
			for _, n := range []*node{acceptor, dialler} {
				other := w.other(n)
				s := n.show(other.region)
				if s.Fingerprint != other.authority.Bundle().Fingerprint() || !s.Session.Up || len(s.Imported) != 1 || len(s.Exported) != 1 {
					t.Errorf("%s shows %+v", n.region, s)
				}
				if p, ok := n.catalog.peer(other.region); !ok || p.State != federation.PeeringActive || p.TrustDomain != federation.DefaultTrustDomain(other.region) {
					t.Errorf("%s: catalog has the peer as %+v", n.region, p)
				}
			}
			time.Sleep(2 * time.Second) // the probe is over
			if got := w.openSessions("a", "b"); got != 1 {
				t.Errorf("%d sessions", got)
			}
		})
	}
}

// other is the second of two regions.
func (w *world) other(n *node) *node {
	if w.nodes[0] == n {
		return w.nodes[1]
	}
	return w.nodes[0]
}

func TestOneWayIsSaid(t *testing.T) {
	for _, names := range [][2]federation.Region{{"a", "b"}, {"b", "a"}} {
		bubble(t, func(t *testing.T, w *world) {
			acceptor, dialler := w.add(names[0]), w.add(names[1])
			dialler.addresses = []string{"10.0.0.7:8443"} // what it advertises; nobody outside can use it
			w.private(dialler)
			var last Step
			r, err := dialler.m.Establish(t.Context(), acceptor.mustToken(dialler.region), func(s Step) { last = s })
			if err != nil {
				t.Fatal(err)
			}
			if !r.OneWay || last.State != StepWarning || !strings.Contains(last.Detail, "cannot dial us at 10.0.0.7:8443") {
				t.Errorf("one way %v; last step %+v", r.OneWay, last)
			}
			time.Sleep(5 * time.Second)
			if reach := acceptor.show(dialler.region).Reach; !reach.Known || reach.OK || !strings.Contains(reach.Detail, "10.0.0.7:8443: no answer within 3s") {
				t.Errorf("the other side shows %+v", reach)
			}
			// It works all the same, and comes back by itself from the only side that can dial.
			w.killSessions(dialler.region)
			time.Sleep(10 * time.Second)
			acceptor.await(dialler.region, federation.PeeringActive, time.Second)
		})
	}
}

// private makes a region that nobody can dial.
func (w *world) private(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hidden = n
}

func TestOutboundOnlyRegionNeedsNoAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b", func(n *node) { n.addresses = nil })
		r, err := b.m.Establish(t.Context(), a.mustToken("b"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !r.OneWay {
			t.Error("it cannot be dialled, and yet it was")
		}
		a.mustImport("b", "b-shop")
	})
}

func TestBothSidesDialAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		time.Sleep(5 * time.Second)
		for round := range 10 {
			w.killSessions("a")
			synctest.Wait()
			for _, n := range []*node{a, b} { // no waiting for the first region
				p := n.m.livePeer(w.other(n).region)
				p.exports.mu.Lock() // any point at which the owner can be reached
				p.exports.mu.Unlock()
				n.m.Pause(t.Context(), p.region)
			}
			time.Sleep(2 * time.Second)
			var resume sync.WaitGroup
			for _, n := range []*node{a, b} {
				resume.Go(func() { n.m.Resume(t.Context(), w.other(n).region) })
			}
			resume.Wait()
			a.await("b", federation.PeeringActive, 10*time.Second)
			b.await("a", federation.PeeringActive, 10*time.Second)
			time.Sleep(3 * time.Second)
			sa, sb := a.show("b").Session, b.show("a").Session
			if got := w.openSessions("a", "b"); got != 1 || !sa.Up || !sb.Up || sa.Dialled == sb.Dialled {
				t.Fatalf("round %d: %d sessions; a has %+v, b has %+v", round, got, sa, sb)
			}
		}
	})
}

func TestPartitionAndRecovery(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		time.Sleep(2 * time.Minute)
		w.partition("a", "b")
		if took := a.await("b", federation.PeeringFailing, time.Minute); took > 6*time.Second {
			t.Errorf("failing after %v", took)
		}
		if imp := a.catalog.imported("b"); imp == nil || imp.Freshness != federation.FreshnessStale {
			t.Errorf("the import is %+v", imp)
		}
		a.mustImport("b", "b-shop") // used as long as nothing better is known
		time.Sleep(5 * time.Minute)
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
		time.Sleep(time.Second)
		a.mustImport("b", "search")
		t.Logf("recovered after %v", took)
	})
}

func TestShortPartitionIsOverAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		time.Sleep(2 * time.Minute) // of progress: back-off starts from the beginning
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

func TestRemoveOnEitherSideAndPeerAgainAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		for round, remover := range []*node{a, b, a, b} {
			removed := w.other(remover)
			token, redeemer := a.mustToken("b"), b
			if round >= 2 {
				token, redeemer = b.mustToken("a"), a
			}
			if _, err := redeemer.m.Establish(t.Context(), token, nil); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			w.other(redeemer).await(redeemer.region, federation.PeeringActive, 5*time.Second)

			began := time.Now()
			if err := remover.m.Remove(t.Context(), removed.region); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			removed.await(remover.region, federation.PeeringTerminated, 2*time.Second)
			t.Logf("round %d: removed in %v, known to the other side %v later", round, took, time.Since(began)-took)
			synctest.Wait()
			for _, n := range []*node{a, b} {
				other := w.other(n).region
				if n.catalog.imported(other) != nil {
					t.Errorf("%s still imports", n.region)
				}
				if _, ok := n.catalog.peer(other); ok {
					t.Errorf("%s still has the peer", n.region)
				}
				if _, ok := n.authority.PeerBundle(other); ok {
					t.Errorf("%s still trusts", n.region)
				}
				if _, err := os.Stat(n.m.files.path(other)); err == nil {
					t.Errorf("%s keeps the import on disk", n.region)
				}
			}
			if s := removed.show(remover.region); !strings.Contains(s.Reason, "removed it") {
				t.Errorf("the removed side says %q", s.Reason)
			}
			if _, err := remover.m.Show(removed.region); federation.CodeOf(err) != federation.CodePeeringUnknown {
				t.Errorf("the removing side still has it: %v", err)
			}
			if got := w.openSessions("a", "b"); got != 0 {
				t.Errorf("%d sessions are open", got)
			}
		}
		// The entry that only says so can be cleared, once.
		if err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		mustCode(t, a.m.Remove(t.Context(), "b"), federation.CodePeeringUnknown)
	})
}

func TestRemoveWhileTheOtherSideIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		w.partition("a", "b")
		time.Sleep(time.Minute)
		if err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		w.heal()
		time.Sleep(2 * time.Minute)
		if s := b.show("a"); s.State != federation.PeeringFailing || s.LastError == nil {
			t.Errorf("b was told nothing and shows %+v", s)
		}
		// Neither side has to clean up before they peer again.
		if _, err := b.m.Establish(t.Context(), a.mustToken("b"), nil); err != nil {
			t.Fatal(err)
		}
		a.await("b", federation.PeeringActive, 5*time.Second)
	})
}

func TestPauseLastsAndResumes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.await("b", federation.PeeringActive, 5*time.Second)
		if err := a.m.Pause(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		a.await("b", federation.PeeringPaused, time.Second)
		b.await("a", federation.PeeringFailing, 5*time.Second)
		a.mustImport("b", "b-shop")
		a.stop()
		a.start()
		time.Sleep(2 * time.Minute)
		if s := a.show("b"); s.State != federation.PeeringPaused || s.Session.Up {
			t.Errorf("after a restart: %+v", s)
		}
		if s := b.show("a"); s.Session.Up {
			t.Errorf("the other side has a session: %+v", s)
		}
		a.mustImport("b", "b-shop")
		if err := a.m.Resume(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		took := a.await("b", federation.PeeringActive, 5*time.Second)
		t.Logf("active %v after resume", took)
		mustCode(t, a.m.Pause(t.Context(), "nobody"), federation.CodePeeringUnknown)
		a.mustToken("c")
		mustCode(t, a.m.Pause(t.Context(), "c"), federation.CodePeeringState)
	})
}

func TestRestartWithAllPeersUnreachable(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		for _, region := range []federation.Region{"b", "c", "d"} {
			w.join(a, w.add(region))
		}
		time.Sleep(time.Minute)
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
		time.Sleep(saveFirst + 100*time.Millisecond)
		first, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("nothing was saved within %v of joining: %v", saveFirst, err)
		}
		writes := 0
		for range 120 {
			b.services = append(b.services, service(fmt.Sprintf("s%d", len(b.services)), 1))
			b.m.SetExport("a", federation.ExportView{Origin: "b", Services: sorted(b.services)})
			time.Sleep(time.Second)
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

func TestBundleChangesReachThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		if err := a.authority.Revoke(t.Context(), "spiffe://a.mesh.internal/gw/gw-old", "its disk was stolen"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		known, _ := b.authority.PeerBundle("a")
		if own := a.authority.Bundle(); known.Sequence != own.Sequence || len(known.Revoked) != 1 {
			t.Errorf("known is number %d, own %d", known.Sequence, own.Sequence)
		}
	})
}

// TestLostEpochIsRaised restores a region from a backup that knows an earlier epoch than its peers.
func TestLostEpochIsRaised(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a"), w.add("b"), w.add("c")
		a.stop()
		a.epoch.Counter = 50
		a.start()
		w.join(a, b)
		w.join(a, c)
		a.stop()
		a.epoch.Counter = 3
		a.start()
		for _, n := range []*node{b, c} {
			n.await("a", federation.PeeringActive, 30*time.Second)
			a.await(n.region, federation.PeeringActive, 30*time.Second)
			n.mustImport("a", "a-shop")
		}
		if a.epoch.Counter <= 51 {
			t.Errorf("epoch is %v", a.epoch)
		}
	})
}

func TestBothSidesMakeATokenAndRedeemTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		ta, tb := a.mustToken("b"), b.mustToken("a")
		errs := make([]error, 2)
		var wg sync.WaitGroup
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		wg.Go(func() { _, errs[0] = b.m.Establish(ctx, ta, nil) })
		wg.Go(func() { _, errs[1] = a.m.Establish(ctx, tb, nil) })
		wg.Wait()
		a.await("b", federation.PeeringActive, 10*time.Second)
		b.await("a", federation.PeeringActive, 10*time.Second)
		for _, err := range errs {
			if code := federation.CodeOf(err); code != "" && code != federation.CodeTokenRevoked {
				t.Error(err)
			}
		}
		time.Sleep(10 * time.Second)
		if got := w.openSessions("a", "b"); got != 1 {
			t.Errorf("%d sessions", got)
		}
	})
}

func TestAlreadyPeeredRegionsMayJoinAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.await("b", federation.PeeringActive, 5*time.Second)
		r := w.join(b, a) // from the other side, with the same roots
		if r.Took > time.Second || a.show("b").State != federation.PeeringActive {
			t.Errorf("took %v, state %v", r.Took, a.show("b").State)
		}
	})
}

func TestStrangersAreTurnedAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		p := newPipe(b, a)
		a.m.Accept(t.Context(), "b", p.b)
		if !p.isDead() || !strings.Contains(p.err.Error(), "no peering") {
			t.Errorf("a stranger's session: %v", p.err)
		}
		w.join(a, b)
		c := w.add("c")
		p = newPipe(c, a)
		a.m.Accept(t.Context(), "b", p.b) // the identity is not of b's domain
		if !p.isDead() {
			t.Error("a session under another domain is taken")
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
			time.Sleep(10 * time.Millisecond)
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
		time.Sleep(stuckAfter + 3*watchEvery)
		if p.suspect.Load() < 2 {
			t.Error("nobody noticed")
		}
		close(p.m.cfg.Catalog.(*catalog).block)
		a.await("b", federation.PeeringActive, time.Minute)
		time.Sleep(2 * watchEvery)
		if p.suspect.Load() != 0 {
			t.Error("still reported")
		}
	})
}

func TestWaitSaysWhatIsMissing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		text := a.mustToken("b")
		ctx, cancel := within(time.Second)
		defer cancel()
		_, err := a.m.Wait(ctx, "b", federation.PeeringActive)
		mustCode(t, err, federation.CodePeeringWait)
		if err == nil || !strings.Contains(err.Error(), "waits to be redeemed in b") {
			t.Errorf("says %v", err)
		}
		_, err = a.m.Wait(ctx, "z", federation.PeeringActive)
		mustCode(t, err, federation.CodePeeringUnknown)

		// Trust is exchanged, then the way closes: the command ends with what it waits for, the peering goes on.
		w.onJoin = func(*node, []byte, []byte) bool {
			time.AfterFunc(wireDelay+time.Millisecond, func() { w.partition("a", "b") })
			return false
		}
		short, cancel := within(10 * time.Second)
		defer cancel()
		_, err = b.m.Establish(short, text, nil)
		mustCode(t, err, federation.CodePeeringWait)
		if err == nil || !strings.Contains(err.Error(), "waiting for a session") || !strings.Contains(err.Error(), "a.example.com:8443: no answer") {
			t.Errorf("says %v", err)
		}
		if s := b.show("a"); s.State != federation.PeeringEstablishing {
			t.Errorf("state %v", s.State)
		}
		w.heal()
		b.await("a", federation.PeeringActive, 40*time.Second)
	})
}

// TestNothingIsSaidBeforeTheCatalogIsKnown: a region that has just started must not look like one that withdrew everything,
// and yet it uses what the peer has at once.
func TestNothingIsSaidBeforeTheCatalogIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.stop()
		a.mute = true
		a.start()
		time.Sleep(20 * time.Second)
		if imp := a.catalog.imported("b"); imp == nil || imp.Freshness != federation.FreshnessLive {
			t.Errorf("a imports %+v", imp)
		}
		b.mustImport("a", "a-shop")
		a.m.SetExport("b", federation.ExportView{Origin: "a", Services: a.services})
		b.await("a", federation.PeeringActive, 2*time.Second)
		b.mustImport("a", "a-shop")
	})
}

func TestRemoveWithoutASessionStillTellsThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		if err := b.m.Pause(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		if err := b.m.Remove(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		t.Logf("removed in %v", time.Since(began))
		a.await("b", federation.PeeringTerminated, time.Second)
	})
}
