package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/tradewind-mesh/tradewind/federation"
)

// method is what server and client know about a method of the API.
type method struct {
	waitingFor string // ends the sentence "timed out after 5s waiting for ..."
	writes     bool   // it changes something, so the log keeps who called it
	waits      bool   // it may wait for another region or a human
}

// methods lists every method of the API.
var methods = map[string]method{
	"Status":  {waitingFor: "the gateway's status"},
	"Check":   {waitingFor: "the checks"},
	"Explain": {waitingFor: "the explanation"},
	"Ping":    {waitingFor: "the peer's answer"},

	"ListServices": {waitingFor: "the list of services"},
	"ShowService":  {waitingFor: "the service"},
	"ListSources":  {waitingFor: "the list of sources"},

	"ListResources":   {waitingFor: "the resources"},
	"GetResource":     {waitingFor: "the resource"},
	"PlanResources":   {waitingFor: "the plan"},
	"ApplyResources":  {waitingFor: "the change to be stored", writes: true},
	"DeleteResources": {waitingFor: "the deletion to be stored", writes: true},

	"PeerGenerateToken": {waitingFor: "the token", writes: true},
	"PeerEstablish":     {waitingFor: "the peering to be established", writes: true, waits: true},
	"PeerWait":          {waitingFor: "the peering", waits: true},
	"PeerList":          {waitingFor: "the list of peerings"},
	"PeerShow":          {waitingFor: "the peering"},
	"PeerPause":         {waitingFor: "the peering to pause", writes: true},
	"PeerResume":        {waitingFor: "the peering to resume", writes: true},
	"PeerRemove":        {waitingFor: "the peering to be removed", writes: true},

	"CertList":     {waitingFor: "the list of certificates"},
	"CertIssue":    {waitingFor: "the certificate", writes: true},
	"CertRotateCA": {waitingFor: "the new root to be stored", writes: true},
	"CertRevoke":   {waitingFor: "the revocation to be stored", writes: true},

	"ListInstances":      {waitingFor: "the list of instances"},
	"RegisterInstance":   {waitingFor: "the instance to be registered", writes: true},
	"DeregisterInstance": {waitingFor: "the instance to be deregistered", writes: true},
	"HeartbeatInstance":  {waitingFor: "the heartbeat to be noted"}, // too frequent for the log

	"ListProviders": {waitingFor: "the list of providers"},
	"ShowProvider":  {waitingFor: "the provider"},
	"SyncProvider":  {waitingFor: "the provider's listings", writes: true, waits: true},
	"TestProvider":  {waitingFor: "the provider's listings", waits: true},

	"ListIngresses": {waitingFor: "the list of ingresses"},

	"FailoverShow":   {waitingFor: "who serves what"},
	"FailoverTest":   {waitingFor: "what would move"},
	"FailoverDrain":  {waitingFor: "the drain to be in force", writes: true},
	"FailoverReturn": {waitingFor: "the return to be in force", writes: true},

	"Reload":   {waitingFor: "the new configuration to take effect", writes: true},
	"LogLevel": {waitingFor: "the log level", writes: true},
}

func procedure(name string) string { return "/" + ServiceName + "/" + name }

// methods returns the handler of the API itself, without any question of who calls.
func (s *Server) methods() http.Handler {
	mux := http.NewServeMux()
	if b := s.cfg.Answers; b != nil {
		unary(s, mux, "Status", b.Status)
		unary(s, mux, "Check", b.Check)
		unary(s, mux, "Explain", b.Explain)
		unary(s, mux, "Ping", b.Ping)
	}
	if b := s.cfg.Services; b != nil {
		unary(s, mux, "ListServices", b.ListServices)
		unary(s, mux, "ShowService", b.ShowService)
		unary(s, mux, "ListSources", b.ListSources)
	}
	if b := s.cfg.Resources; b != nil {
		unary(s, mux, "ListResources", b.ListResources)
		unary(s, mux, "GetResource", b.GetResource)
		unary(s, mux, "PlanResources", b.PlanResources)
		unary(s, mux, "ApplyResources", b.ApplyResources)
		unary(s, mux, "DeleteResources", b.DeleteResources)
	}
	if b := s.cfg.Peerings; b != nil {
		unary(s, mux, "PeerGenerateToken", b.PeerGenerateToken)
		unary(s, mux, "PeerWait", b.PeerWait)
		unary(s, mux, "PeerList", b.PeerList)
		unary(s, mux, "PeerShow", b.PeerShow)
		unary(s, mux, "PeerPause", b.PeerPause)
		unary(s, mux, "PeerResume", b.PeerResume)
		unary(s, mux, "PeerRemove", b.PeerRemove)
		mux.Handle(procedure("PeerEstablish"), connect.NewServerStreamHandlerSimple(procedure("PeerEstablish"), s.establish,
			s.options()...))
	}
	if b := s.cfg.Certificates; b != nil {
		unary(s, mux, "CertList", b.CertList)
		unary(s, mux, "CertIssue", b.CertIssue)
		unary(s, mux, "CertRevoke", b.CertRevoke)
		unary(s, mux, "CertRotateCA", b.CertRotateCA)
	}
	if b := s.cfg.Instances; b != nil {
		unary(s, mux, "ListInstances", b.ListInstances)
		unary(s, mux, "RegisterInstance", b.RegisterInstance)
		unary(s, mux, "DeregisterInstance", b.DeregisterInstance)
		unary(s, mux, "HeartbeatInstance", b.HeartbeatInstance)
	}
	if b := s.cfg.Providers; b != nil {
		unary(s, mux, "ListProviders", b.ListProviders)
		unary(s, mux, "ShowProvider", b.ShowProvider)
		unary(s, mux, "SyncProvider", b.SyncProvider)
		unary(s, mux, "TestProvider", b.TestProvider)
	}
	if b := s.cfg.Ingresses; b != nil {
		unary(s, mux, "ListIngresses", b.ListIngresses)
	}
	if b := s.cfg.Failover; b != nil {
		unary(s, mux, "FailoverShow", b.FailoverShow)
		unary(s, mux, "FailoverTest", b.FailoverTest)
		unary(s, mux, "FailoverDrain", b.FailoverDrain)
		unary(s, mux, "FailoverReturn", b.FailoverReturn)
	}
	if b := s.cfg.Process; b != nil {
		unary(s, mux, "Reload", b.Reload)
		unary(s, mux, "LogLevel", b.LogLevel)
	}
	return mux
}

func (s *Server) options() []connect.HandlerOption {
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(maxBody),
		connect.WithCompression("gzip", nil, nil), // local callers: nothing to save, and no bomb to unpack
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
			s.log.Error("admin call panicked", "method", spec.Procedure, "cause", cause)
			return wireError(&federation.Diagnostic{Code: "TW-8011", What: "the gateway could not answer",
				Why: "a defect in the gateway stopped the call",
				Fix: "look at the gateway's log and report it"})
		}),
	}
	for _, name := range jsonNames {
		options = append(options, connect.WithCodec(codec{name: name, strict: true}))
	}
	return options
}

// unary registers a method with one request and one answer.
func unary[Req, Res any](s *Server, mux *http.ServeMux, name string, call func(context.Context, *Req) (*Res, error)) {
	mux.Handle(procedure(name), connect.NewUnaryHandlerSimple(procedure(name), func(ctx context.Context, r *Req) (*Res, error) {
		ctx, cancel := context.WithTimeout(ctx, timeLimit(name))
		defer cancel()
		res, err := call(ctx, r)
		s.record(ctx, name, err)
		if err == nil && res == nil {
			err = fmt.Errorf("method %s has no answer", name) // Connect would panic
		}
		if err != nil {
			return nil, wireError(err)
		}
		return res, nil
	}, s.options()...))
}

func timeLimit(name string) time.Duration {
	if methods[name].waits {
		return waitTimeout
	}
	return callTimeout
}

// record logs who changed what.
func (s *Server) record(ctx context.Context, name string, err error) {
	if !methods[name].writes {
		return
	}
	caller, _ := ctx.Value(callerKey{}).(string)
	if err != nil {
		s.log.Warn("admin call failed", "method", name, "caller", caller, "error", err)
		return
	}
	s.log.Info("admin call", "method", name, "caller", caller)
}

// establish streams the steps of PeerEstablish, then its result. One goroutine calls the backend and this one writes, because
// a stream has one writer and progress may come from anywhere.
func (s *Server) establish(ctx context.Context, r *PeerEstablishRequest, stream *connect.ServerStream[PeerEstablishEvent]) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	type outcome struct {
		result *PeerEstablished
		err    error
	}
	steps := make(chan PeerStep, 16)
	done := make(chan outcome, 1)
	go func() {
		result, err := s.cfg.Peerings.PeerEstablish(ctx, r, func(step PeerStep) {
			select {
			case steps <- step:
			case <-ctx.Done():
			}
		})
		done <- outcome{result, err}
	}()
	send := func(e *PeerEstablishEvent) {
		if stream.Send(e) != nil {
			cancel() // the caller is gone; the backend ends soon, and its outcome is still recorded
		}
	}
	for {
		select {
		case step := <-steps:
			send(&PeerEstablishEvent{Step: &step})
		case end := <-done:
			for len(steps) > 0 {
				step := <-steps
				send(&PeerEstablishEvent{Step: &step})
			}
			s.record(ctx, "PeerEstablish", end.err)
			if end.err != nil {
				return wireError(end.err)
			}
			send(&PeerEstablishEvent{Result: end.result})
			return nil
		}
	}
}
