package peering

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The join protocol: one request, one reply, on a TLS connection that the dialer has pinned to the acceptor's root. Both
// start with "TWJ" and the version, so that a later version can still be refused in words.
const (
	joinVersion   = 1
	joinMagic     = "TWJ"
	joinHeaderLen = len(joinMagic) + 1
)

// joinRequest is what the dialer says of itself. Its proof covers every octet of it and the TLS exporter, so that neither a
// replay on another connection nor a change of any field passes.
type joinRequest struct {
	Token     tokenID
	Region    federation.Region
	Domain    spiffeid.TrustDomain
	Addresses []string // of the dialer's gateways; none when it can only dial out
	Time      time.Time
	Bundle    []byte
}

// joinReply is the acceptor's answer: a refusal, or what the dialer needs to trust it.
type joinReply struct {
	Refusal   refusal // 0: accepted
	Detail    string  // of a refusal, for the operator
	Time      time.Time
	Region    federation.Region
	Domain    spiffeid.TrustDomain
	Addresses []string
	Bundle    []byte
	Yours     string // fingerprint of the dialer's bundle, as the acceptor computes it
}

// errVersion is a request or reply of another version of the protocol.
type errVersion struct{ version uint8 }

func (e *errVersion) Error() string {
	return fmt.Sprintf("it speaks join/%d, and this side speaks join/%d", e.version, joinVersion)
}

// encode returns the request with its proof, for the connection that exporter belongs to.
func (r joinRequest) encode(key [sha256.Size]byte, exporter []byte) ([]byte, error) {
	if len(r.Bundle) > maxBundle || len(r.Addresses) > MaxAddresses {
		return nil, errors.New("encode join request: bundle or list of addresses is too large")
	}
	e := encoder{b: []byte(joinMagic)}
	e.u8(joinVersion)
	e.raw(r.Token[:])
	e.text(string(r.Region))
	e.text(r.Domain.Name())
	e.u64(uint64(r.Time.UnixMilli()))
	e.addresses(r.Addresses)
	e.text(string(r.Bundle))
	e.raw(proof(key, exporter, e.b))
	return e.b, nil
}

// proof binds body to whoever knows the token's secret and to one TLS connection (RFC 5705 exporter).
func proof(key [sha256.Size]byte, exporter, body []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	sum := sha256.Sum256(body)
	mac.Write([]byte("tradewind join/1 request\x00"))
	mac.Write([]byte{byte(len(exporter) >> 8), byte(len(exporter))})
	mac.Write(exporter)
	mac.Write(sum[:])
	return mac.Sum(nil)
}

// proven reports whether the proof at the end of request holds for key on the connection of exporter.
func proven(request []byte, key [sha256.Size]byte, exporter []byte) bool {
	cut := len(request) - sha256.Size
	return cut > 0 && len(exporter) >= 16 && hmac.Equal(request[cut:], proof(key, exporter, request[:cut]))
}

// parseJoinRequest reads a request; it does not judge its proof.
func parseJoinRequest(b []byte) (joinRequest, error) {
	d, err := joinBody(b)
	if err != nil {
		return joinRequest{}, err
	}
	var r joinRequest
	copy(r.Token[:], d.take(len(r.Token)))
	r.Region = d.region("region")
	r.Domain = d.domain("trust domain")
	r.Time = d.time()
	r.Addresses = d.addresses(0)
	r.Bundle = []byte(d.text("bundle", maxBundle))
	d.take(sha256.Size)
	return r, d.done()
}

func (r joinReply) encode() []byte {
	e := encoder{b: []byte(joinMagic)}
	e.u8(joinVersion)
	e.u16(uint16(r.Refusal))
	e.u64(uint64(r.Time.UnixMilli()))
	if r.Refusal != accepted {
		e.text(printable(r.Detail, maxDetail))
		return e.b
	}
	e.text(string(r.Region))
	e.text(r.Domain.Name())
	e.addresses(r.Addresses)
	e.text(r.Yours)
	e.text(string(r.Bundle))
	return e.b
}

func parseJoinReply(b []byte) (joinReply, error) {
	d, err := joinBody(b)
	if err != nil {
		return joinReply{}, err
	}
	r := joinReply{Refusal: refusal(d.u16()), Time: d.time()}
	if r.Refusal != accepted {
		r.Detail = printable(d.text("detail", maxDetail), maxDetail)
		return r, d.done()
	}
	r.Region = d.region("region")
	r.Domain = d.domain("trust domain")
	r.Addresses = d.addresses(0)
	r.Yours = printable(d.text("fingerprint", maxFinger), maxFinger)
	r.Bundle = []byte(d.text("bundle", maxBundle))
	return r, d.done()
}

// joinBody checks size, magic and version.
func joinBody(b []byte) (*decoder, error) {
	switch {
	case len(b) > maxJoinFrame:
		return nil, fmt.Errorf("it has %d octets: at most %d are allowed", len(b), maxJoinFrame)
	case len(b) < joinHeaderLen:
		return nil, errShort
	case string(b[:len(joinMagic)]) != joinMagic:
		return nil, errors.New("it is no join message")
	case b[len(joinMagic)] != joinVersion:
		return nil, &errVersion{b[len(joinMagic)]}
	}
	return &decoder{b: b[joinHeaderLen:]}, nil
}

// time reads milliseconds since 1970, bounded so that arithmetic on the result cannot overflow.
func (d *decoder) time() time.Time {
	v := d.u64()
	if v > 1<<45 { // about the year 3084
		d.fail(errors.New("its time is out of bounds"))
		return time.Time{}
	}
	return time.UnixMilli(int64(v)).UTC()
}
