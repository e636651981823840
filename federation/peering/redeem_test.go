package peering

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
)

func TestReplayOnAnotherChannel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.onJoin = func(*node, []byte, []byte) bool { return false }
		text := a.mustToken("b")
		if err := b.redeem(text); err != nil {
			t.Fatal(err)
		}
		seen := w.joins[0]
		mustCode(t, sendRaw(a, channel, seen.request), federation.CodeJoinProof)
		if alarm := a.show("b").Alarm; alarm == nil || alarm.Code != federation.CodeJoinProof {
			t.Errorf("no alarm: %+v", alarm)
		}
		// The same octets on the same channel are the redeemer itself, and change nothing.
		if err := sendRaw(a, seen.exporter, seen.request); err != nil {
			t.Error(err)
		}
	})
}

func TestNoSecretIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		text := a.mustToken("b")
		secret := mustParse(t, text).Secret
		look := func(n *node) {
			t.Helper()
			entries, err := n.store.List(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if strings.Contains(string(e.Value), string(secret[:])) || strings.Contains(string(e.Value), encodedSecret(secret)) {
					t.Errorf("%s keeps the secret under %q", n.region, e.Key)
				}
			}
		}
		look(a)
		if err := b.redeem(text); err != nil {
			t.Fatal(err)
		}
		look(a)
		look(b)
		if len(w.joins) == 0 {
			t.Fatal("no join was seen")
		}
		for _, j := range w.joins {
			if strings.Contains(string(j.request), string(secret[:])) {
				t.Error("the secret was sent")
			}
		}
	})
}

func encodedSecret(secret Secret) string {
	text, err := Token{
		Acceptor: "a", AcceptorDomain: spiffeid.RequireTrustDomainFromString("a"), Dialer: "b", Secret: secret,
		Addresses: []string{"a:1"}, Pin: sha256.Sum256(nil),
	}.Encode()
	if err != nil {
		return err.Error()
	}
	return text[70:100]
}

// TestTwoRedeemers lets two regions of the same name redeem one token at two gateways of the acceptor at the same moment: the
// gateways share nothing but the store.
func TestTwoRedeemers(t *testing.T) {
	for range 5 {
		bubble(t, func(t *testing.T, w *world) {
			shared := &storetest.Memory{}
			a1 := w.add("a", func(n *node) { n.store = shared })
			a2 := w.add("a", func(n *node) { n.store, n.addresses = shared, []string{"a2.example.com:8443"} })
			b1 := w.add("b")
			b2 := w.add("b", func(n *node) { n.addresses = []string{"198.51.100.2:8443"} })
			token := mustParse(t, a1.mustToken("b"))
			var wg sync.WaitGroup
			errs := make([]error, 2)
			wg.Go(func() { errs[0] = raw(a1, token, requestOf(b1)) })
			wg.Go(func() { errs[1] = raw(a2, token, requestOf(b2)) })
			wg.Wait()
			won := 0
			for _, err := range errs {
				if err == nil {
					won++
				} else {
					mustCode(t, err, federation.CodeTokenUsed)
				}
			}
			if won != 1 {
				t.Errorf("%d of two redeemers won: %v", won, errs)
			}
		})
	}
}

func TestLostReplyIsAskedForAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		lost := 0
		w.onJoin = func(*node, []byte, []byte) bool { lost++; return lost == 1 }
		text := a.mustToken("b")
		if err := b.redeem(text); err != nil {
			t.Fatalf("after one lost reply: %v", err)
		}
		if lost != 2 {
			t.Errorf("asked %d times", lost)
		}
	})
}

func TestCrashOfTheDialerBeforeTheReply(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.onJoin = func(*node, []byte, []byte) bool { return true }
		text := a.mustToken("b")
		mustCode(t, b.redeem(text), federation.CodePeerUnreachable)
		if got := a.tokenState(text); got != tokenConsumed {
			t.Fatalf("the token is %s", got)
		}
		b.stop()
		b.start()
		w.onJoin = nil
		if err := b.redeem(text); err != nil {
			t.Errorf("the same redeemer is refused: %v", err)
		}
	})
}

// brokenTrust fails to take over bundles until it is repaired, like a gateway that dies right after the token was consumed.
type brokenTrust struct {
	Trust
	broken *bool
}

func (b brokenTrust) SetPeer(ctx context.Context, r federation.Region, td spiffeid.TrustDomain, bundle []byte) error {
	if *b.broken {
		return errors.New("power failure")
	}
	return b.Trust.SetPeer(ctx, r, td, bundle)
}

func TestCrashOfTheAcceptorAfterConsuming(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		broken := true
		a, b := w.add("a"), w.add("b")
		a.stop()
		a.trust = brokenTrust{a.authority, &broken}
		a.start()
		text := a.mustToken("b")
		mustCode(t, b.redeem(text), federation.CodeJoinInternal)
		a.stop()
		broken = false
		a.start()
		synctest.Wait()
		if _, ok := a.authority.PeerBundle("b"); !ok {
			t.Error("the next start does not complete the join")
		}
		if err := b.redeem(text); err != nil {
			t.Errorf("the same redeemer is refused: %v", err)
		}
	})
}

func TestStoreThatFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		text := a.mustToken("b")
		a.memory.FailWith(errors.New("no space left on device"))
		mustCode(t, b.redeem(text), federation.CodeJoinInternal)
		_, _, err := a.m.GenerateToken(t.Context(), "c", 0)
		mustCode(t, err, federation.CodePeeringStore)
		a.memory.FailWith(nil)
		if _, ok := a.authority.PeerBundle("b"); ok {
			t.Error("trust was given without a record")
		}
		b.memory.FailWith(errors.New("no space left on device"))
		mustCode(t, b.redeem(text), federation.CodePeeringStore)
		b.memory.FailWith(nil)
		if err := b.redeem(text); err != nil {
			t.Errorf("with space again: %v", err)
		}
	})
}

func TestOldTokensAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		text := a.mustToken("b")
		pass(DefaultTokenTTL + keepSpent + 2*housekeepEvery)
		if _, err := loadToken(t.Context(), a.store, mustParse(t, text).id()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("still there: %v", err)
		}
	})
}
