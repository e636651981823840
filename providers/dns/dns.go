// Package dns lists the addresses that names have in the DNS: the way for whatever is registered nowhere else, such as virtual
// machines behind a round-robin name or the SRV records of a registry. A name is asked for again when its records' TTL is over.
//
// An answer that says that the name has no such records is a complete listing of nothing. A server that fails, refuses or does not
// answer has said nothing.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Config configures a lister.
type Config struct {
	Servers []string // "192.0.2.53:53", tried in order; empty: those of /etc/resolv.conf
	Names   []Name
	Timeout time.Duration // of one question to one server; default 2 s, as of most resolvers
	Log     *slog.Logger  // default: discard
}

// Name is a name that is asked for and the service that its addresses are.
type Name struct {
	Name      string // "web.example.com", "_http._tcp.example.com"; always a full name
	Type      string // "A", "AAAA" or "SRV"; default "A"
	Port      uint16 // for A and AAAA
	Service   string
	Namespace string
}

const (
	leastTTL = time.Second     // some servers say 0 to forbid caching; once a second is as good as that
	mostTTL  = 5 * time.Minute // longer ones are written by people who do not expect to be believed
	maxAddrs = 10_000          // addresses of one name
	udpSize  = 1232            // fits any path without fragments; dnsflagday.net/2020
)

// Lister lists names. It satisfies poll.Watcher.
type Lister struct {
	cfg    Config
	scopes map[poll.Scope]Name
}

// New returns a lister of the names in cfg.
func New(cfg Config) (*Lister, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, 2*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Servers) == 0 {
		system, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("read the system's DNS servers: %w", err)
		}
		for _, s := range system.Servers {
			cfg.Servers = append(cfg.Servers, net.JoinHostPort(s, system.Port))
		}
	}
	for _, s := range cfg.Servers {
		if _, err := netip.ParseAddrPort(s); err != nil {
			return nil, fmt.Errorf("server %q is no address and port, such as \"192.0.2.53:53\"", s)
		}
	}
	l := &Lister{cfg: cfg, scopes: map[poll.Scope]Name{}}
	for _, n := range cfg.Names {
		n.Type = cmp.Or(n.Type, "A")
		if err := n.check(); err != nil {
			return nil, err
		}
		n.Name = dns.CanonicalName(n.Name)
		scope := poll.Scope{Provider: "dns", Kind: strings.ToLower(n.Type), Part: strings.TrimSuffix(n.Name, ".")}
		if _, twice := l.scopes[scope]; twice {
			return nil, fmt.Errorf("name %q is listed twice for %s", scope.Part, n.Type)
		}
		l.scopes[scope] = n
	}
	if len(l.scopes) == 0 {
		return nil, errors.New("no name is listed")
	}
	return l, nil
}

func (n Name) check() error {
	if _, ok := dns.IsDomainName(n.Name); !ok || n.Name == "" {
		return fmt.Errorf("name %q is no domain name", n.Name)
	}
	switch n.Type {
	case "A", "AAAA":
		if n.Port == 0 {
			return fmt.Errorf("name %q needs a port: %s records have none", n.Name, n.Type)
		}
	case "SRV":
		if n.Port != 0 {
			return fmt.Errorf("name %q has a port, but SRV records bring their own", n.Name)
		}
	default:
		return fmt.Errorf("name %q: type %q is unknown: use A, AAAA or SRV", n.Name, n.Type)
	}
	if n.Service == "" {
		return fmt.Errorf("name %q says no service", n.Name)
	}
	return nil
}

// Scopes implements poll.Lister: one for each name.
func (l *Lister) Scopes(context.Context) ([]poll.Scope, error) {
	out := make([]poll.Scope, 0, len(l.scopes))
	for s := range l.scopes {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b poll.Scope) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// List implements poll.Lister.
func (l *Lister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	listing, _, err := l.list(ctx, scope, budget)
	return listing, err
}

// Watch implements poll.Watcher: it asks again whenever the TTL of an answer is over, and ends with the first failure.
func (l *Lister) Watch(ctx context.Context, scope poll.Scope, budget poll.Budget, tell func(poll.Listing)) error {
	for {
		listing, ttl, err := l.list(ctx, scope, budget)
		if err != nil {
			return err
		}
		tell(listing)
		if !poll.Rest(ctx, min(max(ttl, leastTTL), mostTTL), nil) {
			return ctx.Err()
		}
	}
}

// list asks for one name. The TTL is the least of all records.
func (l *Lister) list(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, time.Duration, error) {
	n, ok := l.scopes[scope]
	if !ok {
		return poll.Listing{}, 0, fmt.Errorf("scope %v is not one of this lister", scope)
	}
	q := &question{Lister: l, budget: budget, ttl: mostTTL}
	var err error
	if n.Type == "SRV" {
		err = q.services(ctx, n)
	} else {
		err = q.addresses(ctx, n)
	}
	if err == nil && len(q.listing.Records) > maxAddrs {
		err = fmt.Errorf("name %s has more than %d addresses", n.Name, maxAddrs)
	}
	if err != nil {
		return poll.Listing{}, 0, err
	}
	return q.listing, q.ttl, nil
}

// question is one listing while it is made.
type question struct {
	*Lister
	budget  poll.Budget
	listing poll.Listing
	ttl     time.Duration
}

// addresses lists the A or AAAA records of a name.
func (q *question) addresses(ctx context.Context, n Name) error {
	found, err := q.resolve(ctx, n.Name, dns.StringToType[n.Type])
	for _, a := range found {
		q.add(n, netip.AddrPortFrom(a, n.Port), 0)
	}
	return err
}

// services lists the SRV records of a name that have the lowest priority: the others are for when those cannot be reached, which a
// gateway finds out by failing over to another region.
func (q *question) services(ctx context.Context, n Name) error {
	m, err := q.ask(ctx, n.Name, dns.TypeSRV)
	if err != nil {
		return err
	}
	var best []*dns.SRV
	for _, rr := range q.owned(m, n.Name) {
		srv, ok := rr.(*dns.SRV)
		if !ok || srv.Target == "." { // RFC 2782: the service is decidedly not there
			continue
		}
		if len(best) > 0 && srv.Priority < best[0].Priority {
			best = nil
		}
		if len(best) == 0 || srv.Priority == best[0].Priority {
			best = append(best, srv)
		}
	}
	for _, srv := range best {
		found := q.additional(m, srv.Target)
		if len(found) == 0 {
			if found, err = q.target(ctx, srv.Target); err != nil {
				return err
			}
		}
		if len(found) == 0 {
			q.listing.Partial = fmt.Errorf("target %s has no address", srv.Target)
		}
		for _, a := range found {
			q.add(n, netip.AddrPortFrom(a, srv.Port), srv.Weight)
		}
	}
	return nil
}

// additional returns the addresses that an answer brings for a target.
func (q *question) additional(m *dns.Msg, target string) (out []netip.Addr) {
	for _, rr := range m.Extra {
		if strings.EqualFold(rr.Header().Name, target) {
			if a, ok := addressOf(rr); ok {
				q.note(rr)
				out = append(out, a)
			}
		}
	}
	return out
}

// target asks for the addresses of a target.
func (q *question) target(ctx context.Context, target string) ([]netip.Addr, error) {
	found, err := q.resolve(ctx, target, dns.TypeA)
	if err != nil || len(found) > 0 {
		return found, err
	}
	return q.resolve(ctx, target, dns.TypeAAAA)
}

// resolve asks for the addresses of a name.
func (q *question) resolve(ctx context.Context, name string, kind uint16) ([]netip.Addr, error) {
	m, err := q.ask(ctx, name, kind)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, rr := range q.owned(m, name) {
		if a, ok := addressOf(rr); ok {
			out = append(out, a)
		}
	}
	return out, nil
}

func addressOf(rr dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch rr := rr.(type) {
	case *dns.A:
		ip = rr.A
	case *dns.AAAA:
		ip = rr.AAAA
	}
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

// owned returns the answer's records of name, or of what it is an alias of: whatever else a server adds is not asked for.
func (q *question) owned(m *dns.Msg, name string) (out []dns.RR) {
	owner := dns.CanonicalName(name)
	for range 16 { // a longer chain of aliases is a loop
		next := ""
		for _, rr := range m.Answer {
			if dns.CanonicalName(rr.Header().Name) != owner {
				continue
			}
			q.note(rr)
			if alias, ok := rr.(*dns.CNAME); ok {
				next = dns.CanonicalName(alias.Target)
				continue
			}
			out = append(out, rr)
		}
		if next == "" || len(out) > 0 {
			return out
		}
		owner = next
	}
	return nil
}

// note takes the TTL of a record into account.
func (q *question) note(rr dns.RR) {
	q.ttl = min(q.ttl, time.Duration(rr.Header().Ttl)*time.Second)
}

func (q *question) add(n Name, at netip.AddrPort, weight uint16) {
	id := "dns://" + strings.TrimSuffix(n.Name, ".") + "/" + at.String()
	if slices.ContainsFunc(q.listing.Records, func(r poll.Record) bool { return r.ID == id }) {
		return
	}
	q.listing.Records = append(q.listing.Records, poll.Record{ID: id, Kind: strings.ToLower(n.Type), Addresses: []netip.Addr{at.Addr()},
		Ports: []poll.Port{{Number: at.Port()}}, State: poll.StateRunning, Health: federation.HealthUnknown, Service: n.Service,
		Namespace: n.Namespace, Weight: weight, Labels: map[string]string{"dns-name": strings.TrimSuffix(n.Name, "."), "dns-port": strconv.Itoa(int(at.Port()))}})
}
