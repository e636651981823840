package peering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// Limits of what a token or a join may carry. They bound memory before anything is allocated.
const (
	MaxAddresses  = 8       // gateway addresses of one region: two zones of four, more is a load balancer's work
	maxAddress    = 253 + 6 // a DNS name (RFC 1035) and ":65535"
	maxBundle     = trust.MaxBundle
	maxDetail     = 400               // octets of text that a refusal may carry
	maxJoinFrame  = maxBundle + 4<<10 // a whole request or reply
	maxFinger     = 128               // octets of a fingerprint as people read it
	maxDomain     = 255               // SPIFFE ID specification, section 2.1
	maxRegionName = 63                // a DNS label
)

var errShort = errors.New("it ends early")

// encoder appends big-endian integers and length-prefixed text. Lengths have been checked by the caller.
type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = binary.BigEndian.AppendUint16(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *encoder) raw(p []byte) { e.b = append(e.b, p...) }
func (e *encoder) text(s string) {
	e.u16(uint16(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) addresses(list []string) {
	e.u8(uint8(len(list)))
	for _, a := range list {
		e.text(a)
	}
}

// decoder is the inverse. Its first error sticks, and every read after that returns zero values.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.b) {
		d.err = errShort
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() uint8 {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) text(what string, limit int) string {
	n := int(d.u16())
	if d.err == nil && n > limit {
		d.err = fmt.Errorf("its %s has %d octets: at most %d are allowed", what, n, limit)
	}
	return string(d.take(n))
}

func (d *decoder) fail(err error) {
	if d.err == nil && err != nil {
		d.err = err
	}
}

func (d *decoder) region(what string) federation.Region {
	s := d.text(what, maxRegionName)
	if d.err != nil {
		return ""
	}
	r, err := federation.ParseRegion(s)
	d.fail(err)
	return r
}

func (d *decoder) domain(what string) spiffeid.TrustDomain {
	s := d.text(what, maxDomain)
	if d.err != nil {
		return spiffeid.TrustDomain{}
	}
	td, err := spiffeid.TrustDomainFromString(s)
	d.fail(err)
	if err == nil && td.Name() != s { // the parser also takes "spiffe://..." and would make two encodings of one value
		d.fail(fmt.Errorf("its %s %q is not a bare trust domain", what, s))
	}
	return td
}

func (d *decoder) addresses(least int) []string {
	n := int(d.u8())
	if d.err == nil && (n < least || n > MaxAddresses) {
		d.err = fmt.Errorf("it has %d addresses: %d to %d are allowed", n, least, MaxAddresses)
	}
	var list []string
	for range n {
		a := d.text("address", maxAddress)
		if d.err != nil {
			return nil
		}
		d.fail(CheckAddress(a))
		list = append(list, a)
	}
	return list
}

// done returns the first error, or one that says that octets are left over.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) > 0 {
		return fmt.Errorf("%d octets follow its end", len(d.b))
	}
	return d.err
}

// CheckAddress returns what is wrong with s as the address of a gateway: "IP:port", "[IPv6]:port" or "name:port".
func CheckAddress(s string) error {
	if len(s) > maxAddress {
		return fmt.Errorf("address has %d octets: at most %d are allowed", len(s), maxAddress)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("address %q is not \"host:port\"", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("address %q has the port %q: write a number from 1 to 65535", s, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return fmt.Errorf("address %q has a zone, which means nothing in another region", s)
		}
		return federation.CheckAddress(ip) // a peer names the addresses that we dial: not our host's metadata service
	}
	if !dnsName(host) {
		return fmt.Errorf("address %q has the host %q, which is neither an IP address nor a DNS name", s, host)
	}
	return nil
}

// dnsName reports whether s is a host name as RFC 1123 has it, in either case.
func dnsName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// printable returns s as it may be shown to an operator: a peer's text, cut to limit octets, without control characters.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\uFFFD' || r == '\u202E' || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
