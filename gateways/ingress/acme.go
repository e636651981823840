package ingress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// maxOrders is how many certificates are ordered at once: a new ingress of a thousand hosts must not be a flood to the authority.
	maxOrders = 4

	// orderTimeout ends an order that hangs; authorities take seconds, and some minutes when they are busy.
	orderTimeout = 10 * time.Minute

	// firstRetry and lastRetry bound the pause after a failed order, which doubles. Let's Encrypt takes five failures of a name an hour.
	firstRetry = time.Minute
	lastRetry  = 6 * time.Hour

	// checkEvery is how often the files of a certificate are looked at, and the authority asked when it wants it renewed. It finds out
	// about a clock that was set, too.
	checkEvery = time.Hour

	// adviceEvery is how often the authority is asked, unless it says: what RFC 9773 4.3.3 has for an answer that says nothing.
	adviceEvery = 6 * time.Hour
)

// account is where, and in whose name, certificates are ordered.
type account struct{ directory, email, caFile string }

// orderKey is one certificate: each is for one name, so that what one name lacks keeps no other from being served.
type orderKey struct {
	account
	name string
}

// orders are the certificates that an authority is asked for. Its lock is taken after the server's, never before.
type orders struct {
	vault   *vault
	log     *slog.Logger
	way     func(orderKey) (way, bool) // to prove a name; false: nobody listens where it would be proved
	changed func()                     // another certificate is to be served

	slots chan struct{}

	mu    sync.Mutex
	all   map[orderKey]*order
	start func(*order) // nil until Run
}

// order is one certificate: the last one that was issued, and what is wrong with the next one.
type order struct {
	orderKey
	stop context.CancelFunc // nil: it has not begun

	// What follows is guarded by orders.mu.
	certificate *tls.Certificate // nil: none yet
	ordered     time.Time        // in this process
	advice      advice
	failure     error
	failed      int       // attempts in a row
	since       time.Time // the first of them
	next        time.Time // the next attempt; zero: none is pending
}

func newOrders(dir string, log *slog.Logger) *orders {
	return &orders{vault: newVault(dir), log: log, slots: make(chan struct{}, maxOrders), all: map[orderKey]*order{}}
}

// want makes the orders those of keys. What has been issued before is there at once.
func (o *orders) want(keys map[orderKey]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, e := range o.all {
		if !keys[key] {
			if e.stop != nil {
				e.stop()
			}
			delete(o.all, key)
		}
	}
	for key := range keys {
		if o.all[key] != nil {
			continue
		}
		e := &order{orderKey: key}
		e.certificate, _ = o.vault.load(key) // a damaged one is ordered again
		o.all[key] = e
		if o.start != nil {
			o.start(e)
		}
	}
}

// run has every order begin by start, and those that come later.
func (o *orders) run(start func(*order)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.start = start
	for _, e := range o.all {
		start(e)
	}
}

// served are the certificates of g by name. Those of files come first: see index.of.
func (o *orders) served(g *federation.Ingress) map[string]*tls.Certificate {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[string]*tls.Certificate{}
	for _, key := range keysOf(g) {
		if e := o.all[key]; e != nil && e.certificate != nil {
			out[key.name] = e.certificate
		}
	}
	return out
}

// keysOf are the certificates that g has ordered.
func keysOf(g *federation.Ingress) []orderKey {
	a, names := g.ACME()
	keys := make([]orderKey, 0, len(names))
	for _, name := range names {
		keys = append(keys, orderKey{account{a.URL(), a.Email, a.CAFile}, name})
	}
	return keys
}

// isOrdered reports whether g has a certificate ordered for host, or for a name below it: one that is not there yet is on its way, or a
// problem of its own.
func isOrdered(g *federation.Ingress, host string) bool {
	_, names := g.ACME()
	parent, wild := strings.CutPrefix(host, "*")
	return slices.ContainsFunc(names, func(name string) bool { return name == host || wild && strings.HasSuffix(name, parent) })
}

// keep has a certificate issued and renewed until ctx ends.
func (o *orders) keep(ctx context.Context, e *order) {
	for ctx.Err() == nil {
		wait := o.check(ctx, e)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// check orders a certificate if it is time for one, and returns when to check again.
func (o *orders) check(ctx context.Context, e *order) time.Duration {
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	case <-ctx.Done():
		return 0
	}
	running := ctx
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	c, _ := o.vault.load(e.orderKey) // a damaged one is as good as none
	if c != nil {
		o.settle(e, c)
		o.heed(ctx, e, c)
	}
	now := time.Now()
	if renew := o.renewal(e); c != nil && now.Before(renew) {
		return min(renew.Sub(now), checkEvery)
	}
	w, bound := o.way(e.orderKey)
	if !bound {
		return rebindEvery
	}
	err := o.vault.order(ctx, e.orderKey, w)
	if err == nil {
		if c, err = o.vault.load(e.orderKey); err == nil && c == nil {
			err = fs.ErrNotExist
		}
	}
	if running.Err() != nil {
		return 0
	}
	if err != nil {
		return o.fail(e, err)
	}
	o.mu.Lock()
	e.ordered, e.advice = time.Now(), advice{}
	o.mu.Unlock()
	o.settle(e, c)
	o.log.Info("certificate issued", "name", e.name, "directory", e.directory, "expires", c.Leaf.NotAfter)
	return 0 // the authority says when it wants it renewed
}

// settle has c served.
func (o *orders) settle(e *order, c *tls.Certificate) {
	o.mu.Lock()
	same := e.certificate != nil && e.certificate.Leaf.Equal(c.Leaf)
	if !same {
		e.certificate = c
	}
	if time.Now().Before(renewalOf(c.Leaf, e.advice, e.ordered)) {
		e.failure, e.failed, e.since, e.next = nil, 0, time.Time{}, time.Time{}
	}
	o.mu.Unlock()
	if !same {
		o.changed()
	}
}

// fail remembers why there is no new certificate, and returns when to try again.
func (o *orders) fail(e *order, err error) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if e.failed++; e.failed == 1 {
		e.since = now
	}
	wait := retryAfter(e.failed)
	e.failure, e.next = err, now.Add(wait)
	o.log.Warn("certificate not issued", "code", string(federation.CodeIngressOrder), "name", e.name, "directory", e.directory,
		"attempt", e.failed, "retry", wait.Round(time.Second).String(), "why", reasonOf(err))
	return wait
}

// retryAfter is the pause after the attempt that is the nth to fail, drawn by a tenth so that names do not come together.
func retryAfter(n int) time.Duration {
	wait := lastRetry
	if n < 10 { // 2^9 minutes are more than that
		wait = min(firstRetry<<(n-1), lastRetry)
	}
	return wait + time.Duration(rand.Int64N(int64(wait/10)))
}

// advice is when the authority wants a certificate renewed (RFC 9773): earlier than usual when it has to revoke it.
type advice struct {
	start, end time.Time // the window
	at         time.Time // drawn from it; zero: it has given none
	again      time.Time // when to ask again
}

// heed asks the authority when it wants c renewed, if it is time to ask. Without an answer the usual time stays.
func (o *orders) heed(ctx context.Context, e *order, c *tls.Certificate) {
	o.mu.Lock()
	last := e.advice
	o.mu.Unlock()
	w, bound := o.way(e.orderKey)
	if !bound || time.Now().Before(last.again) {
		return
	}
	now, err := o.vault.advice(ctx, e.orderKey, w, c)
	if err != nil {
		o.log.Debug("the authority does not say when to renew", "name", e.name, "error", err)
		now = advice{start: last.start, end: last.end, at: last.at, again: time.Now().Add(adviceEvery)}
	}
	if now.start.Equal(last.start) && now.end.Equal(last.end) {
		now.at = last.at
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	e.advice = now
}

// renewal is when e's certificate is to be renewed; at once if there is none.
func (o *orders) renewal(e *order) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.certificate == nil {
		return time.Time{}
	}
	return renewalOf(e.certificate.Leaf, e.advice, e.ordered)
}

// renewalOf is when the authority wants leaf renewed, else when a third of its life is left. What an authority says wrong leads neither
// to a certificate that ends, nor to one order after the other.
func renewalOf(leaf *x509.Certificate, a advice, ordered time.Time) time.Time {
	life := max(leaf.NotAfter.Sub(leaf.NotBefore), 3*time.Second)
	at, last := leaf.NotAfter.Add(-life/3), leaf.NotAfter.Add(-life/20)
	if !a.at.IsZero() {
		at = a.at
	}
	if at.After(last) {
		at = last
	}
	if pause := ordered.Add(min(checkEvery, life/3)); at.Before(pause) && !ordered.IsZero() {
		at = pause
	}
	return at
}

// wantedOrders are the certificates to order: not those for names that a file's certificate is for. s.mu is held.
func (s *Server) wantedOrders() map[orderKey]bool {
	keys := map[orderKey]bool{}
	for i := range s.wanted {
		g := &s.wanted[i]
		own := newIndex(s.sourcesOf(g), nil)
		for _, key := range keysOf(g) {
			if len(own.of(key.name)) == 0 {
				keys[key] = true
			}
		}
	}
	return keys
}

// reindex has every listener serve the certificates that there are now.
func (s *Server) reindex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.bound {
		t := l.table.Load()
		t.index.Store(s.indexOf(&t.spec))
	}
}

// indexOf is the index of all of g's certificates. s.mu is held.
func (s *Server) indexOf(g *federation.Ingress) *index {
	return newIndex(s.sourcesOf(g), s.orders.served(g))
}

// problems is what is wrong with the certificates that g has ordered.
func (o *orders) problems(g *federation.Ingress, now time.Time) []*federation.Diagnostic {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*federation.Diagnostic
	for _, key := range keysOf(g) {
		e := o.all[key]
		if e == nil || e.failed == 0 {
			continue
		}
		why, fix := explain(e.failure)
		why = fmt.Sprintf("%s (%s, since %s)", why, attempts(e.failed), e.since.UTC().Format(time.RFC3339))
		d := &federation.Diagnostic{Code: federation.CodeIngressOrder, Why: why, Fix: fix, Err: e.failure,
			What: fmt.Sprintf("ingress %q gets no certificate for %q from %s", g.Name, key.name, hostOf(key.directory))}
		switch c := e.certificate; {
		case c != nil && now.Before(c.Leaf.NotAfter):
			d.Code = federation.CodeIngressRenewal
			d.What = fmt.Sprintf("ingress %q gets no new certificate for %q from %s; the last one is served until it ends %s", g.Name, key.name,
				hostOf(key.directory), c.Leaf.NotAfter.UTC().Format(time.RFC3339))
		case c != nil:
			d.What += ", and the last one has ended " + c.Leaf.NotAfter.UTC().Format(time.RFC3339)
		}
		list = append(list, d)
	}
	return list
}

func attempts(n int) string {
	if n == 1 {
		return "one attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// Certificate is one certificate of an ingress, for people.
type Certificate struct {
	Source   string // "file" or "acme"
	From     string // the file, or the authority's directory
	Names    []string
	NotAfter time.Time // zero: there is none yet
	Renews   time.Time // when a new one will be ordered; zero: when its file is replaced
	Failure  string    // why there is no new one; "": nothing is wrong
	Since    time.Time // of Failure
	Next     time.Time // the next attempt after Failure
}

// certificatesOf are those of g, first those of files. s.mu is held.
func (s *Server) certificatesOf(g *federation.Ingress) []Certificate {
	var list []Certificate
	for _, from := range s.sourcesOf(g) {
		for path, p := range from.pairs {
			c := Certificate{Source: "file", From: path}
			if p.certificate != nil {
				c.Names, c.NotAfter = p.certificate.Leaf.DNSNames, p.certificate.Leaf.NotAfter
			}
			if p.problem != nil {
				c.Failure = p.problem.Error()
			}
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Certificate) int { return strings.Compare(a.From, b.From) })
	return append(list, s.orders.certificates(g)...)
}

func (o *orders) certificates(g *federation.Ingress) []Certificate {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []Certificate
	for _, key := range keysOf(g) {
		e := o.all[key]
		if e == nil {
			continue
		}
		c := Certificate{Source: "acme", From: key.directory, Names: []string{key.name}, Since: e.since, Next: e.next}
		if e.certificate != nil {
			c.NotAfter, c.Renews = e.certificate.Leaf.NotAfter, renewalOf(e.certificate.Leaf, e.advice, e.ordered)
		}
		if e.failed > 0 {
			c.Failure = reasonOf(e.failure)
		}
		list = append(list, c)
	}
	return list
}
