package peering

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
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
				"session done: we dialled " + acceptor.addresses[0] + " over quic",
				"catalog done: 1 service offered to you, 1 shown to them",
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
				p, ok := n.catalog.peer(other.region)
				if !ok || p.State != federation.PeeringActive || p.TrustDomain != federation.DefaultTrustDomain(other.region) {
					t.Errorf("%s: catalog has the peer as %+v", n.region, p)
				}
			}
			pass(2 * time.Second) // the probe is over
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
			pass(5 * time.Second)
			reach := acceptor.show(dialler.region).Reach
			if !reach.Known || reach.OK || !strings.Contains(reach.Detail, "10.0.0.7:8443: no answer within 3s") {
				t.Errorf("the other side shows %+v", reach)
			}
			// It works all the same, and comes back by itself from the only side that can dial.
			w.killSessions(dialler.region)
			pass(10 * time.Second)
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

// TestBothSidesDialAtOnce lets both sides dial with every offset around the time that a handshake takes. One session must
// come of it, the same on both sides, and it must stay.
func TestBothSidesDialAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		pass(5 * time.Second)
		for offset := -120 * time.Millisecond; offset <= 120*time.Millisecond; offset += 5 * time.Millisecond {
			w.partition("a", "b")
			pass(2 * idleTimeout) // the session is dead on both sides, and pauses are long
			w.heal()
			time.AfterFunc(max(0, offset), func() { a.m.Nudge("b") })
			time.AfterFunc(max(0, -offset), func() { b.m.Nudge("a") })
			pass(time.Second)
			sa, sb := a.show("b"), b.show("a")
			if sa.State != federation.PeeringActive || sb.State != federation.PeeringActive || sa.Session.Dialled == sb.Session.Dialled {
				t.Fatalf("offset %v: a is %v with %+v; b is %v with %+v", offset, sa.State, sa.Session, sb.State, sb.Session)
			}
			pass(3 * time.Second)
			if got := w.openSessions("a", "b"); got != 1 {
				t.Errorf("offset %v: %d sessions", offset, got)
			}
			if now := a.show("b").Session; now != sa.Session {
				t.Errorf("offset %v: the session did not stay: %+v, then %+v", offset, sa.Session, now)
			}
		}
	})
}

func TestNudgeEndsAPause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		w.partition("a", "b")
		pass(10 * time.Minute)
		w.heal()
		b.m.Nudge("a") // not the region that dials first
		b.m.Nudge("nobody")
		if took := b.await("a", federation.PeeringActive, 10*time.Second); took > 4*time.Second { // it may be in the middle of an attempt
			t.Errorf("active after %v", took)
		}
		a.await("b", federation.PeeringActive, time.Second)
	})
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
			if told, err := remover.m.Remove(t.Context(), removed.region); err != nil || !told {
				t.Fatalf("told %v, %v", told, err)
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
		if _, err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		_, err := a.m.Remove(t.Context(), "b")
		mustCode(t, err, federation.CodePeeringUnknown)
	})
}

func TestRemoveWhileTheOtherSideIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		w.partition("a", "b")
		pass(time.Minute)
		if told, err := a.m.Remove(t.Context(), "b"); err != nil || told {
			t.Fatalf("told %v, %v", told, err)
		}
		w.heal()
		pass(2 * time.Minute)
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
		pass(2 * time.Minute)
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
		if s := a.show("b"); s.State == federation.PeeringPaused {
			t.Errorf("resumed, and it says: %v, %s", s.State, s.Reason)
		}
		took := a.await("b", federation.PeeringActive, 5*time.Second)
		t.Logf("active %v after resume", took)
		mustCode(t, a.m.Pause(t.Context(), "nobody"), federation.CodePeeringUnknown)
		a.mustToken("c")
		mustCode(t, a.m.Pause(t.Context(), "c"), federation.CodePeeringState)
	})
}

func TestBundleChangesReachThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		if err := a.authority.Revoke(t.Context(), "spiffe://a.mesh.internal/gw/gw-old", "its disk was stolen"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
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
		pass(10 * time.Second)
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
		if err == nil || !strings.Contains(err.Error(), "waiting for a session: a.example.com:8443: no answer") {
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
		pass(20 * time.Second)
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
		pass(time.Minute)
		if told, err := b.m.Remove(t.Context(), "a"); err != nil || !told {
			t.Fatalf("told %v, %v", told, err)
		}
		a.await("b", federation.PeeringTerminated, time.Second)
	})
}

// TestTrustThatRefuses: two regions with one trust domain join at the same time; only trust itself can tell.
func TestTrustThatRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		verdict := &federation.Diagnostic{Code: "TW-2105", What: "the trust bundle of b was refused", Why: "its domain belongs to c"}
		a, b := w.add("a"), w.add("b")
		a.stop()
		a.trust = refusingTrust{a.authority, verdict}
		a.start()
		mustCode(t, b.redeem(a.mustToken("b")), federation.CodeJoinBundle)
		if s := a.show("b"); s.State != federation.PeeringTerminated || !strings.Contains(s.Reason, "belongs to c") {
			t.Errorf("shows %+v", s)
		}
	})
}

type refusingTrust struct {
	Trust
	verdict error
}

func (r refusingTrust) SetPeer(context.Context, federation.Region, spiffeid.TrustDomain, []byte) error {
	return r.verdict
}

func TestHealthReachesThePeer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		slots := service("b-shop", 3).Slots
		slots[0].Health.Healthy = 0
		b.m.SetHealth("a", named("b-shop"), slots)
		b.m.SetHealth("nobody", named("b-shop"), slots)
		pass(time.Second)
		if healthy, total := a.catalog.imported("b").Service(named("b-shop")).Lane.Sum(); healthy != 0 || total != 3 {
			t.Errorf("%d of %d are healthy", healthy, total)
		}
	})
}
