package trust_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

// TestRememberedPaths: what was found good once is asked again as soon as time or roots have changed.
func TestRememberedPaths(t *testing.T) {
	c := &clock{time.Now()}
	start := c.at
	f, g := trusttest.NewForger(t, domainB, start), trusttest.NewForger(t, domainB, start)
	a := trusttest.NewAuthority(t, "a", at(c, nil))
	set := func(sequence uint64, roots ...*x509.Certificate) {
		t.Helper()
		b := trust.Bundle{TrustDomain: domainB, Sequence: sequence, Roots: roots}
		if err := a.SetPeer(t.Context(), "b", domainB, b.Marshal()); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	direct := chainOf(t, f.Forge(t, nil))
	between := chainOf(t, f.Forge(t, func(l *trusttest.Leaf) {
		f.Intermediate(t, l, key, func(c *x509.Certificate) { c.NotAfter = start.Add(time.Hour) })
	}))
	judge := func(when string, wantDirect, wantBetween federation.Code) {
		t.Helper()
		for range 2 {
			expectCode(t, when+", direct", a.Judge("b", direct), wantDirect)
			expectCode(t, when+", through an intermediate", a.Judge("b", between), wantBetween)
		}
	}
	set(1, f.Root)
	judge("at first", "", "")
	c.at = start.Add(2 * time.Hour)
	judge("after the intermediate's end", "", "TW-2206")
	c.at = start.Add(-10 * time.Minute)
	judge("with the clock set back", "TW-2206", "TW-2206")
	c.at = start
	judge("with the clock right again", "", "")
	set(2, g.Root, f.Root)
	judge("with both roots", "", "")
	set(3, g.Root)
	judge("without the root", "TW-2205", "TW-2205")
}

// TestLedgerIsBounded: a full ledger makes room by forgetting what has expired, and refuses when there is nothing to forget.
func TestLedgerIsBounded(t *testing.T) {
	const limit = 1 << 15
	c, s := &clock{time.Now()}, &storetest.Memory{}
	ops := make([]store.Op, store.MaxOps)
	for i := 0; i < limit; i += len(ops) {
		for j := range ops {
			value, err := json.Marshal(trust.Certificate{Serial: fmt.Sprint(i + j), NotAfter: c.at.Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			ops[j] = store.Op{Key: fmt.Sprintf("trust/issued/%d", i+j), Value: value}
		}
		if _, err := s.Commit(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
	a := trusttest.NewAuthority(t, "a", at(c, s))
	issue := func() error {
		key := chainOf(t, gatewayCertificate(t, a))[0].PublicKey
		_, err := a.Issue(t.Context(), serviceWeb, key)
		return err
	}
	expectCode(t, "full of live ones", issue(), "TW-2006")
	c.at = c.at.Add(2 * time.Hour)
	expectCode(t, "full of expired ones", issue(), "")
	if n := a.Status().Issued; n != 2 {
		t.Errorf("%d certificates are remembered", n)
	}
}
