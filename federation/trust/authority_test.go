package trust_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

var serviceWeb = federation.ServiceName{Namespace: "default", Name: "web"}

// clock is a Config.Now that tests set.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func at(c *clock, s store.Store) func(*trust.Config) {
	return func(cfg *trust.Config) {
		cfg.Now = c.now
		if s != nil {
			cfg.Store = s
		}
	}
}

func chainOf(t testing.TB, cert tls.Certificate) []*x509.Certificate {
	t.Helper()
	chain, err := x509.ParseCertificates(join(cert.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func revoke(t testing.TB, a *trust.Authority, what string) {
	t.Helper()
	if err := a.Revoke(t.Context(), what, "test"); err != nil {
		t.Fatalf("revoke %s: %v", what, err)
	}
}

// TestReopen: a restart finds the CA, the gateway's certificate, the peers, the ledger and the revocations.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	open := func() (*trust.Authority, *store.Bolt) {
		s, err := store.OpenBolt(dir)
		if err != nil {
			t.Fatal(err)
		}
		return trusttest.NewAuthority(t, "a", func(c *trust.Config) { c.Store = s }), s
	}
	a, s := open()
	b := trusttest.NewAuthority(t, "b")
	trusttest.Introduce(t, a, b)
	good, bad := chainOf(t, trusttest.Workload(t, a, "web")), chainOf(t, trusttest.Workload(t, a, "web"))
	revoke(t, a, serial(bad[0]))
	revoke(t, a, "spiffe://a.mesh.internal/gw/gone")
	before, gateway := a.Bundle(), a.Status().Gateway.Serial
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	a, s = open()
	defer s.Close()
	if diff := sameBundle(before, a.Bundle()); diff != "" {
		t.Errorf("the bundle changed:\n%s", diff)
	}
	if now := a.Status().Gateway.Serial; now != gateway {
		t.Errorf("the gateway has certificate %s, had %s", now, gateway)
	}
	if peer, ok := a.PeerBundle("b"); !ok || !peer.Equal(b.Bundle()) {
		t.Errorf("the peer's bundle is %+v", peer)
	}
	if err := a.Judge("", good); err != nil {
		t.Errorf("a certificate from before: %v", err)
	}
	if err := a.Judge("", bad); federation.CodeOf(err) != "TW-2207" {
		t.Errorf("a revoked certificate from before: %v", err)
	}
	issued, err := a.Issued(t.Context())
	if err != nil || len(issued) != 3 || issued[0].ID != a.GatewayID() || issued[1].Revoked == issued[2].Revoked {
		t.Errorf("issued is %+v, %v", issued, err)
	}
	other := func(c *trust.Config) {
		c.Store, c.TrustDomain = s, spiffeid.RequireTrustDomainFromString("other.mesh.internal")
	}
	cfg := trust.Config{Region: "a", Gateway: "gw-1"}
	other(&cfg)
	if _, err := trust.Open(t.Context(), cfg); federation.CodeOf(err) != "TW-2001" {
		t.Errorf("the store of another trust domain: %v", err)
	}
	cfg = trust.Config{Region: "renamed", TrustDomain: a.TrustDomain(), Gateway: "gw-1", Store: s}
	if _, err := trust.Open(t.Context(), cfg); federation.CodeOf(err) != "TW-2001" || !strings.Contains(err.Error(), `"renamed"`) {
		t.Errorf("the store of another region with the same trust domain: %v", err)
	}
	cfg = trust.Config{Region: "a", Gateway: "not a name", Store: s}
	if _, err := trust.Open(t.Context(), cfg); federation.CodeOf(err) != "TW-2001" {
		t.Errorf("a gateway name with spaces: %v", err)
	}
}

func TestRevokeBySerial(t *testing.T) {
	a, b := trusttest.Pair(t, "a", "b")
	web := chainOf(t, trusttest.Workload(t, a, "web"))
	other := chainOf(t, trusttest.Workload(t, a, "web"))
	changed, stop := a.Changed()
	defer stop()
	sequence := a.Bundle().Sequence
	revoke(t, a, strings.ToUpper(serial(web[0])))
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	expectCode(t, "the revoked one", a.Judge("", web), "TW-2207")
	expectCode(t, "another one of the service", a.Judge("", other), "")
	if got := a.Bundle(); got.Sequence != sequence || len(got.Revoked) != 0 {
		t.Errorf("peers are told of a workload: %+v", got.Revoked)
	}

	// The gateway's: it gets another one on the spot, and peers learn to refuse the old one.
	session := handshake(t, clientTLS(t, a, "b", "cx/1"), b.ServerTLS("cx/1"))
	chain := session.Server.ConnectionState().PeerCertificates
	expectCode(t, "before", b.Judge("a", chain), "")
	revoke(t, a, serial(chain[0]))
	if now := a.Status().Gateway.Serial; now == serial(chain[0]) {
		t.Error("the gateway still uses its revoked certificate")
	}
	if got := a.Bundle(); got.Sequence <= sequence || len(got.Revoked) != 1 || got.Revoked[0].Reason != "" {
		t.Errorf("peers are told %+v", got)
	}
	expectCode(t, "before b has heard of it", b.Judge("a", chain), "")
	changedB, stopB := b.Changed()
	defer stopB()
	trusttest.Introduce(t, b, a)
	<-changedB
	expectCode(t, "a live session", b.Judge("a", chain), "TW-2207")
	if _, _, err := b.Identify(session.Server.ConnectionState()); federation.CodeOf(err) != "TW-2207" {
		t.Errorf("Identify: %v", err)
	}
	handshake(t, clientTLS(t, a, "b", "cx/1"), b.ServerTLS("cx/1"))
	revoke(t, a, serial(chain[0])) // twice is once
	if n := len(a.Revocations()); n != 2 {
		t.Errorf("%d revocations", n)
	}
}

func TestRevokeByIdentity(t *testing.T) {
	a, b := trusttest.Pair(t, "a", "b")
	for range 3 { // also in the same second
		web, shop := chainOf(t, trusttest.Workload(t, a, "web")), chainOf(t, trusttest.Workload(t, a, "shop/web"))
		revoke(t, a, "spiffe://a.mesh.internal/ns/default/svc/web")
		expectCode(t, "the identity", a.Judge("", web), "TW-2207")
		expectCode(t, "its namesake", a.Judge("", shop), "")
	}
	before := gatewayCertificate(t, a)
	revoke(t, a, a.GatewayID().String())
	trusttest.Introduce(t, b, a)
	expectCode(t, "the gateway before", b.Judge("a", chainOf(t, before)), "TW-2207")
	expectCode(t, "the gateway now", b.Judge("a", chainOf(t, gatewayCertificate(t, a))), "")
	for _, what := range []string{
		"", "xyz", "-1", "0", "+5", strings.Repeat("f", 41), strings.Repeat("0", 100), "spiffe://b.mesh.internal/gw/gw-1",
		"spiffe://a.mesh.internal/x", "spiffe://a.mesh.internal", "spiffe:", "SPIFFE://a.mesh.internal/gw/gw-1", "a.mesh.internal/gw/gw-1",
	} {
		if err := a.Revoke(t.Context(), what, ""); federation.CodeOf(err) != "TW-2007" {
			t.Errorf("Revoke(%q): %v", what, err)
		}
	}
	// A colon form, leading zeros, a number that was never issued: it may have been lost with a backup.
	revoke(t, a, "00:AB:cd")
	if list := a.Revocations(); !slices.ContainsFunc(list, func(r trust.Revocation) bool { return r.Serial == "abcd" }) {
		t.Errorf("revoked are %+v", list)
	}
}

func TestRevocationsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := trusttest.Pair(t, "a", "b")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go a.Run(ctx)
		revoke(t, a, serial(chainOf(t, trusttest.Workload(t, a, "web"))[0]))
		revoke(t, a, "spiffe://a.mesh.internal/gw/gone")
		<-time.After(2*trust.WorkloadLife + 15*time.Minute) // virtual time
		if n := len(a.Revocations()); n != 1 {
			t.Errorf("%d revocations after the workload's certificate expired", n)
		}
		trusttest.Introduce(t, b, a)
		sequence := a.Bundle().Sequence
		<-time.After(trust.GatewayLife) // virtual time
		if n := len(a.Revocations()); n != 0 {
			t.Errorf("%d revocations after all of them expired", n)
		}
		if got := a.Bundle(); got.Sequence <= sequence || len(got.Revoked) != 0 {
			t.Errorf("the bundle is %+v, its sequence was %d", got, sequence)
		}
		trusttest.Introduce(t, b, a)
		if list, err := a.Issued(ctx); err != nil || len(list) < 1 || len(list) > 3 {
			t.Errorf("the ledger remembers %d certificates, %v", len(list), err)
		}
	})
}

// TestTooManyRevocations: the bundle never outgrows what peers take, and what does not fit is refused, not dropped.
func TestTooManyRevocations(t *testing.T) {
	c := &clock{time.Now()}
	a := trusttest.NewAuthority(t, "a", at(c, nil))
	n := 0
	var err error
	for ; err == nil && n < trust.MaxRevocations; n++ {
		long := "spiffe://a.mesh.internal/gw/g" + strings.Repeat("x", 400)
		err = a.Revoke(t.Context(), long+time.Duration(n).String(), "")
	}
	if federation.CodeOf(err) != "TW-2006" || n < 50 {
		t.Fatalf("after %d: %v", n, err)
	}
	if data := a.Bundle().Marshal(); len(data) == 0 || len(data) > trust.MaxBundle {
		t.Errorf("the bundle has %d octets", len(data))
	}
	c.at = c.at.Add(13 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}

// TestYearOfRotations lets a year pass for two gateways that are introduced once. At no time is a handshake refused, a
// certificate in use near its end, or a stream broken that was opened at the beginning.
func TestYearOfRotations(t *testing.T) {
	defer goleak.VerifyNone(t)
	synctest.Test(t, func(t *testing.T) {
		a, b := trusttest.Pair(t, "a", "b")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- a.Run(ctx) }()
		go func() { ended <- b.Run(ctx) }()
		live := handshake(t, clientTLS(t, a, "b", "cx/1"), b.ServerTLS("cx/1"))
		client, server := clientTLS(t, b, "a", "cx/1"), a.ServerTLS("cx/1")
		seen := map[string]bool{}
		for range 365 {
			<-time.After(24 * time.Hour) // virtual time
			s, err := trusttest.Handshake(t, client, server)
			if err != nil {
				t.Fatalf("after %d days: %v", len(seen), err)
			}
			leaf := s.Client.ConnectionState().PeerCertificates[0]
			s.Close()
			if left := time.Until(leaf.NotAfter); left < trust.GatewayLife*9/20 {
				t.Errorf("the gateway shows a certificate that is good for %v", left)
			}
			seen[serial(leaf)] = true
		}
		if len(seen) != 365 {
			t.Errorf("%d certificates on 365 days", len(seen))
		}
		exchangeByte(t, live)
		if st := a.Status(); st.Issued > 5 || len(st.Alarms) != 0 || st.Gateway.LastError != nil {
			t.Errorf("status after a year: %+v", st)
		}
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

func exchangeByte(t *testing.T, s trusttest.Session) {
	t.Helper()
	if _, err := s.Client.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := s.Server.Read(b); err != nil || b[0] != 7 {
		t.Errorf("the old stream gives %v, %v", b, err)
	}
}

// TestClockThatIsSet: the certificate follows the clock on the wall, in both directions, and whoever connects need not wait until
// Run looks at it again.
func TestClockThatIsSet(t *testing.T) {
	if at := trusttest.NewAuthority(t, "a").Status().Gateway.RenewAt; at != at.Round(0) {
		t.Errorf("the renewal at %v goes by a clock that does not know of this", at)
	}
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		now := func(c *trust.Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } }
		a, b := trusttest.NewAuthority(t, "a", now), trusttest.NewAuthority(t, "b", now)
		trusttest.Introduce(t, a, b)
		trusttest.Introduce(t, b, a)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go a.Run(ctx)
		synctest.Wait()
		renewed := func(what string, trigger func()) {
			t.Helper()
			before := a.Status().Gateway.Serial
			trigger()
			synctest.Wait()
			if a.Status().Gateway.Serial == before {
				t.Errorf("%s: the certificate was not renewed", what)
			}
		}
		connect := func() { _, _ = trusttest.Handshake(t, clientTLS(t, b, "a", "cx/1"), a.ServerTLS("cx/1")) }
		renewed("set ahead, found by Run", func() {
			ahead.Add(int64(7 * time.Hour))
			<-time.After(5 * time.Minute) // virtual time
		})
		renewed("set ahead, found by a handshake", func() { ahead.Add(int64(7 * time.Hour)); connect() })
		renewed("set back, found by a handshake", func() { ahead.Add(int64(-7 * time.Hour)); connect() })
		handshake(t, clientTLS(t, b, "a", "cx/1"), a.ServerTLS("cx/1"))
		renewed("set back, found by Run", func() {
			ahead.Add(int64(-7 * time.Hour))
			<-time.After(5 * time.Minute) // virtual time
		})
	})
}

// TestLiveSessionExpires: a session does not outlive the certificate it was made with.
func TestLiveSessionExpires(t *testing.T) {
	c := &clock{time.Now()}
	a := trusttest.NewAuthority(t, "a", at(c, nil))
	b := trusttest.NewAuthority(t, "b", at(c, nil))
	trusttest.Introduce(t, a, b)
	trusttest.Introduce(t, b, a)
	chain := handshake(t, clientTLS(t, a, "b"), b.ServerTLS()).Server.ConnectionState().PeerCertificates
	c.at = c.at.Add(trust.GatewayLife - time.Minute)
	expectCode(t, "a minute before", b.Judge("a", chain), "")
	c.at = c.at.Add(2 * time.Minute)
	expectCode(t, "a minute after", b.Judge("a", chain), "TW-2206")
	expectCode(t, "of a peer never heard of", b.Judge("c", chain), "TW-2201")
	expectCode(t, "no chain", b.Judge("a", nil), "TW-2202")
	if err := b.RemovePeer(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	expectCode(t, "of a peer removed", b.Judge("a", chain), "TW-2201")
	if _, err := trusttest.Handshake(t, clientTLS(t, a, "b"), b.ServerTLS()); federation.CodeOf(err) == "" {
		t.Errorf("a removed peer connects: %v", err)
	}
}

// TestSubscriptions: signals are level-triggered, and an ended subscription holds nothing.
func TestSubscriptions(t *testing.T) {
	a := trusttest.NewAuthority(t, "a")
	one, stop := a.Changed()
	two, stopTwo := a.Changed()
	stopTwo()
	for range 3 {
		revoke(t, a, "spiffe://a.mesh.internal/ns/default/svc/web")
	}
	<-one
	select {
	case <-one:
		t.Error("three changes before a look gave two signals")
	case <-two:
		t.Error("an ended subscription was told")
	default:
	}
	stop()
}

func TestStatusAlarms(t *testing.T) {
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	start := c.at
	a := trusttest.NewAuthority(t, "a", at(c, nil))
	b := trusttest.NewAuthority(t, "b", at(&clock{start}, nil))
	trusttest.Introduce(t, a, b)
	codes := func() string {
		var s []string
		for _, d := range a.Status().Alarms {
			s = append(s, string(d.Code))
		}
		return strings.Join(s, " ")
	}
	for _, step := range []struct {
		after time.Duration
		level trust.Level // of the peer's root
		want  string
	}{
		{time.Hour, trust.LevelOK, ""},
		{7 * time.Hour, trust.LevelOK, ""}, // renewal is due, which is no alarm
		{10 * time.Hour, trust.LevelOK, "TW-2008"},
		{trust.RootLife * 2 / 5, trust.LevelOK, "TW-2008"},
		{trust.RootLife * 3 / 5, trust.LevelNotice, "TW-2002 TW-2008 TW-2106"},
		{trust.RootLife * 4 / 5, trust.LevelWarning, "TW-2002 TW-2008 TW-2106"},
		{trust.RootLife * 19 / 20, trust.LevelCritical, "TW-2002 TW-2008 TW-2106"},
		{trust.RootLife + time.Hour, trust.LevelExpired, "TW-2002 TW-2008 TW-2106"},
	} {
		c.at = start.Add(step.after)
		if got := codes(); got != step.want {
			t.Errorf("after %v the alarms are %q, want %q", step.after, got, step.want)
		}
		if got := a.Status().Peers[0].Level; got != step.level {
			t.Errorf("after %v the peer's root is at %q, want %q", step.after, got, step.level)
		}
	}
	_, err := a.Issue(t.Context(), serviceWeb, chainOf(t, gatewayCertificate(t, b))[0].PublicKey)
	if federation.CodeOf(err) != "TW-2001" {
		t.Errorf("an expired CA issues: %v", err)
	}
}

// TestDiskFull: what cannot be written is not in force, but the gateway keeps its identity.
func TestDiskFull(t *testing.T) {
	s := &storetest.Memory{}
	c := &clock{time.Now()}
	a := trusttest.NewAuthority(t, "a", at(c, s))
	full := errors.New("no space left on device")
	s.FailWith(full)
	web := gatewayCertificate(t, a)
	if err := a.Revoke(t.Context(), "abc", ""); !errors.Is(err, full) || len(a.Revocations()) != 0 {
		t.Errorf("Revoke: %v", err)
	}
	f := trusttest.NewForger(t, domainB, c.at)
	if err := a.SetPeer(t.Context(), "b", domainB, f.Bundle(1).Marshal()); !errors.Is(err, full) {
		t.Errorf("SetPeer: %v", err)
	}
	if _, ok := a.PeerBundle("b"); ok {
		t.Error("a peer that could not be written is known")
	}
	if err := a.RotateCA(t.Context()); !errors.Is(err, full) {
		t.Errorf("RotateCA: %v", err)
	}
	if _, err := a.Issue(t.Context(), serviceWeb, chainOf(t, web)[0].PublicKey); !errors.Is(err, full) {
		t.Errorf("Issue: %v", err)
	}
	s.FailWith(nil)
	revoke(t, a, "abc")
	if err := a.SetPeer(t.Context(), "b", domainB, f.Bundle(1).Marshal()); err != nil {
		t.Errorf("SetPeer with room again: %v", err)
	}
}

// BenchmarkJudge is the cost of judging one live session again.
func BenchmarkJudge(b *testing.B) {
	x, y := trusttest.Pair(b, "a", "b")
	s := handshake(b, clientTLS(b, x, "b"), y.ServerTLS())
	chain := s.Server.ConnectionState().PeerCertificates
	b.ReportAllocs()
	for b.Loop() {
		if err := y.Judge("a", chain); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	x, y := trusttest.Pair(b, "a", "b")
	client, server := clientTLS(b, x, "b"), y.ServerTLS()
	for b.Loop() {
		s, err := trusttest.Handshake(b, client, server)
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
