package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// The regions of the demo, and the round trips between them: what the public clouds show between these places.
const (
	aws   federation.Region = "aws-us-east-1"
	gcp   federation.Region = "gcp-europe-west1"
	azure federation.Region = "azure-westeurope"

	awsGCP   = 86 * time.Millisecond
	awsAzure = 91 * time.Millisecond
	gcpAzure = 14 * time.Millisecond

	ratePerSecond = 100
)

// Options are how the demo is shown.
type Options struct {
	Out     io.Writer // for people
	Live    bool      // Out is a terminal that can redraw the line of traffic
	Color   bool
	Columns int    // how wide Out is; 0 if nobody knows
	Hold    bool   // at the end, leave everything running until ctx ends
	Program string // how the user calls this program
}

// Result is what a run measured.
type Result struct {
	OK             bool   `json:"ok"`
	FirstTrafficMS int64  `json:"first_traffic_ms"` // from the start of the demo to the first answered request
	TookMS         int64  `json:"took_ms"`
	Steps          []Step `json:"steps"`
}

// Step is one act of the story.
type Step struct {
	Name        string   `json:"name"`
	OK          bool     `json:"ok"`
	RecoveredMS *float64 `json:"recovered_ms"`           // from the blow to the first request that another region answered; nil: no blow
	ReachedMS   *float64 `json:"reached_ms,omitempty"`   // from the start of a machine to the first request that it answered
	WithdrawnMS *float64 `json:"withdrawn_ms,omitempty"` // from the cloud's word that a machine will go to the last request that it answered
	DrainedMS   *float64 `json:"drained_ms,omitempty"`   // from the command to the last request that the drained region answered
	ReturnedMS  *float64 `json:"returned_ms,omitempty"`  // from the command to its word that the region has its whole share again
	Shares      []Share  `json:"shares,omitempty"`       // of a split, as counted
	Requests    int      `json:"requests"`
	Failed      int      `json:"failed"`
	Retried     int      `json:"retried"`
	Detail      string   `json:"detail,omitempty"`
}

// story is a run in progress.
type story struct {
	*world
	screen *screen
	load   *load
	begin  time.Time
	result Result
	web    string // address of the upstream that web uses
	batch  string // address of the upstream that batch uses

	ramp     chan error // gets the end of the command that returns a region
	rampFrom time.Time  // when that began
}

// Run tells the whole story and returns what was measured until then. The error says why it could not be told to its end, and is that
// of ctx when that ended; a step that did not hold is no error but a Result that is not OK.
func Run(ctx context.Context, o Options) (*Result, error) {
	s := &story{screen: newScreen(o), begin: time.Now(), result: Result{Steps: []Step{}}}
	var err error
	if s.world, err = newWorld(); err != nil {
		return &s.result, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer s.close()
	defer cancel() // links and load end before the world waits for them
	defer s.screen.close()
	err = tell(ctx, s.startRegions, s.discover, s.federateAll, s.firstTraffic, s.steady,
		s.canary, s.drain, s.comeBack, s.scaleOut, s.scaleIn, s.returned,
		s.killInstances, s.killGateway, s.heal, s.deny)
	s.result.TookMS = time.Since(s.begin).Milliseconds()
	if err != nil {
		return &s.result, err
	}
	s.result.OK = true
	for _, step := range s.result.Steps {
		s.result.OK = s.result.OK && step.OK
	}
	s.screen.summary(s.result)
	if o.Hold && s.result.OK {
		s.screen.hold(s.regions[gcp])
		<-ctx.Done()
	}
	return &s.result, nil
}

// tell plays the acts, up to the first that fails.
func tell(ctx context.Context, acts ...func(context.Context) error) error {
	for _, act := range acts {
		err := act(ctx)
		switch {
		case ctx.Err() != nil: // whatever failed, such as a child that Ctrl-C ended too, failed for that
			return ctx.Err()
		case federation.CodeOf(err) != "":
			return err
		case err != nil:
			return &federation.Diagnostic{Code: "TW-8908", What: "the demo could not be told to its end", Why: err.Error(),
				Fix: "mend what it says, or close what keeps this machine busy; then start it again", Err: err}
		}
	}
	return nil
}

// done records a step and shows it.
func (s *story) done(step Step) {
	s.result.Steps = append(s.result.Steps, step)
	s.screen.step(s.begin, step)
}

func (s *story) startRegions(ctx context.Context) error {
	s.screen.say(s.begin, "three regions start on this computer, with emulated round trips: aws-gcp %d ms, aws-azure %d ms, gcp-azure %d ms",
		awsGCP.Milliseconds(), awsAzure.Milliseconds(), gcpAzure.Milliseconds())
	for _, name := range []federation.Region{aws, gcp, azure} {
		if err := s.add(ctx, name); err != nil {
			return err
		}
	}
	err := errors.Join(s.connect(ctx, aws, gcp, awsGCP), s.connect(ctx, aws, azure, awsAzure), s.connect(ctx, gcp, azure, gcpAzure))
	if err != nil {
		return err
	}
	for name, machines := range map[federation.Region]int{aws: 2, azure: 2, gcp: 1} {
		for range machines {
			if _, err := s.boot(s.regions[name]); err != nil {
				return err
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, r := range s.regions {
		g.Go(func() error { return s.startGateway(gctx, r) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.done(Step{Name: "start", OK: true,
		Detail: "3 gateways are ready; 5 machines, each a process that serves checkout on a loopback address of its own"})
	return nil
}

func (s *story) federateAll(ctx context.Context) error {
	s.screen.next(s.begin, "the regions federate, each pair by a token that works once; tradewind peer generate-token, peer establish")
	if err := s.declare(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	for _, pair := range [][2]federation.Region{{aws, gcp}, {aws, azure}, {gcp, azure}} {
		g.Go(func() error { return s.federate(gctx, s.regions[pair[0]], s.regions[pair[1]]) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("federate the regions: %w", err)
	}
	s.done(Step{Name: "federate", OK: true, Detail: "3 peerings by one-time token, reachable both ways"})
	return nil
}

// declare applies the resources of all regions: the same files a user would write.
func (s *story) declare(ctx context.Context) error {
	free, err := freePorts("tcp", "127.0.0.1", 2)
	if err != nil {
		return err
	}
	s.web, s.batch = free[0].String(), free[1].String()
	for _, r := range s.regions {
		resources := []federation.Resource{
			{Key: federation.Key{Kind: federation.KindService, Name: "checkout"}, Spec: &federation.Service{Protocol: federation.ProtocolHTTP,
				Checks: []federation.CheckSpec{{Kind: federation.CheckHTTP, Path: "/healthz"}}}}, // its instances are the cloud's business
			{Key: federation.Key{Kind: federation.KindExport, Name: "checkout"}, Spec: &federation.Export{To: []string{"*"}}},
		}
		if r.name != gcp { // whoever serves decides about callers from elsewhere
			resources = append(resources, allow("web", "web@"+string(gcp), "checkout"), allow("batch", "batch@"+string(gcp), "checkout"))
		} else {
			resources = append(resources, allow("web", "web", "checkout@*"), allow("batch", "batch", "checkout@*"),
				federation.Resource{Key: federation.Key{Kind: federation.KindResolver, Name: "checkout"},
					Spec: &federation.Resolver{Failover: []string{string(aws), string(azure), string(federation.Local)}}},
				upstream("web", s.web), upstream("batch", s.batch))
		}
		if err := r.apply(ctx, resources...); err != nil {
			return fmt.Errorf("apply the resources of %s: %w", r.name, err)
		}
	}
	return nil
}

func allow(name, source, destination string) federation.Resource {
	return federation.Resource{Key: federation.Key{Kind: federation.KindIntention, Name: name},
		Spec: &federation.Intention{Source: source, Destination: destination, Action: federation.Allow}}
}

// upstream is the listener of caller for checkout.
func upstream(caller, listen string) federation.Resource {
	service := federation.ServiceName{Namespace: federation.DefaultNamespace, Name: "checkout"}
	return federation.Resource{Key: federation.Key{Kind: federation.KindUpstream, Name: caller},
		Spec: &federation.Upstream{Service: federation.ServiceRef{Service: service}, Listen: listen,
			Caller: federation.ServiceName{Namespace: federation.DefaultNamespace, Name: caller}}}
}

func (s *story) firstTraffic(ctx context.Context) error {
	s.load = &load{url: "http://" + s.web + "/v1/cart", rate: ratePerSecond, timeout: 2 * time.Second}
	s.screen.next(s.begin, "web in %s calls checkout at http://%s: one local address, whichever region answers", gcp, s.web)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	var by server
	err := s.until(ctx, 10*time.Second, "the first answer", func() (err error) {
		by, err = s.load.once(ctx, client)
		return err
	})
	if err != nil {
		return err
	}
	s.result.FirstTrafficMS = time.Since(s.begin).Milliseconds()
	s.done(Step{Name: "first traffic", OK: s.result.FirstTrafficMS < 5000, Requests: 1,
		Detail: fmt.Sprintf("web in %s was answered by %s, %.1f s after the start", gcp, by.region, float64(s.result.FirstTrafficMS)/1000)})
	s.wg.Go(func() { s.load.run(ctx) })
	s.wg.Go(func() { s.screen.watch(ctx, s.begin, s.load) })
	return nil
}

func (s *story) steady(ctx context.Context) error {
	s.screen.next(s.begin, "%d requests a second from now on, each on a connection of its own", ratePerSecond)
	from := time.Now()
	if err := pause(ctx, 1500*time.Millisecond); err != nil {
		return err
	}
	t := s.load.since(from)
	ok := t.failed == 0 && t.retried == 0 && t.regions[string(aws)] == t.requests && t.requests > ratePerSecond
	s.done(t.step("steady load", ok, shares(t)))
	return nil
}

func (s *story) killInstances(ctx context.Context) error {
	s.screen.next(s.begin, "SIGKILL to checkout on every machine in %s; AWS goes on listing them as running ...", aws)
	return s.blow(ctx, "kill every instance in "+string(aws), azure, func() {
		for _, m := range s.regions[aws].machines {
			m.process.kill()
		}
	})
}

func (s *story) killGateway(ctx context.Context) error {
	s.screen.next(s.begin, "SIGKILL to the gateway of %s ...", azure)
	return s.blow(ctx, "kill the gateway of "+string(azure), gcp, s.regions[azure].gateway.kill)
}

// blow strikes, waits until survivor answers, lets the dust settle, and records what it cost.
func (s *story) blow(ctx context.Context, name string, survivor federation.Region, strike func()) error {
	from := time.Now()
	strike()
	var recovered time.Time
	err := s.until(ctx, 10*time.Second, string(survivor)+" to answer", func() error {
		at, ok := s.load.first(from, in(survivor))
		if !ok {
			return errors.New("no request has been answered there yet")
		}
		recovered = at
		return nil
	})
	if err != nil {
		return err
	}
	// Longer than a request's deadline, so that every victim is counted.
	if err := pause(ctx, s.load.timeout+200*time.Millisecond); err != nil {
		return err
	}
	t := s.load.since(from)
	ms := millis(recovered.Sub(from))
	step := t.step(name, t.failed == 0 && *ms <= 1000, shares(t))
	step.RecoveredMS = ms
	s.done(step)
	return nil
}

func (s *story) heal(ctx context.Context) error {
	s.screen.next(s.begin, "AWS replaces its machines by new ones; the gateway of %s starts again ...", azure)
	from := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.replace(s.regions[aws]) })
	g.Go(func() error { return s.startGateway(gctx, s.regions[azure]) })
	if err := g.Wait(); err != nil {
		return err
	}
	var back time.Time
	err := s.until(ctx, 15*time.Second, "traffic to return to "+string(aws), func() error {
		at, ok := s.load.first(from, in(aws))
		back = at
		if !ok {
			return errors.New("no request has been answered there yet")
		}
		return s.allActive(ctx)
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	t := s.load.since(from)
	step := t.step("heal", t.failed == 0, shares(t)+"; the new machines had to be discovered first")
	step.RecoveredMS = millis(back.Sub(from))
	s.done(step)
	return nil
}

// allActive returns nil when every region says that every peering of its is active.
func (s *story) allActive(ctx context.Context) error {
	for _, r := range s.regions {
		list, err := r.client.PeerList(ctx, &admin.PeerListRequest{})
		if err != nil {
			return err
		}
		for _, p := range list.Peerings {
			if p.State != federation.PeeringActive {
				return fmt.Errorf("%s sees %s as %v", r.name, p.Region, p.State)
			}
		}
	}
	return nil
}

func (s *story) deny(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}
	probe := &load{url: "http://" + s.batch + "/v1/export"}
	if _, err := probe.once(ctx, client); err != nil {
		return fmt.Errorf("batch is allowed but was not answered: %w", err)
	}
	s.screen.next(s.begin, "denying batch in %s ...", gcp)
	from := time.Now()
	no := federation.Resource{Key: federation.Key{Kind: federation.KindIntention, Name: "no-batch"},
		Spec: &federation.Intention{Source: "batch", Destination: "checkout@*", Action: federation.Deny}}
	r := s.regions[gcp]
	if err := r.apply(ctx, no); err != nil {
		return err
	}
	err := s.until(ctx, 5*time.Second, "batch to be refused", func() error {
		if by, err := probe.once(ctx, client); err == nil {
			return fmt.Errorf("%s still answered", by.region)
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(from)
	why, err := r.client.Explain(ctx, &admin.ExplainRequest{Source: "batch", Destination: "checkout"})
	if err != nil {
		return err
	}
	t := s.load.since(from)
	ok := why.Verdict == admin.VerdictDenied && why.Decision.Rule == "no-batch" && t.failed == 0
	s.done(t.step("deny batch", ok, fmt.Sprintf("refused %d ms after the change; explain: %s", took.Milliseconds(), why.Reason)))
	return nil
}

// in tells the servers of region r from others.
func in(r federation.Region) func(server) bool {
	return func(s server) bool { return s.region == string(r) }
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// shares says who answered, in words.
func shares(t tally) string {
	text := ""
	for _, r := range []federation.Region{aws, azure, gcp} {
		if n := t.regions[string(r)]; n > 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%s %d", r, n)
		}
	}
	return text
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
