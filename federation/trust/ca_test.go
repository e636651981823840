package trust_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

// TestRotateCA: nobody has to hear of the new root before it is used, and the old pin is still good for joining.
func TestRotateCA(t *testing.T) {
	s := &storetest.Memory{}
	c := &clock{time.Now()}
	a, b := trusttest.NewAuthority(t, "a", at(c, s)), trusttest.NewAuthority(t, "b", at(c, nil))
	trusttest.Introduce(t, a, b)
	trusttest.Introduce(t, b, a)
	web := trusttest.Workload(t, a, "web")
	oldPin, oldBundle, oldGateway := a.RootPin(), a.Bundle(), gatewayCertificate(t, a)

	if err := a.RotateCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.RootPin() == oldPin || len(a.Bundle().Roots) != 2 || a.Bundle().Sequence <= oldBundle.Sequence {
		t.Errorf("after the rotation: %+v", a.Status())
	}
	if now := gatewayCertificate(t, a); slices.Equal(now.Certificate[0], oldGateway.Certificate[0]) {
		t.Error("the gateway still uses a certificate of the old root")
	}
	sessions := func(when string) {
		t.Helper()
		for name, err := range map[string]error{
			"to the peer":       secondOf(trusttest.Handshake(t, clientTLS(t, a, "b", "cx/1"), b.ServerTLS("cx/1"))),
			"from the peer":     secondOf(trusttest.Handshake(t, clientTLS(t, b, "a", "cx/1"), a.ServerTLS("cx/1"))),
			"join, old pin":     secondOf(trusttest.Handshake(t, b.JoinTLS(oldPin), a.ServerTLS(trust.JoinProtocol))),
			"join, new pin":     secondOf(trusttest.Handshake(t, b.JoinTLS(a.RootPin()), a.ServerTLS(trust.JoinProtocol))),
			"workload, new":     secondOf(trusttest.Handshake(t, trusttest.WorkloadTLS(t, a, "web"), a.LocalTLS())),
			"workload, old":     a.Judge("", chainOf(t, web)),
			"gateway, old root": b.Judge("a", chainOf(t, oldGateway)),
			"gateway, new root": b.Judge("a", chainOf(t, gatewayCertificate(t, a))),
		} {
			expectCode(t, name+" "+when, err, "")
		}
	}
	sessions("before the peer has heard of it")
	trusttest.Introduce(t, b, a)
	sessions("after the peer has heard of it")

	// A restart finds the new root, and the forgotten key stays forgotten.
	pin := a.RootPin()
	a = trusttest.NewAuthority(t, "a", at(c, s))
	if a.RootPin() != pin || len(a.Bundle().Roots) != 2 {
		t.Errorf("after a restart: %+v", a.Status())
	}
	sessions("after a restart")

	// More roots than a bundle takes.
	var err error
	rotations := 1
	for ; err == nil; rotations++ {
		err = a.RotateCA(t.Context())
	}
	if federation.CodeOf(err) != "TW-2009" || rotations != trust.MaxRoots {
		t.Errorf("after %d rotations: %v", rotations, err)
	}
	if n := len(gatewayCertificate(t, a).Certificate); n != 2 {
		t.Errorf("the gateway shows %d certificates", n)
	}
	trusttest.Introduce(t, b, a)
	handshake(t, b.JoinTLS(a.RootPin()), a.ServerTLS(trust.JoinProtocol))
}

func secondOf[T any](_ T, err error) error { return err }

// TestRootIsReplacedInTime lets a region live for six years, longer than its first root, with a peer that hears of each bundle
// a month late.
func TestRootIsReplacedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := trusttest.Pair(t, "a", "b")
		for range 6 * 12 {
			// A gateway that is off for a month, up for a moment.
			<-time.After(365 * 24 * time.Hour / 12) // virtual time
			for _, x := range []*trust.Authority{a, b} {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- x.Run(ctx) }()
				synctest.Wait()
				cancel()
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
			}
			s, err := trusttest.Handshake(t, clientTLS(t, a, "b"), b.ServerTLS())
			if err != nil {
				t.Fatalf("at %v: %v", time.Now(), err)
			}
			s.Close()
			trusttest.Introduce(t, a, b)
			trusttest.Introduce(t, b, a)
		}
		if st := a.Status(); len(st.Roots) != 1 || st.Roots[0].Level == trust.LevelExpired {
			t.Errorf("after six years the roots are %+v", st.Roots)
		}
	})
}

// outsideCA is a Signer that does what it is told, and can be made to fail.
type outsideCA struct {
	t      testing.TB
	forger *trusttest.Forger
	roots  []*x509.Certificate // default: the forger's
	fail   error
	edit   func(*trusttest.Leaf)
	hang   bool // accept requests and never answer
	mu     sync.Mutex
}

// set changes o while it is in use.
func (o *outsideCA) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *outsideCA) Sign(ctx context.Context, pub crypto.PublicKey, p trust.Profile) ([]*x509.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.fail != nil:
		return nil, o.fail
	case o.hang:
		o.mu.Unlock()
		<-ctx.Done()
		o.mu.Lock()
		return nil, ctx.Err()
	}
	cert := o.forger.Forge(o.t, func(l *trusttest.Leaf) {
		l.ExtraExtensions = []pkix.Extension{trusttest.URIs(p.ID.String())}
		l.NotBefore, l.NotAfter = p.NotBefore, p.NotAfter
		l.Key = publicOnly{pub}
		if o.edit != nil {
			o.edit(l)
		}
	})
	return x509.ParseCertificates(join(cert.Certificate))
}

func (o *outsideCA) Roots(context.Context) ([]*x509.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.roots != nil {
		return o.roots, o.fail
	}
	return []*x509.Certificate{o.forger.Root}, o.fail
}

// publicOnly is the key of a request: what it signs is none of the CA's business.
type publicOnly struct{ pub crypto.PublicKey }

func (k publicOnly) Public() crypto.PublicKey { return k.pub }
func (k publicOnly) Sign(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no private key")
}

func TestOutsideCA(t *testing.T) {
	c, s := &clock{time.Now()}, &storetest.Memory{}
	domainA := trusttest.NewAuthority(t, "a").TrustDomain()
	ca := &outsideCA{t: t, forger: trusttest.NewForger(t, domainA, c.at)}
	outside := func(cfg *trust.Config) { cfg.Signer = ca }

	// From the embedded CA to an outside one and on: peers keep a root in common at each step.
	embedded := trusttest.NewAuthority(t, "a", at(c, s))
	b := trusttest.NewAuthority(t, "b", at(c, nil))
	trusttest.Introduce(t, b, embedded)
	a := trusttest.NewAuthority(t, "a", at(c, s), outside)
	if st := a.Status(); !st.OutsideCA || len(st.Roots) != 2 || a.Bundle().Sequence <= embedded.Bundle().Sequence {
		t.Fatalf("status is %+v", st)
	}
	trusttest.Introduce(t, b, a)
	trusttest.Introduce(t, a, b)
	handshake(t, clientTLS(t, a, "b"), b.ServerTLS())
	if err := a.RotateCA(t.Context()); federation.CodeOf(err) != "TW-2009" {
		t.Errorf("RotateCA: %v", err)
	}

	issue := func() error {
		_, err := a.Issue(t.Context(), serviceWeb, chainOf(t, gatewayCertificate(t, b))[0].PublicKey)
		return err
	}
	expectCode(t, "an obedient CA", issue(), "")
	for name, edit := range map[string]func(*trusttest.Leaf){
		"another identity": uris("spiffe://a.mesh.internal/ns/default/svc/admin"),
		"a name besides": sans(
			trusttest.Name{Tag: trusttest.TagURI, Value: "spiffe://a.mesh.internal/ns/default/svc/web"},
			trusttest.Name{Tag: trusttest.TagDNS, Value: "web"}),
		"another key":     func(l *trusttest.Leaf) { l.Key = publicOnly{a.Bundle().Roots[0].PublicKey} },
		"a longer life":   func(l *trusttest.Leaf) { l.NotAfter = l.NotAfter.Add(time.Hour) },
		"a CA":            func(l *trusttest.Leaf) { l.IsCA = true },
		"one use only":    func(l *trusttest.Leaf) { l.ExtKeyUsage = l.ExtKeyUsage[:1] },
		"another CA's":    func(l *trusttest.Leaf) { *l = signedBy(t, trusttest.NewForger(t, domainA, c.at), *l) },
		"a future start":  func(l *trusttest.Leaf) { l.NotBefore = c.at.Add(time.Hour) },
		"nothing but CAs": func(l *trusttest.Leaf) { l.Intermediate = repeat(ca.forger.Root.Raw, 9) },
	} {
		ca.edit = edit
		expectCode(t, name, issue(), "TW-2004")
	}
	ca.edit = nil
	ca.fail = errors.New("503")
	expectCode(t, "an outage", issue(), "TW-2003")

	// A restart during the outage, first in the first half of the certificate's life, then in the second, then too late.
	gateway := a.Status().Gateway.Serial
	for _, after := range []time.Duration{time.Hour, 10 * time.Hour} {
		c.at = c.at.Add(after)
		if again := trusttest.NewAuthority(t, "a", at(c, s), outside); again.Status().Gateway.Serial != gateway {
			t.Errorf("after %v it uses another certificate", after)
		}
	}
	c.at = c.at.Add(2 * time.Hour)
	_, err := trust.Open(t.Context(), trust.Config{Region: "a", Gateway: "gw-1", Store: s, Now: c.now, Signer: ca})
	expectCode(t, "a restart without any certificate", err, "TW-2003")
	_, err = trust.Open(t.Context(), trust.Config{Region: "new", Gateway: "gw-1", Store: &storetest.Memory{}, Now: c.now, Signer: ca})
	expectCode(t, "a first start during the outage", err, "TW-2003")
	ca.fail = nil
	back := trusttest.NewAuthority(t, "a", at(c, s)) // and back to an embedded CA
	if st := back.Status(); st.OutsideCA || len(st.Roots) < 2 {
		t.Errorf("status is %+v", st)
	}
}

// TestOutsideOutage: while the CA is away the gateway tries again and again, shows why, and recovers by itself.
func TestOutsideOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		domainA := trusttest.NewAuthority(t, "a").TrustDomain()
		ca := &outsideCA{t: t, forger: trusttest.NewForger(t, domainA, time.Now())}
		a := trusttest.NewAuthority(t, "a", func(cfg *trust.Config) { cfg.Signer = ca })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		synctest.Wait()
		first := a.Status().Gateway.Serial
		ca.set(func() { ca.hang = true })
		<-time.After(11*time.Hour + 30*time.Minute) // virtual time
		st := a.Status()
		if st.Gateway.Serial != first || st.Gateway.Level != trust.LevelCritical || len(st.Alarms) != 1 || st.Gateway.LastError == nil {
			t.Errorf("during the outage: %+v", st)
		}
		other := trusttest.NewForger(t, domainA, time.Now())
		ca.set(func() { ca.hang, ca.roots = false, []*x509.Certificate{other.Root, ca.forger.Root} })
		<-time.After(11 * time.Minute) // virtual time
		if st := a.Status(); st.Gateway.Serial == first || len(st.Alarms) != 0 || st.Gateway.LastError != nil || len(st.Roots) != 2 {
			t.Errorf("after the outage: %+v", st)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
