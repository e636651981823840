package poll

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Some workloads have a name and no address, such as a Cloud Run service. The source resolves the name and follows it.
const (
	nameEvery    = 30 * time.Second // how soon a name that moves is followed; the clouds' own records last 60 s and more
	nameRetry    = 5 * time.Second  // after a failure
	nameKeep     = 5 * time.Minute  // how long the last answer is used while there is none: an outage of DNS is not one of the workloads
	nameTimeout  = 5 * time.Second  // of one question, retries of the resolver included
	nameParallel = 8                // questions at once
	maxHost      = 253              // octets, RFC 1035
)

// name is what is known of a host name.
type name struct {
	addr netip.Addr // where it was last found
	seen time.Time  // when
	next time.Time  // when it is asked for again
	err  error      // why there was no answer
	lost bool       // there has been none for too long
}

// why says why the name has no address.
func (n *name) why(host string) string {
	if n.err == nil {
		return fmt.Sprintf("its host name %s is being resolved", quote(host))
	}
	return fmt.Sprintf("its host name %s cannot be resolved: %v", quote(host), n.err)
}

// check returns why nobody can be reached there.
func (s spot) check() error {
	if s.host == "" {
		return federation.CheckAddress(s.addr)
	}
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}
	if len(s.host) > maxHost || strings.ContainsFunc(s.host, bad) {
		return fmt.Errorf("its host name %s is not one that the DNS can have", quote(s.host))
	}
	return nil
}

// due returns the names to be asked for, and when there are more.
func (s *sites) due(now time.Time) (hosts []string, next time.Time) {
	next = now.Add(nameEvery)
	for host, n := range s.names {
		if n.next.After(now) {
			next = earlier(next, n.next)
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts, next
}

// unasked reports whether there is a name that was never asked for.
func (s *sites) unasked() bool {
	for _, n := range s.names {
		if n.next.IsZero() {
			return true
		}
	}
	return false
}

// found takes the answer to a question for a host name.
func (s *sites) found(host string, addrs []netip.Addr, err error, now time.Time) {
	n := s.names[host]
	if n == nil {
		return // nobody is there any more
	}
	before := *n
	usable := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return federation.CheckAddress(a) != nil })
	if err == nil && len(usable) == 0 {
		err = errors.New("it has no address that may be dialled")
	}
	n.err = err
	if err != nil {
		var answer *net.DNSError
		n.next, n.lost = now.Add(nameRetry), errors.As(err, &answer) && answer.IsNotFound || len(addrs) > 0 || now.Sub(n.seen) >= nameKeep
	} else {
		n.seen, n.next, n.lost = now, now.Add(nameEvery), false
		if !slices.Contains(usable, n.addr) { // else it stays: the order of an answer changes every time
			n.addr = usable[0].Unmap().WithZone("")
		}
	}
	if n.addr != before.addr || n.lost != before.lost || n.err != nil && !n.addr.IsValid() {
		s.dirty[spot{host: host}] = struct{}{}
	}
}

// unresolved says which names have no answer, if there are any.
func (s *sites) unresolved() *federation.Diagnostic {
	first, count := "", 0
	for host, n := range s.names {
		if n.err == nil || n.addr.IsValid() && !n.lost {
			continue
		}
		if count++; first == "" || host < first {
			first = host
		}
	}
	if count == 0 {
		return nil
	}
	return &federation.Diagnostic{Code: federation.CodeProviderHost, What: fmt.Sprintf("%d host names of workloads cannot be resolved", count),
		Why: s.names[first].why(first), Fix: "mend the DNS that this gateway's host uses; it is asked again by itself"}
}

// lookUp resolves a name by the host's resolver. A name of several parts is meant in full: no search list is tried.
func lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	if strings.Contains(host, ".") {
		host += "."
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// followNames resolves the host names of workloads until ctx ends.
func (s *Source) followNames(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.named:
		case <-timer.C:
		}
		s.mu.Lock()
		hosts, next := s.book.sites.due(time.Now())
		s.mu.Unlock()
		if len(hosts) > 0 {
			s.resolve(ctx, hosts)
			next = time.Now() // for those that came meanwhile
		}
		timer.Reset(time.Until(next))
	}
}

// resolve asks for each of hosts once.
func (s *Source) resolve(ctx context.Context, hosts []string) {
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, nameParallel)
	for _, host := range hosts {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		group.Go(func() {
			defer func() { <-slots }()
			inner, cancel := context.WithTimeout(ctx, nameTimeout)
			defer cancel()
			addrs, err := s.cfg.LookUp(inner, host)
			if ctx.Err() != nil {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.book.sites.found(host, addrs, err, time.Now())
			Poke(s.wake)
		})
	}
}
