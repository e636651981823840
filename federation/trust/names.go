package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"

	"github.com/tradewind-mesh/tradewind/federation"
)

// maxNames bounds how many names' certificates are kept: about 2 KiB each. A caller that asks for made-up names costs a
// signature each time, which is less than the handshake around it.
const maxNames = 1024

// nameCertificates are certificates of the gateway for names in the mesh, made when they are first asked for. They share one
// key. They are no identities, so neither the ledger nor a revocation knows them: they end with the gateway's certificate.
type nameCertificates struct {
	mu   sync.Mutex
	key  crypto.Signer
	made map[string]*tls.Certificate
}

// nameCertificate returns the certificate to show a local caller: one for the name it asked for or, for no name, for one
// outside the mesh and with an outside CA, which signs identities only, the gateway's own.
func (a *Authority) nameCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := a.state.Load()
	if hello == nil || s.ca.embedded == nil || !isMeshName(hello.ServerName) {
		return s.gateway.mesh, nil
	}
	name, n := strings.ToLower(hello.ServerName), s.gateway.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if cert := n.made[name]; cert != nil {
		return cert, nil
	}
	if n.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the key for local callers: %w", err)
		}
		n.key = key
	}
	leaf := s.gateway.mesh.Leaf
	chain, err := s.ca.embedded.signWith(n.key.Public(), Profile{ID: a.gatewayID, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}, []string{name})
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	if n.made == nil || len(n.made) >= maxNames {
		n.made = make(map[string]*tls.Certificate)
	}
	cert := &tls.Certificate{Certificate: rawChain(chain), PrivateKey: n.key, Leaf: chain[0]}
	n.made[name] = cert
	return cert, nil
}

// isMeshName reports whether name can be a service's: host name letters below the mesh's domain. Whether there is such a
// service is not looked at here; the listener says so to callers that it knows.
func isMeshName(name string) bool {
	head, found := strings.CutSuffix(strings.ToLower(name), "."+federation.MeshDomain)
	if !found || len(name) > 253 { // RFC 1035 section 3.1
		return false
	}
	for label := range strings.SplitSeq(head, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}
