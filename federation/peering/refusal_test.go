package peering

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// mustToken makes a token of n for peer.
func (n *node) mustToken(peer federation.Region, addresses ...string) string {
	n.w.t.Helper()
	text, _, err := n.m.GenerateToken(n.w.t.Context(), peer, 0, addresses...)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return text
}

// redeem establishes and returns the error; one that only says that the catalog did not come in time counts as none.
func (n *node) redeem(text string) error {
	ctx, cancel := within(time.Minute)
	defer cancel()
	_, err := n.m.Establish(ctx, text, nil)
	if federation.CodeOf(err) == federation.CodePeeringWait {
		return nil
	}
	return err
}

func mustParse(t *testing.T, text string) Token {
	t.Helper()
	token, err := ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// consumed reports what became of the token in the acceptor's store.
func (n *node) tokenState(text string) spent {
	n.w.t.Helper()
	t, err := loadToken(n.w.t.Context(), n.store, mustParse(n.w.t, text).id())
	if err != nil {
		n.w.t.Fatal(err)
	}
	return t.State
}

func TestExpiredToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b", func(n *node) { n.skew.Store(int64(-4 * time.Minute)) })
		text := a.mustToken("b")
		pass(DefaultTokenTTL - time.Second)
		synctest.Wait()
		pass(2 * time.Second)
		mustCode(t, b.redeem(text), federation.CodeTokenExpired) // by the acceptor's clock
		if got := a.tokenState(text); got != tokenIssued {
			t.Errorf("the expired token is %s", got)
		}
		pass(5 * time.Minute)
		mustCode(t, b.redeem(text), federation.CodeTokenExpired) // by both
		gone := a.mustToken("b", "192.0.2.1:8443")
		pass(DefaultTokenTTL + 5*time.Minute)
		err := b.redeem(gone) // by the dialer's own, because nobody else can tell
		mustCode(t, err, federation.CodeTokenExpired)
		if text := err.Error(); !strings.Contains(text, "expired 1m0s ago, by the clock of this region") || !strings.Contains(text, "192.0.2.1") {
			t.Errorf("it says %s", text)
		}
		if s := a.show("b"); s.State != federation.PeeringPending || !strings.Contains(s.Reason, "expired") {
			t.Errorf("the acceptor shows %v: %s", s.State, s.Reason)
		}
	})
}

func TestTokenUsedByAnother(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		thief := w.add("b", func(n *node) { n.addresses = []string{"198.51.100.66:8443"} })
		text := a.mustToken("b")
		if err := thief.redeem(text); err != nil {
			t.Fatal(err)
		}
		mustCode(t, b.redeem(text), federation.CodeTokenUsed)
		if alarm := a.show("b").Alarm; alarm == nil || alarm.Code != federation.CodeTokenUsed {
			t.Errorf("no alarm: %+v", alarm)
		}
		if _, err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		a.mustToken("b")
		if alarm := a.show("b").Alarm; alarm != nil {
			t.Errorf("the next peering begins with the alarm of the last: %+v", alarm)
		}
	})
}

func TestTokenForAnotherRegion(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a"), w.add("b"), w.add("c")
		text := a.mustToken("b")
		mustCode(t, c.redeem(text), federation.CodeTokenRegion)
		// A redeemer that hides whom the token is for does not get past the acceptor.
		forged := mustParse(t, text)
		forged.Dialer = "c"
		mustCode(t, c.redeem(mustEncode(t, forged)), federation.CodeTokenRegion)
		if got := a.tokenState(text); got != tokenIssued {
			t.Errorf("the token is %s", got)
		}
		if err := b.redeem(text); err != nil {
			t.Errorf("the right region is refused afterwards: %v", err)
		}
	})
}

func TestClocksThatDiffer(t *testing.T) {
	for _, skew := range []time.Duration{6 * time.Minute, -6 * time.Minute, 16 * time.Minute} { // by the last, a new token has expired
		bubble(t, func(t *testing.T, w *world) {
			a, b := w.add("a"), w.add("b", func(n *node) { n.skew.Store(int64(skew)) })
			text := a.mustToken("b")
			err := b.redeem(text)
			mustCode(t, err, federation.CodeClockSkew)
			if !strings.Contains(err.Error(), skew.Abs().String()) {
				t.Errorf("does not say by how much: %v", err)
			}
			b.skew.Store(0)
			if err := b.redeem(text); err != nil {
				t.Errorf("after the clock was set: %v", err)
			}
		})
	}
	e := establishing{m: &Manager{cfg: Config{Now: time.Now}}}
	lying := sampleReply()
	lying.Time = time.Now().Add(-6 * time.Minute)
	mustCode(t, e.judge(sampleToken(), lying, 0), federation.CodeClockSkew)
}

func TestWrongPin(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.add("c")
		text := a.mustToken("b", "c.example.com:8443") // a reused address
		mustCode(t, b.redeem(text), federation.CodeWrongPin)
		// Of several addresses, the one that leads there still counts.
		if err := b.redeem(a.mustToken("b", "c.example.com:8443", "a.example.com:8443")); err != nil {
			t.Error(err)
		}
	})
}

func TestUnreachableNamesEachAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		text := a.mustToken("b", "192.0.2.1:8443", "[2001:db8::1]:8443")
		began := time.Now()
		err := b.redeem(text)
		mustCode(t, err, federation.CodePeerUnreachable)
		if took := time.Since(began); took != 2*joinTimeout {
			t.Errorf("took %v", took)
		}
		for _, want := range []string{"192.0.2.1:8443: no answer within 5s", "[2001:db8::1]:8443: no answer within 5s"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing: %v", want, err)
			}
		}
		if len(b.m.List()) != 0 {
			t.Error("a failed attempt left a peering")
		}
	})
}

func TestDeadFirstAddressStillJoins(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		began := time.Now()
		if err := b.redeem(a.mustToken("b", "192.0.2.1:8443", "a.example.com:8443")); err != nil {
			t.Fatal(err)
		}
		t.Logf("joined after %v", time.Since(began))
	})
}

func TestSameNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		token := mustParse(t, a.mustToken("b"))

		sameDomain := token
		sameDomain.AcceptorDomain = federation.DefaultTrustDomain("b")
		mustCode(t, b.redeem(mustEncode(t, sameDomain)), federation.CodeSameTrustDomain)

		sameRegion := token
		sameRegion.Acceptor = "b"
		mustCode(t, b.redeem(mustEncode(t, sameRegion)), federation.CodeSameRegion)

		_, _, err := a.m.GenerateToken(t.Context(), "a", 0)
		mustCode(t, err, federation.CodeSameRegion)

		own := requestOf(b)
		own.Domain = federation.DefaultTrustDomain("a")
		mustCode(t, raw(a, token, own), federation.CodeSameTrustDomain)
	})
}

func TestDomainOfAnotherPeer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		if err := b.redeem(a.mustToken("b")); err != nil {
			t.Fatal(err)
		}
		// c comes with b's identity.
		r := requestOf(b)
		r.Region = "c"
		mustCode(t, raw(a, mustParse(t, a.mustToken("c")), r), federation.CodeSameTrustDomain)
	})
}

// requestOf is the honest request of n.
func requestOf(n *node) joinRequest {
	return joinRequest{
		Region: n.region, Domain: federation.DefaultTrustDomain(n.region), Addresses: n.addresses,
		Time: n.now(), Bundle: n.authority.Bundle().Marshal(),
	}
}

// raw sends a request of our making to the acceptor and returns its refusal.
func raw(acceptor *node, t Token, r joinRequest) error {
	r.Token = t.id()
	b, err := r.encode(t.key(), channel)
	if err != nil {
		return err
	}
	return sendRaw(acceptor, channel, b)
}

func sendRaw(acceptor *node, exporter, request []byte) error {
	b, err := acceptor.m.Join(context.Background(), "192.0.2.9:1234", exporter, request)
	if err != nil {
		return err
	}
	reply, err := parseJoinReply(b)
	if err != nil || reply.Refusal == accepted {
		return err
	}
	return reply.Refusal.diagnostic(acceptor.region, reply.Detail)
}

func TestOtherVersionsAndDamage(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		mustCode(t, b.redeem("tw2.AAAA"), federation.CodeTokenVersion)
		mustCode(t, b.redeem("what?"), federation.CodeTokenMalformed)
		mustCode(t, sendRaw(a, channel, []byte("TWJ\x02...")), federation.CodeJoinVersion)
		mustCode(t, sendRaw(a, channel, []byte("TWJ\x01...")), federation.CodeJoinMalformed)
		mustCode(t, sendRaw(a, channel, nil), federation.CodeJoinMalformed)
		mustCode(t, sendRaw(a, channel, make([]byte, 1<<20)), federation.CodeJoinMalformed)
		bad := requestOf(b)
		bad.Bundle = []byte("{}")
		mustCode(t, raw(a, mustParse(t, a.mustToken("b")), bad), federation.CodeJoinBundle)
	})
}

func TestRevokedTokens(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		older, newer := a.mustToken("b"), a.mustToken("b")
		mustCode(t, b.redeem(older), federation.CodeTokenRevoked)
		if _, err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		mustCode(t, b.redeem(newer), federation.CodeTokenRevoked)

		// Also one that was redeemed: a removal is not undone by asking again.
		text := a.mustToken("b")
		if err := b.redeem(text); err != nil {
			t.Fatal(err)
		}
		if _, err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		mustCode(t, b.redeem(text), federation.CodeTokenRevoked)
	})
}

func TestPeeredWithAnotherBundle(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		if err := b.redeem(a.mustToken("b")); err != nil {
			t.Fatal(err)
		}
		rebuilt := w.add("b", func(n *node) { n.addresses = []string{"198.51.100.7:8443"} })
		text := a.mustToken("b")
		_, err := rebuilt.m.Establish(t.Context(), text, nil)
		mustCode(t, err, federation.CodePeeredOtherwise)
		if !strings.Contains(err.Error(), "there: tradewind peer remove b;") {
			t.Errorf("%v", err)
		}
		if got := a.tokenState(text); got != tokenIssued {
			t.Errorf("the refused join left the token %s", got)
		}
		if known, _ := a.authority.PeerBundle("b"); !sharesRoot(known, b.authority.Bundle()) {
			t.Error("trust in the known one is gone")
		}

		// The other way round, the token is not even spent.
		imposter := w.add("a", func(n *node) { n.addresses = []string{"198.51.100.8:8443"} })
		text = imposter.mustToken("b")
		var last Step
		_, err = b.m.Establish(t.Context(), text, func(s Step) { last = s })
		mustCode(t, err, federation.CodePeeredOtherwise)
		if !strings.Contains(err.Error(), "here: tradewind peer remove a;") {
			t.Errorf("%v", err)
		}
		if last.State != StepFailed || strings.Contains(last.Detail, "TW-") || strings.Contains(last.Detail, "fix:") {
			t.Errorf("the step says %+v", last)
		}
		if got := imposter.tokenState(text); got != tokenIssued {
			t.Errorf("the token is %s", got)
		}

		if _, err := a.m.Remove(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		if err := rebuilt.redeem(a.mustToken("b")); err != nil {
			t.Errorf("after the operator removed the old peering: %v", err)
		}
	})
}

func TestUnknownToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		token := mustParse(t, a.mustToken("b"))
		token.Secret[0] ^= 1
		mustCode(t, b.redeem(mustEncode(t, token)), federation.CodeTokenUnknown)
	})
}

func TestTokenLimits(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		for _, ttl := range []time.Duration{-time.Second, time.Second, MaxTokenTTL + 1} {
			_, _, err := a.m.GenerateToken(t.Context(), "b", ttl)
			mustCode(t, err, federation.CodeTokenLifetime)
			if !strings.Contains(err.Error(), "fix: tradewind peer generate-token b --ttl 15m)") {
				t.Errorf("%v", err)
			}
		}
		tooMany := strings.Split("a:1 a:1 a:1 a:1 a:1 a:1 a:1 a:1 a:1", " ")
		for _, addresses := range [][]string{{"0.0.0.0:8443"}, {"nonsense"}, {"169.254.169.254:80"}, tooMany} {
			_, _, err := a.m.GenerateToken(t.Context(), "b", 0, addresses...)
			mustCode(t, err, federation.CodeNoAddress)
		}
		a.addresses = nil
		_, _, err := a.m.GenerateToken(t.Context(), "b", 0)
		mustCode(t, err, federation.CodeNoAddress)
		if len(a.m.List()) != 0 {
			t.Error("a refused request left an entry")
		}
	})
}

func TestEveryRefusalHasItsOwnCodeAndHelp(t *testing.T) {
	seen := map[federation.Code]refusal{}
	for r := refusedMalformed; r <= refusedPin; r++ {
		d := r.diagnostic("a", "because")
		if other, twice := seen[d.Code]; twice {
			t.Errorf("refusals %d and %d share %s", r, other, d.Code)
		}
		seen[d.Code] = r
		if _, ok := federation.Help(d.Code); !ok || d.Fix == "" {
			t.Errorf("refusal %d (%s) has no help or fix", r, d.Code)
		}
	}
	if d := refusal(9999).diagnostic("a", "the moon"); d.Code != federation.CodeJoinMalformed || !strings.Contains(d.Error(), "the moon") {
		t.Errorf("an unknown refusal: %v", d)
	}
}
