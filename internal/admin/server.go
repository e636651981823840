package admin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Config says where a server listens and what it answers with. A nil backend leaves its methods out.
type Config struct {
	Socket    string // path of the unix socket; empty: none
	Group     string // name or number of a group whose members may use the socket; empty: none
	Listen    string // loopback TCP address such as "127.0.0.1:8480"; empty: none
	TokenFile string // holds the bearer token of the TCP listener; written by New when it is missing

	Answers      Answers
	Services     Services
	Resources    Resources
	Peerings     Peerings
	Certificates Certificates
	Instances    Instances
	Process      Process
	Providers    Providers
	Ingresses    Ingresses
	Failover     Failover

	Live     []HealthCheck       // of /livez: a failure means that only a restart helps
	Ready    []HealthCheck       // of /readyz: never one that depends on a peer
	Gatherer prometheus.Gatherer // of /metrics
	Log      *slog.Logger        // nil: slog.Default
}

// The limits of the server.
const (
	maxBody       = 4 << 20          // a change of all resources of a large region is below 1 MiB
	headerTimeout = 5 * time.Second  // local callers send headers at once
	bodyTimeout   = 10 * time.Second // 4 MiB over a local socket take milliseconds, either way
	callTimeout   = time.Minute      // of a call that does not wait for a peer to act
	waitTimeout   = 15 * time.Minute // of one that does: the life of a peering token
	idleTimeout   = 2 * time.Minute  // of a kept-alive connection
	shutdownGrace = 3 * time.Second  // for calls that run when the gateway stops
)

// Server serves the API.
type Server struct {
	cfg    Config
	log    *slog.Logger
	api    http.Handler
	socket socketAccess
	token  string // of the TCP address; set before anything is served there

	mu        sync.Mutex // guards what follows
	unix, tcp net.Listener
	serveTCP  func(net.Listener) (stop func()) // while Run runs
	stopTCP   func()                           // ends what serves tcp now
}

// New returns a server that is not listening yet. When it is to listen on TCP, it reads the token or writes a new one.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Log}
	if s.log == nil {
		s.log = slog.Default()
	}
	var err error
	if s.socket, err = newSocketAccess(cfg.Group); err != nil {
		return nil, err
	}
	if err := s.permit(cfg.Listen); err != nil {
		return nil, err
	}
	s.api = bounded(s.methods())
	return s, nil
}

// permit makes sure that address may be listened on, and that there is a token to ask for.
func (s *Server) permit(address string) (err error) {
	if address == "" {
		return nil
	}
	if err := checkLoopback(address); err != nil {
		return err
	}
	if s.token == "" {
		s.token, err = loadToken(s.cfg.TokenFile)
	}
	return err
}

// BindLoopback binds address for SetLoopback. For no address it returns nil. It must not be called twice at once.
func (s *Server) BindLoopback(ctx context.Context, address string) (net.Listener, error) {
	if err := s.permit(address); err != nil || address == "" {
		return nil, err
	}
	return listenLoopback(ctx, address)
}

// SetLoopback serves l, which may be nil, instead of the TCP address before. Calls that run there have 3 s to finish.
func (s *Server) SetLoopback(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serveTCP == nil { // Run has ended, or ends
		if l != nil {
			_ = l.Close()
		}
		return
	}
	stop := s.stopTCP
	s.tcp, s.stopTCP = l, nil
	if l != nil {
		s.stopTCP = s.serveTCP(l)
	}
	if stop != nil {
		stop()
	}
}

// Listen binds the socket and the TCP address, so that a caller learns of trouble before it declares itself started. Run
// calls it when nobody did. On an error nothing stays bound.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Socket != "" && s.unix == nil {
		l, err := listenSocket(ctx, s.cfg.Socket, s.socket.group)
		if err != nil {
			return err
		}
		s.unix = l
	}
	if s.cfg.Listen != "" && s.tcp == nil {
		l, err := listenLoopback(ctx, s.cfg.Listen)
		if err != nil {
			return errors.Join(err, s.closeListeners())
		}
		s.tcp = l
	}
	return nil
}

func (s *Server) closeListeners() error {
	var errs []error
	for _, l := range []*net.Listener{&s.unix, &s.tcp} {
		if *l != nil {
			errs = append(errs, (*l).Close())
			*l = nil
		}
	}
	return errors.Join(errs...)
}

// Addr is the TCP address in use after Listen, or nil.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tcp == nil {
		return nil
	}
	return s.tcp.Addr()
}

// Run serves until ctx ends, gives running calls 3 s to finish, and returns when all goroutines have. The socket is gone then.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	s.mu.Lock()
	if s.unix != nil {
		server := s.http(s.onSocket(s.api))
		server.ConnContext = withPeer
		s.serve(ctx, group, s.unix, server)
	}
	s.serveTCP = func(l net.Listener) (stop func()) {
		inner, stop := context.WithCancel(ctx)
		s.serve(inner, group, l, s.http(s.onLoopback(s.api)))
		return stop
	}
	if s.tcp != nil {
		s.stopTCP = s.serveTCP(s.tcp)
	}
	s.mu.Unlock()
	group.Go(func() error { // also with no listener at all, Run lasts as long as ctx
		<-ctx.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.serveTCP = nil
		return nil
	})
	return group.Wait()
}

// serve has server serve l until ctx ends, in goroutines of group. Calls outlive ctx by the grace: a change that was accepted
// shall also be answered.
func (s *Server) serve(ctx context.Context, group *errgroup.Group, l net.Listener, server *http.Server) {
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	server.BaseContext = func(net.Listener) context.Context { return calls }
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return &federation.Diagnostic{Code: "TW-8010", What: "the admin API stopped listening on " + l.Addr().String(),
				Why: err.Error(),
				Fix: "restart the gateway", Err: err}
		}
		return nil
	})
	group.Go(func() error {
		defer cancel()
		<-ctx.Done()
		grace, done := context.WithTimeout(calls, shutdownGrace)
		defer done()
		if err := server.Shutdown(grace); err != nil {
			cancel()
			return server.Close()
		}
		return nil
	})
}

// http returns the HTTP server around h. Nobody holds a connection longer than its limits say, whoever it is: behind a
// request that was answered unread, net/http waits for the rest of its body. bounded lifts the two timeouts for calls that are let in.
func (s *Server) http(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout + bodyTimeout,
		WriteTimeout: headerTimeout + 2*bodyTimeout, // it begins with the request: an answer to one that came slowly has time as well
		IdleTimeout:  idleTimeout, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
