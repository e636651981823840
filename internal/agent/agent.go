package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/federation/health"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/federation/registry"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/gateways/ingress"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// Options are what an agent needs of its process.
type Options struct {
	Config  *config.Gateway
	Path    string // of the configuration, for reloads
	Version string
	Out     io.Writer        // the access log, when it goes to standard output
	Err     io.Writer        // the log
	Reload  <-chan os.Signal // each one asks for a reload; nil: only the API can
}

// Agent is one gateway. It implements the backends of the admin API.
type Agent struct {
	opts    Options
	log     *slog.Logger
	level   *slog.LevelVar
	started time.Time

	store     *store.Bolt
	trust     *trust.Authority
	health    *health.Checker
	reg       *registry.Registry
	api       *registry.API
	plane     *controlplane.Plane
	table     *route.Table
	tunnel    *tunnel.Transport
	peers     *peering.Manager
	mesh      *mesh.Mesh
	ingress   *ingress.Server
	tokens    *jwt.Verifier
	admin     *admin.Server
	metrics   *prometheus.Registry
	providers *providers
	consuls   consulSyncs
	access    io.Closer // the access log's file, if it is one

	state    atomic.Value  // admin.GatewayState
	viewed   chan struct{} // closed with the first view
	viewOnce sync.Once

	oneReload    sync.Mutex // held by a reload from its beginning to its end
	reloading    sync.Mutex // guards what follows
	cfg          atomic.Pointer[config.Gateway]
	generation   uint64
	configured   time.Time
	reconfigured chan struct{} // capacity 1: cfg has changed

	location      atomic.Pointer[whereabouts]
	joins         joins
	dirProblem    atomic.Pointer[federation.Diagnostic] // of the watched resources directory
	reloadProblem atomic.Pointer[federation.Diagnostic] // of the last reload
}

// New opens the region's state and builds the gateway. The data directory is locked from here on; nothing listens yet. The
// caller must call Run, which releases it.
func New(ctx context.Context, o Options) (_ *Agent, err error) {
	a := &Agent{opts: o, level: &slog.LevelVar{}, started: time.Now(), table: route.NewTable(), viewed: make(chan struct{}),
		reconfigured: make(chan struct{}, 1), generation: 1, providers: newProviders()}
	a.configured = a.started
	a.cfg.Store(o.Config)
	a.state.Store(admin.StateStarting)
	a.level.Set(o.Config.LogLevel)
	a.log = newLogger(o.Err, o.Config.LogFormat, a.level).With("region", string(o.Config.Region))
	a.metrics = prometheus.NewRegistry()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.store, err = store.OpenBolt(o.Config.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if err := a.buildControl(ctx); err != nil {
		return nil, err
	}
	if err := a.settleAt(presumed(o.Config.Location, os.Getenv)); err != nil {
		return nil, err
	}
	if err := a.checkJoins(o.Config.Peers); err != nil {
		return nil, err
	}
	if err := a.adoptProviders(o.Config.Providers); err != nil { // before the registry runs, which waits for the sources it starts with
		return nil, err
	}
	if err := a.buildData(); err != nil {
		return nil, err
	}
	if err := a.buildPeering(ctx); err != nil {
		return nil, err
	}
	a.metrics.MustRegister(collector{a})
	return a, a.buildAdmin()
}

func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

// room returns the log of one room of the house.
func (a *Agent) room(name string) *slog.Logger { return a.log.With("room", name) }

// buildControl makes everything that needs no network: trust, health, registry, control plane.
func (a *Agent) buildControl(ctx context.Context) (err error) {
	cfg := a.opts.Config
	a.trust, err = trust.Open(ctx, trust.Config{Region: cfg.Region, TrustDomain: cfg.TrustDomain, Gateway: cfg.Name, Store: a.store, Log: a.room("trust")})
	if err != nil {
		return err
	}
	a.health = health.New(health.Config{Log: a.room("health")})
	a.reg = registry.New(registry.Config{Region: cfg.Region, Checker: a.health, Log: a.room("registry")})
	a.api = registry.NewAPI(registry.APIConfig{Registry: a.reg, Store: registrations{a.store}, Beater: a.health, Log: a.room("registry")})
	if err := a.reg.Add(sourceAPI, a.api); err != nil {
		return err
	}
	a.plane, err = controlplane.New(ctx, controlplane.Config{
		Region: cfg.Region, TrustDomain: cfg.TrustDomain, Store: a.store, Registry: a.reg, OnView: a.onView, Log: a.room("controlplane"),
	})
	return err
}

// buildData makes the data path. The tunnel and the mesh need each other, so the tunnel's handlers look the mesh up when called.
func (a *Agent) buildData() (err error) {
	cfg := a.opts.Config
	a.tunnel, err = tunnel.New(tunnel.Config{
		Listen: cfg.MeshListen, Lanes: cfg.MeshLanes, Trust: a.trust, Log: a.room("tunnel"), Metrics: a.metrics,
		OnExchange: func(ctx context.Context, peer federation.Region, s *tunnel.ExchangeSession) {
			a.peers.Accept(ctx, peer, s)
		},
		OnJoin: func(ctx context.Context, remote string, exporter, request []byte) ([]byte, error) {
			return a.peers.Join(ctx, remote, exporter, request)
		},
		OnFlow: func(ctx context.Context, in *tunnel.Incoming) { a.mesh.HandleFlow(ctx, in) },
		OnAsk: func(ctx context.Context, peer federation.Region, question []byte) []byte {
			return a.mesh.Answer(ctx, peer, question)
		},
	})
	if err != nil {
		return err
	}
	access, file, err := a.openAccessLog(cfg.AccessLog)
	if err != nil {
		return err
	}
	a.access = file
	a.tokens = jwt.New(jwt.Config{Hosts: cfg.KeyHosts, Metrics: a.metrics, Log: a.room("jwt")})
	a.mesh = mesh.New(mesh.Config{
		Tokens: a.tokens,
		Region: cfg.Region, Table: a.table, Tunnel: mesh.Over(a.tunnel), LocalListen: cfg.LocalListen, LocalTLS: a.trust.LocalTLS,
		Workload: a.trust.Workload, Judge: a.trust.Judge, AccessLog: access, Metrics: a.metrics, Log: a.room("mesh"),
		ReportFailure: func(service federation.ServiceName, id federation.InstanceID) {
			a.health.ReportFailure(service, id, "a connection to it failed")
		},
	})
	a.ingress = ingress.New(ingress.Config{Mesh: a.mesh, Dir: filepath.Join(cfg.DataDir, "acme"), Metrics: a.metrics, Log: a.room("ingress")})
	return nil
}

// openAccessLog returns where the access log goes, nil for nowhere, and what is to be closed when it goes there no longer.
func (a *Agent) openAccessLog(where string) (io.Writer, io.Closer, error) {
	switch where {
	case "off":
		return nil, nil, nil
	case "stdout":
		return a.opts.Out, nil, nil
	}
	f, err := os.OpenFile(where, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, &federation.Diagnostic{Code: "TW-1005", What: "cannot write the access log to " + where, Why: err.Error(),
			Fix: "set access_log to a file this user may write, to \"stdout\" or to \"off\"", Err: err}
	}
	return f, f, nil
}

func (a *Agent) buildPeering(ctx context.Context) (err error) {
	cfg := a.opts.Config
	epoch, err := a.store.NextEpoch(ctx) // a new life of this region's publisher, durable before anybody hears of it
	if err != nil {
		return err
	}
	a.peers, err = peering.New(ctx, peering.Config{
		Region: cfg.Region, TrustDomain: cfg.TrustDomain, Trust: a.trust, Store: a.store, Dialer: dialer{a.tunnel}, Addresses: a.addresses,
		Catalog: a.plane, Dir: cfg.DataDir, Epoch: epoch, JumpEpoch: a.store.JumpEpoch, MaxStale: cfg.MaxStale, Log: a.room("peering"),
	})
	if err == nil {
		a.plane.SetExporter(a.peers)
	}
	return err
}

func (a *Agent) buildAdmin() (err error) {
	cfg := a.opts.Config
	a.admin, err = admin.New(admin.Config{
		Socket: cfg.AdminSocket, Group: cfg.AdminGroup, Listen: cfg.AdminListen, TokenFile: filepath.Join(cfg.DataDir, "admin.token"),
		Answers: a, Services: a, Resources: a, Peerings: a, Certificates: a, Instances: a, Process: a, Providers: a, Ingresses: a, Failover: a,
		Live: []admin.HealthCheck{{Name: "store", Check: a.storeWorks}}, Ready: a.readiness(), Gatherer: a.metrics, Log: a.room("admin"),
	})
	return err
}

// readiness lists what a gateway must have to take traffic. Nothing in it depends on a peer.
func (a *Agent) readiness() []admin.HealthCheck {
	return []admin.HealthCheck{
		{Name: "store", Check: a.storeWorks},
		{Name: "view", Check: func(context.Context) error {
			if a.plane.View().Number == 0 {
				return errors.New("no view has been published yet")
			}
			return nil
		}},
		{Name: "draining", Check: func(context.Context) error {
			if a.state.Load() == admin.StateDraining {
				return errors.New("the gateway is being drained")
			}
			return nil
		}},
	}
}

func (a *Agent) storeWorks(ctx context.Context) error {
	_, err := a.store.List(ctx, "epoch")
	return err
}

// onView puts a new view in force: the table first, then those who look things up in it.
func (a *Agent) onView(view *federation.View) {
	snap, err := route.Compile(view)
	if err != nil {
		a.log.Error("compile the view; the last one stays in force", "view", view.Number, "error", err)
		return
	}
	a.tokens.Apply(view.JWT) // before anybody asks for one
	a.table.Publish(snap)
	for _, p := range a.mesh.Apply() {
		a.log.Warn("upstream not bound", "code", string(p.Code), "what", p.What, "why", p.Why)
	}
	a.applyIngresses(view)
	peers := make([]federation.Peer, 0, len(view.Peers))
	for _, p := range view.Peers {
		peers = append(peers, p)
	}
	a.tunnel.SetPeers(peers)
	a.viewOnce.Do(func() { close(a.viewed) })
}

// Run serves until ctx ends, drains, and returns after everything has stopped. It returns nil when ctx ended it.
func (a *Agent) Run(ctx context.Context) (err error) {
	a.log.Info("starting", "version", a.opts.Version, "config", a.opts.Path, "data_dir", a.opts.Config.DataDir)
	defer func() {
		if err = errors.Join(err, a.close()); err == nil {
			a.log.Info("stopped")
		}
	}()
	if err := a.mesh.Listen(); err != nil { // what cannot be had is said before anybody can ask, or read "ready"
		return err
	}
	if err := a.admin.Listen(ctx); err != nil {
		a.mesh.SetLocal(nil)
		return err
	}
	// Two contexts: ctx asks to drain, inner ends what still runs after that.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, inner := errgroup.WithContext(inner)
	for _, run := range []func(context.Context) error{
		a.trust.Run, a.reg.Run, a.plane.Run, a.tunnel.Run, a.peers.Run, a.mesh.Run, a.tokens.Run, a.ingress.Run, a.admin.Run, a.rejudgeOnTrust, a.nudgeOnPath, a.serveReloads, a.watch, a.keepExports, a.keepConsulSyncs,
		a.tidy, a.clearDrains,
	} {
		g.Go(func() error { return run(inner) })
	}
	g.Go(func() error {
		select {
		case <-a.viewed:
			a.state.CompareAndSwap(admin.StateStarting, admin.StateReady)
			a.log.Info("ready", "version", a.opts.Version, "mesh", a.tunnel.Addr().String(), "socket", a.opts.Config.AdminSocket)
			a.locate(inner)
		case <-inner.Done():
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			a.drain()
			stop()
		case <-inner.Done():
		}
		return nil
	})
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// drain tells peers and callers to go elsewhere and waits for open connections, as long as the configuration grants.
func (a *Agent) drain() {
	a.state.Store(admin.StateDraining)
	limit := a.cfg.Load().DrainTimeout
	a.log.Info("draining", "open", a.mesh.Open(), "limit", limit.String())
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	a.tunnel.Leave()
	// One after the other: between two requests there may be no flow, and a session that is closed then is missed by the next one.
	if err := errors.Join(a.drainCallers(ctx), a.tunnel.Drain(ctx)); err != nil {
		a.log.Warn("drained with connections left", "error", err)
	}
}

// rejudgeOnTrust has every live session and connection judged again after each change of trust.
func (a *Agent) rejudgeOnTrust(ctx context.Context) error {
	changed, cancel := a.trust.Changed()
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			a.tunnel.Rejudge()
			a.mesh.Rejudge()
		}
	}
}

// nudgeOnPath has a peering try again at once when the way to its peer is found open, instead of waiting for its back-off, and the
// data path leave what is lost.
func (a *Agent) nudgeOnPath(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.tunnel.PathChanged():
			a.mesh.PathsChanged()
			for _, p := range a.tunnel.Paths() {
				if p.Up {
					a.peers.Nudge(p.Peer)
				}
			}
		}
	}
}

// close releases what New took.
func (a *Agent) close() error {
	var errs []error
	if a.access != nil {
		errs = append(errs, a.access.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the gateway's files: %w", err)
	}
	return nil
}
