// Package trust answers one question: who is that, and do we still believe it? It holds the region's certificate authority,
// issues SPIFFE identities (X.509-SVIDs) to the gateway and to workloads, keeps one trust bundle for each peer, and builds
// the tls.Configs of every listener and dialer.
//
// The rules that everything here serves:
//
//   - One trust domain and one CA per region. The certificate pools of two domains are never merged: a chain is verified
//     against exactly one pool, that of the domain the certificate names, and only if that domain is expected here.
//   - The name constraints that our roots carry are depth, not the gate. crypto/x509 accepts under a URI constraint
//     sub-domains, upper case, user info, ports, other schemes and certificates without any URI, so acceptance is decided in
//     this package from the octets of the certificate: see checkLeaf.
//   - A request supplies a public key and nothing else; every other field of a certificate is ours.
//   - Keys are short-lived and rotate at half their life; nothing waits for a certificate to expire. What must end earlier
//     is revoked, peers learn of it with the bundle, and live sessions are judged again (Judge, Changed).
//   - A peer may replace its own bundle only forward and only with one that shares a root with what we know. Anything else is
//     for an operator to decide.
package trust
