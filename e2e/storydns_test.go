package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// nameserver is a DNS server for SRV records, in the test's own process.
type nameserver struct {
	mu    sync.Mutex
	zones map[string][]netip.AddrPort // nil: it fails to answer
}

// zone makes the story's DNS server answer for the SRV records of a name, and sets $DNS to its address. With "fails" instead of
// addresses it answers that it cannot.
func (s *story) zone(args []string) (said, error) {
	if s.names == nil {
		if err := s.startNameserver(); err != nil {
			return said{}, err
		}
	}
	at := []netip.AddrPort{}
	for _, text := range args[1:] {
		if text == "fails" {
			at = nil
			break
		}
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return said{}, fmt.Errorf("zone: %w", err)
		}
		at = append(at, a)
	}
	s.names.mu.Lock()
	defer s.names.mu.Unlock()
	s.names.zones[dns.CanonicalName(args[0])] = at
	return said{}, nil
}

func (s *story) startNameserver() error {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.names = &nameserver{zones: map[string][]netip.AddrPort{}}
	server := &dns.Server{PacketConn: conn, Handler: s.names}
	ended := make(chan struct{})
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(ended)
		_ = server.ActivateAndServe() // it ends with the story
	}()
	<-started
	s.closers = append(s.closers, func() { _ = server.Shutdown(); <-ended })
	s.ts.Setenv("DNS", conn.LocalAddr().String())
	return nil
}

// ServeDNS answers as the authority for everything.
func (n *nameserver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	name := q.Question[0].Name
	zone, known := n.zones[dns.CanonicalName(name)]
	switch {
	case !known:
		m.Rcode = dns.RcodeNameError
	case zone == nil:
		m.Rcode = dns.RcodeServerFailure
	}
	for i, a := range zone {
		target := fmt.Sprintf("host-%d.example.com.", i)
		m.Answer = append(m.Answer, &dns.SRV{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: 1}, Weight: 10,
			Port: a.Port(), Target: target})
		m.Extra = append(m.Extra, &dns.A{Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: a.Addr().AsSlice()})
	}
	_ = w.WriteMsg(m) // who does not get it asks again
}
