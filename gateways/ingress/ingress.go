package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// Config is what a Server needs. Mesh is required.
type Config struct {
	Mesh    *mesh.Mesh
	Dir     string // for certificates that are ordered by ACME, and the keys of accounts; "": none are
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Server is the north-south listeners of one gateway. It is safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	mu       sync.Mutex // while listeners and certificates change, never while a connection is served
	wanted   []federation.Ingress
	bound    map[string]*listener // by address as written in the ingress
	retired  []*listener          // no longer bound, with connections left
	problems map[string]*federation.Diagnostic
	sources  map[federation.IngressTLS]*source
	pages    map[string]*pageFile // by path
	orders   *orders
	warned   map[string]bool // of certificates, by the text
	start    func(*listener) // begins to serve; nil until Run and after it
	closed   bool

	serving     sync.WaitGroup // listeners and connections
	compressing atomic.Int64   // responses
	epoch       time.Time      // of the clock of rates
}

// New returns a Server that listens nowhere yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{epoch: time.Now(), cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Metrics), bound: map[string]*listener{},
		problems: map[string]*federation.Diagnostic{}, sources: map[federation.IngressTLS]*source{}, warned: map[string]bool{},
		orders: newOrders(cfg.Dir, cfg.Log)}
	s.orders.way, s.orders.changed = s.wayOf, s.reindex
	return s
}

// Run serves until ctx ends, then closes what is still open and returns nil once all of it has ended.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	s.start = func(l *listener) { l.start(ctx) }
	for _, l := range s.bound {
		s.start(l)
	}
	s.orders.run(func(e *order) {
		ctx, stop := context.WithCancel(ctx)
		e.stop = stop
		s.serving.Go(func() { s.orders.keep(ctx, e) })
	})
	s.mu.Unlock()
	s.watch(ctx)
	s.stop(func(l *listener) { l.close() })
	s.serving.Wait()
	s.orders.vault.close()
	return nil
}

// watch looks after certificates, and after addresses that could not be bound, until ctx ends.
func (s *Server) watch(ctx context.Context) {
	look, rebind := time.NewTicker(lookEvery), time.NewTicker(rebindEvery)
	defer look.Stop()
	defer rebind.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			s.look()
		case <-rebind.C:
			s.mu.Lock()
			s.bury()
			if len(s.problems) > 0 {
				s.reconcile()
			}
			s.mu.Unlock()
		}
	}
}

// Apply makes the listeners those of wanted: new addresses are bound before old ones are closed, and what is open stays open. It
// returns what could not be bound, and what is wrong with certificates; everything else works.
func (s *Server) Apply(wanted []federation.Ingress) []*federation.Diagnostic {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.wanted = slices.Clone(wanted)
	slices.SortFunc(s.wanted, func(a, b federation.Ingress) int { return strings.Compare(a.Name, b.Name) })
	s.adoptSources()
	s.adoptPages()
	s.orders.want(s.wantedOrders())
	s.reconcile()
	var list []*federation.Diagnostic
	for i := range s.wanted {
		list = append(list, s.problemsOf(&s.wanted[i])...)
	}
	return list
}

// adoptSources makes the sources of certificates those that are wanted. New ones are read at once, so that no listener is without.
func (s *Server) adoptSources() {
	keep := map[federation.IngressTLS]*source{}
	for i := range s.wanted {
		for _, spec := range s.wanted[i].TLS {
			if spec.ACME != nil {
				continue
			}
			if keep[spec] = s.sources[spec]; keep[spec] == nil {
				keep[spec] = &source{spec: spec, pairs: map[string]*pair{}}
				keep[spec].look()
			}
		}
	}
	s.sources = keep
}

// sourcesOf are the sources of g's certificates.
func (s *Server) sourcesOf(g *federation.Ingress) []*source {
	list := make([]*source, 0, len(g.TLS))
	for _, spec := range g.TLS {
		if from := s.sources[spec]; from != nil { // none of those that are ordered
			list = append(list, from)
		}
	}
	return list
}

// look has changed certificates served.
func (s *Server) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, from := range s.sources {
		changed = from.look() || changed
	}
	for _, f := range s.pages {
		f.look()
	}
	if changed {
		s.orders.want(s.wantedOrders())
		for _, l := range s.bound {
			t := l.table.Load()
			t.index.Store(s.indexOf(&t.spec))
		}
		s.log.Info("certificates read")
	}
	s.warn()
}

// warn logs what is wrong with certificates, once.
func (s *Server) warn() {
	now := map[string]bool{}
	for i := range s.wanted {
		for _, from := range s.sourcesOf(&s.wanted[i]) {
			for _, d := range from.problems(&s.wanted[i], time.Now()) {
				if now[d.Error()] = true; !s.warned[d.Error()] {
					s.log.Warn("certificate of an ingress", "code", string(d.Code), "what", d.What, "why", d.Why)
				}
			}
		}
	}
	s.warned = now
}

// reconcile makes the bound addresses those of s.wanted, as the mesh does with upstreams: what cannot be bound changes nothing else,
// and an ingress that cannot move stays where it is. s.mu is held.
func (s *Server) reconcile() {
	previous := make(map[string]string, len(s.bound)) // name to address
	for address, l := range s.bound {
		previous[l.table.Load().spec.Name] = address
	}
	keep := map[string]bool{}
	problems := map[string]*federation.Diagnostic{}
	for i := range s.wanted {
		g := &s.wanted[i]
		if problem := s.place(g, keep); problem != nil {
			problems[g.Name] = problem
		}
	}
	for i := range s.wanted { // after all others: what an ingress names goes before what another one had
		g := &s.wanted[i]
		address := previous[g.Name]
		l := s.bound[address]
		if problems[g.Name] == nil || keep[addressOf(g)] || keep[address] || l == nil || l.table.Load().spec.Identity != g.Identity {
			continue
		}
		s.adopt(l, g)
		keep[address] = true
	}
	for address, l := range s.bound {
		if !keep[address] {
			l.shut()
			l.drain()
			delete(s.bound, address)
			s.retired = append(s.retired, l)
		}
	}
	for i := range s.wanted { // what was in the way may have been an address of ours: of all hosts, when this one is for one
		g := &s.wanted[i]
		if problems[g.Name] != nil && s.bound[addressOf(g)] == nil && s.bound[previous[g.Name]] == nil && s.place(g, keep) == nil {
			delete(problems, g.Name)
		}
	}
	s.problems = problems
}

// place has g listen at its address.
func (s *Server) place(g *federation.Ingress, keep map[string]bool) *federation.Diagnostic {
	address := addressOf(g)
	l := s.bound[address]
	if l == nil {
		tcp, problem := bind(g)
		if problem != nil {
			return problem
		}
		l = newListener(s, tcp)
		l.table.Store(s.tableOf(g))
		s.bound[address] = l
		if s.start != nil {
			s.start(l)
		}
	}
	s.adopt(l, g)
	keep[address] = true
	return l.listenQUIC(g)
}

// adopt has l be the listener of g.
func (s *Server) adopt(l *listener, g *federation.Ingress) { l.table.Store(s.tableOf(g)) }

func (s *Server) tableOf(g *federation.Ingress) *table {
	t := newTable(*g, s.pages)
	t.index.Store(s.indexOf(g))
	return t
}

// since is the clock of rates.
func (s *Server) since() time.Duration { return time.Since(s.epoch) }

// addressOf is g's address; two that let the system choose a port do not share it.
func addressOf(g *federation.Ingress) string {
	if strings.HasSuffix(g.Listen, ":0") {
		return g.Listen + " " + g.Name
	}
	return g.Listen
}

// Status is one ingress, for people.
type Status struct {
	Ingress     federation.Ingress
	Address     net.Addr // where it listens now; nil: nowhere
	Connections int      // open now
	Problems    []*federation.Diagnostic

	Certificates []Certificate
}

// Status returns the state of every ingress, in order of name.
func (s *Server) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for i := range s.wanted {
		g := &s.wanted[i]
		status := Status{Ingress: *g, Problems: s.problemsOf(g), Certificates: s.certificatesOf(g)}
		for _, l := range s.bound {
			if l.table.Load().spec.Name == g.Name {
				status.Address, status.Connections = l.tcp.Addr(), int(l.open.Load())
			}
		}
		all = append(all, status)
	}
	return all
}

// problemsOf is what is wrong with g. s.mu is held.
func (s *Server) problemsOf(g *federation.Ingress) []*federation.Diagnostic {
	var list []*federation.Diagnostic
	if d := s.problems[g.Name]; d != nil {
		list = append(list, d)
	}
	list = append(list, s.pageProblems(g)...)
	if len(g.TLS) == 0 {
		return list
	}
	for _, from := range s.sourcesOf(g) {
		list = append(list, from.problems(g, time.Now())...)
	}
	list = append(list, s.orders.problems(g, time.Now())...)
	x := s.indexOf(g)
	for _, h := range g.Hosts {
		if !x.covers(h.Name) && !isOrdered(g, h.Name) {
			list = append(list, &federation.Diagnostic{Code: federation.CodeIngressNoName,
				What: fmt.Sprintf("ingress %q has no certificate for host %q", g.Name, h.Name),
				Fix:  "add a certificate for it to the files of a tls block"})
		}
	}
	return list
}

// stop closes all addresses for good and has end called for each listener.
func (s *Server) stop(end func(*listener)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.start = true, nil
	for _, l := range s.listeners() {
		l.shut()
		end(l)
	}
}

// listeners are those that are bound, and those that have connections left. s.mu is held.
func (s *Server) listeners() []*listener {
	return append(slices.Collect(maps.Values(s.bound)), s.retired...)
}

// bury forgets listeners without connections, and the series of ingresses that are gone. s.mu is held.
func (s *Server) bury() {
	s.retired = slices.DeleteFunc(s.retired, func(l *listener) bool { return l.open.Load() == 0 })
	named := map[string]bool{}
	for _, l := range s.listeners() {
		named[l.table.Load().spec.Name] = true
	}
	s.metrics.keep(named)
}

// Open is how many connections are open.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.listeners() {
		n += int(l.open.Load())
	}
	return n
}

// Drain stops accepting, lets each connection end its request at hand, and waits until all have ended. When ctx ends first, what is
// left is closed and ctx's error is returned.
func (s *Server) Drain(ctx context.Context) error {
	s.stop(func(l *listener) { l.drain() })
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		left := s.Open()
		if left == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			s.stop(func(l *listener) { l.close() })
			return fmt.Errorf("drain: %d connections from outside closed: %w", left, ctx.Err())
		}
	}
}
