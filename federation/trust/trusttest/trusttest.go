// Package trusttest makes authorities, identities and handshakes for the tests of rooms that need trust, and forges the
// certificates that must be refused.
package trusttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// NewAuthority returns the authority of region with a CA of its own, gateway "gw-1", in a store in memory. Options may change
// the Config.
func NewAuthority(t testing.TB, region federation.Region, options ...func(*trust.Config)) *trust.Authority {
	t.Helper()
	cfg := trust.Config{Region: region, Gateway: "gw-1", Store: &storetest.Memory{}}
	for _, option := range options {
		option(&cfg)
	}
	a, err := trust.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open authority of %s: %v", region, err)
	}
	return a
}

// Pair returns the authorities of two regions that know each other.
func Pair(t testing.TB, a, b federation.Region) (*trust.Authority, *trust.Authority) {
	t.Helper()
	x, y := NewAuthority(t, a), NewAuthority(t, b)
	Introduce(t, x, y)
	Introduce(t, y, x)
	return x, y
}

// Introduce gives a the bundle that b has now.
func Introduce(t testing.TB, a, b *trust.Authority) {
	t.Helper()
	if err := a.SetPeer(t.Context(), b.Status().Region, b.TrustDomain(), b.Bundle().Marshal()); err != nil {
		t.Fatalf("introduce %s: %v", b.TrustDomain(), err)
	}
}

// Workload returns a certificate that a issued for service, such as "web" or "shop/web".
func Workload(t testing.TB, a *trust.Authority, service string) tls.Certificate {
	t.Helper()
	name, err := federation.ParseServiceName(service)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := a.Issue(t.Context(), name, key.Public())
	if err != nil {
		t.Fatalf("issue certificate for %s: %v", service, err)
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: svid.Certificates[0]}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// WorkloadTLS is the config of a caller that uses the local listener of a as service. It does not look at the listener's
// identity: tests of that want ClientTLS.
func WorkloadTLS(t testing.TB, a *trust.Authority, service string) *tls.Config {
	t.Helper()
	return Insecure(Workload(t, a, service))
}

// Insecure is the config of a side that shows cert, if it has one, and accepts whatever the other side shows.
func Insecure(cert tls.Certificate, protos ...string) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: protos, ClientAuth: tls.RequestClientCert}
	if cert.Certificate != nil {
		// Both, because crypto/tls would pick by what the other side asks for, and forged certificates suit nobody.
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return config
}

// Session is the two ends of one TLS session.
type Session struct {
	Client, Server *tls.Conn
}

// Close ends both sides.
func (s Session) Close() {
	s.Client.NetConn().Close()
	s.Server.NetConn().Close()
}

// pipe is net.Pipe with a queue in each direction: a side that refuses in the middle of the other's flight could not tell it
// otherwise, because the other is still writing.
func pipe() (client, server net.Conn) {
	c, s := net.Pipe()
	return newQueued(c), newQueued(s)
}

type queued struct {
	net.Conn
	out    chan []byte
	done   chan struct{}
	pumped chan struct{}
	once   sync.Once
}

func newQueued(c net.Conn) *queued {
	q := &queued{Conn: c, out: make(chan []byte, 64), done: make(chan struct{}), pumped: make(chan struct{})}
	go func() {
		defer close(q.pumped)
		for {
			select {
			case b := <-q.out:
				if _, err := c.Write(b); err != nil {
					return
				}
			case <-q.done:
				return
			}
		}
	}()
	return q
}

func (q *queued) Write(b []byte) (int, error) {
	select {
	case q.out <- bytes.Clone(b):
		return len(b), nil
	case <-q.pumped:
		return 0, net.ErrClosed
	}
}

func (q *queued) Close() error {
	q.once.Do(func() { close(q.done) })
	err := q.Conn.Close()
	<-q.pumped
	return err
}

// Handshake connects client and server by a pipe and returns the session once both have accepted each other. The error holds
// that of each side that refused. The session ends with the test, if it is not closed before.
func Handshake(t testing.TB, client, server *tls.Config) (Session, error) {
	t.Helper()
	c, s := pipe()
	deadline := time.Now().Add(10 * time.Second)
	session := Session{Client: tls.Client(c, client), Server: tls.Server(s, server)}
	t.Cleanup(session.Close)
	if err := errors.Join(c.SetDeadline(deadline), s.SetDeadline(deadline)); err != nil {
		return Session{}, err
	}
	served := make(chan error, 1)
	go func() {
		err := session.Server.Handshake()
		if err == nil {
			_, err = session.Server.Write([]byte{'!'}) // a client may finish before the server has judged it
		}
		if err != nil {
			s.Close()
			err = fmt.Errorf("server: %w", err)
		}
		served <- err
	}()
	err := session.Client.Handshake()
	if err == nil {
		_, err = session.Client.Read(make([]byte, 1))
	}
	if err != nil {
		c.Close()
		err = fmt.Errorf("client: %w", err)
	}
	if err := errors.Join(<-served, err); err != nil {
		session.Close()
		return Session{}, err
	}
	return session, errors.Join(c.SetDeadline(time.Time{}), s.SetDeadline(time.Time{}))
}
