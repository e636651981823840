package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// ask asks the servers in order until one gives an answer that says something about name.
func (q *question) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	var errs []error
	for _, server := range q.cfg.Servers {
		m, err := q.exchange(ctx, server, name, kind)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("ask for %s: %w", name, ctx.Err())
		}
		errs = append(errs, fmt.Errorf("ask %s for %s %s: %w", server, name, dns.TypeToString[kind], err))
	}
	return nil, errors.Join(errs...)
}

// exchange asks one server, over TCP when the answer does not fit into a datagram.
func (q *question) exchange(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	m, err := q.send(ctx, "udp", server, name, kind)
	if err == nil && m.Truncated {
		m, err = q.send(ctx, "tcp", server, name, kind)
	}
	if err != nil {
		return nil, err
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeRefused:
		return nil, &poll.DeniedError{Action: "dns:query", Err: errors.New("the server refuses to answer this gateway")}
	default:
		return nil, fmt.Errorf("the server answers %s", cmp.Or(dns.RcodeToString[m.Rcode], fmt.Sprint(m.Rcode)))
	}
	if len(m.Answer) == 0 && !m.Authoritative && !hasSOA(m) {
		// A resolver that lost its way to the zone's servers may answer so; "there is none" comes with the zone's SOA (RFC 2308).
		return nil, errors.New("the answer is empty and does not say that there is nothing")
	}
	return m, nil
}

func hasSOA(m *dns.Msg) bool {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return true
		}
	}
	return false
}

// send makes one request.
func (q *question) send(ctx context.Context, network, server, name string, kind uint16) (_ *dns.Msg, err error) {
	if err := q.budget.Wait(ctx); err != nil {
		return nil, err
	}
	q.listing.Calls++
	inner, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(inner, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(inner, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes reads and writes
	defer stop()
	query := new(dns.Msg).SetQuestion(name, kind)
	query.SetEdns0(udpSize, false)
	c := &dns.Conn{Conn: conn, UDPSize: udpSize}
	if err := c.WriteMsg(query); err != nil {
		return nil, err
	}
	for range 16 { // late answers to others' questions are skipped, a flood of them is not
		m, err := c.ReadMsg()
		if err != nil {
			if inner.Err() != nil {
				return nil, fmt.Errorf("no answer within %v: %w", q.cfg.Timeout, inner.Err())
			}
			return nil, err
		}
		if m.Response && m.Id == query.Id && len(m.Question) == 1 && m.Question[0] == query.Question[0] {
			return m, nil
		}
	}
	return nil, errors.New("the answers are to other questions")
}
