package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// noon is when everything in these tests happens.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) admin.Time { return admin.At(noon.Add(-d)) }
func after(d time.Duration) admin.Time  { return admin.At(noon.Add(d)) }

func service(s string) federation.ServiceName {
	name, err := federation.ParseServiceName(s)
	if err != nil {
		panic(err)
	}
	return name
}

// fakeGateway is the gateway of aws-us-east-1 in a world with one good and one stale peer. What was asked of it is kept.
type fakeGateway struct {
	applied  []*admin.ChangeRequest
	deleted  []*admin.DeleteRequest
	asked    []any
	lonely   bool // no peers, services, resources
	failures int  // checks that fail
	lane     string
	drains   fakeDrains
}

var errNoPeer = &federation.Diagnostic{Code: "TW-3001", What: "there is no peer \"nowhere\"",
	Why: "no peering with that region was ever made",
	Fix: "tradewind peer list", Err: admin.ErrNotFound}

func (g *fakeGateway) peers() []admin.Peering {
	if g.lonely {
		return nil
	}
	return []admin.Peering{
		{Region: "azure-westeurope", TrustDomain: "azure-westeurope.mesh.internal", State: federation.PeeringFailing,
			Since:  before(252 * time.Second),
			Reason: "no heartbeat", Gateways: []string{"192.0.2.7:8443"}, Fingerprint: "2MZP-7Q4K-AAAA", Path: admin.PathStatus{},
			Import: admin.ImportStatus{Services: 6, Freshness: federation.FreshnessStale, AsOf: before(252 * time.Second),
				AgeSeconds: 252, Epoch: "4.00ab12cd", Seq: 40, Head: 42,
				Quarantined: []admin.Quarantined{{Service: "Bad_Name", Reason: "it is not a DNS label"}},
				Names:       []federation.ServiceName{service("catalog")}},
			Export: admin.ExportStatus{Services: 9, Applied: 12, Head: 14, Confirmed: before(252 * time.Second)},
			Problem: &admin.Problem{Severity: admin.SeverityError, Code: "TW-3011", What: "azure-westeurope does not answer",
				Why: "no packet for 4m12s",
				Fix: "there: tradewind status"}},
		{Region: "gcp-europe-west1", TrustDomain: "gcp-europe-west1.mesh.internal", State: federation.PeeringActive,
			Since:    before(50 * time.Hour),
			Gateways: []string{"192.0.2.9:8443"}, Fingerprint: "7Q4K-2MZP-BBBB",
			Exchange: "quic",
			Path: admin.PathStatus{Up: true, Lane: "quic", Address: "192.0.2.9:8443", RTTSeconds: 0.0862, Loss: 0.001, Sessions: 5, QUIC: 4, TCP: 1,
				Since: before(50 * time.Hour)},
			Import: admin.ImportStatus{Services: 14, AsOf: before(400 * time.Millisecond), AgeSeconds: 0.4, Epoch: "9.0000beef",
				Seq: 99, Head: 99, Names: []federation.ServiceName{service("search"), service("shop/cart")}},
			Export: admin.ExportStatus{Services: 9, Applied: 14, Head: 14, Confirmed: before(time.Second),
				Names: []federation.ServiceName{service("checkout")}}},
	}
}

func (g *fakeGateway) Status(context.Context, *admin.StatusRequest) (*admin.Status, error) {
	st := &admin.Status{Region: "aws-us-east-1", TrustDomain: "aws-us-east-1.mesh.internal", Gateway: "gw-1", Version: "v0.1.0",
		State: admin.StateReady,
		Location: admin.Location{Provider: "aws", Region: "us-east-1", Zone: "us-east-1b", ZoneID: "use1-az2", Instance: "i-0123456789abcdef0",
			Account: "111122223333"},
		Started: before(150 * time.Hour), UptimeSeconds: admin.SecondsOf(150 * time.Hour), Generation: 4,
		Configured: before(3 * time.Hour), View: 812,
		Listeners: []admin.ListenerStatus{{Name: "mesh", Address: "[::]:8443", Network: "udp"}}, Peers: g.peers(),
		Certificates: admin.CertificateSummary{Fingerprint: "7Q4K-2MZP-AAAA", CANotAfter: after(61 * 24 * time.Hour),
			GatewayNotAfter: after(9*time.Hour + 5*time.Minute),
			GatewayRenews:   after(3 * time.Hour), Issued: 4}}
	if g.lonely {
		return st, nil
	}
	st.Traffic = admin.Traffic{Active: 120, Opened: 18204, Denied: 3}
	st.Services = admin.ServiceCounts{Local: 9, Imported: 20, Exported: 9, Failing: 1}
	st.Failovers = []admin.FailoverStatus{{Service: service("catalog"), From: "azure-westeurope", To: "gcp-europe-west1",
		Since: before(4 * time.Minute), Reason: "path down"}}
	st.Sources = []admin.SourceStatus{{Name: "file:shop", Instances: 3, LastComplete: before(2 * time.Second), AgeSeconds: 2}}
	st.Problems = []admin.Problem{*st.Peers[0].Problem}
	return st, nil
}

func (g *fakeGateway) Check(_ context.Context, r *admin.CheckRequest) (*admin.CheckReport, error) {
	g.asked = append(g.asked, *r)
	report := &admin.CheckReport{Region: "aws-us-east-1", Gateway: "gw-1", Version: "v0.1.0", Peers: 2, TookSeconds: 1.84,
		Groups: []admin.CheckGroup{
			{Name: "process", Results: []admin.CheckResult{{Name: "store", Status: admin.CheckPass}, {Name: "clock",
				Status: admin.CheckPass, What: "3ms from gcp-europe-west1"}}},
			{Name: "network", Results: []admin.CheckResult{{Name: "listener", Status: admin.CheckPass}, {Name: "buffers",
				Status: admin.CheckWarn, Code: "TW-6004",
				What: "UDP receive buffer is 208 KiB, want 7 MiB", Why: "net.core.rmem_max is smaller",
				Fix: "sudo sysctl -w net.core.rmem_max=7500000"}}},
		}}
	if g.failures > 0 {
		g.failures--
		report.Groups = append(report.Groups, admin.CheckGroup{Name: "peers", Results: []admin.CheckResult{
			{Name: "azure-westeurope path", Status: admin.CheckFail, Code: "TW-3011", What: "azure-westeurope does not answer",
				Why: "no packet for 4m12s",
				Fix: "there: tradewind status"},
			{Name: "azure-westeurope catalog", Status: admin.CheckSkip, What: "not asked, because the path is down"}}})
	}
	return report, nil
}

func (g *fakeGateway) Explain(_ context.Context, r *admin.ExplainRequest) (*admin.Explanation, error) {
	g.asked = append(g.asked, *r)
	yes, stale := true, federation.FreshnessStale
	e := &admin.Explanation{Verdict: admin.VerdictAllowed, At: "aws-us-east-1", Region: "aws-us-east-1", View: 812,
		Destination: r.Destination,
		Caller: admin.ExplainedCaller{ID: "spiffe://aws-us-east-1.mesh.internal/ns/default/svc/web", Region: "aws-us-east-1",
			Assurance: federation.AssuranceBinding}}
	switch {
	case r.Token != "":
		explainFakeToken(e, r)
	case r.Destination == "busy":
		explainFakeLimits(e)
	case r.Request != nil:
		explainFakeRequest(e, r)
	case r.Destination == "api":
		e.Conditional, e.Reason = true, `intention "reads" allows web@aws-us-east-1 to call api@aws-us-east-1; region aws-us-east-1 serves it`
		e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Allowed: true, Rule: "reads", Conditional: true}
	case r.Source == "web@gcp-europe-west1":
		e.Verdict, e.Reason, e.Exported, e.Fix = admin.VerdictDenied, "no intention allows it", &yes,
			"tradewind intention allow web@gcp-europe-west1 checkout"
		e.Caller.ID, e.Caller.Region = "spiffe://gcp-europe-west1.mesh.internal/ns/default/svc/web", "gcp-europe-west1"
		e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Rule: "default", Code: "TW-7001",
			Reason: "no intention allows it", Matched: []admin.ExplainedMatch{
				{Rule: "web-to-checkout", Action: federation.Allow, Reason: "the source is another region's", Source: "shop.hcl:12"}}}
	case r.Destination == "sick":
		explainFakeSick(e)
	case r.Destination == "ghost":
		e.Verdict, e.Reason = admin.VerdictUnreachable, "no region that may serve it has ghost"
	default:
		e.Reason = "web-to-search allows it; region gcp-europe-west1 serves it"
		e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Allowed: true, Rule: "web-to-search",
			Reason: "it allows web to call search", Matched: []admin.ExplainedMatch{
				{Rule: "web-to-search", Action: federation.Allow, Decided: true, Reason: "most specific"}}}
		e.Candidates = []admin.Candidate{
			{Region: "gcp-europe-west1", Kept: true, Chosen: true, Healthy: 3, Total: 3, Lane: "quic", RTTSeconds: 0.0862},
			{Region: "azure-westeurope", Healthy: 2, Total: 2, Freshness: &stale, Reason: "its path is down"}}
		e.Remote = &admin.ExplainedDecision{Region: "gcp-europe-west1", Allowed: true, Rule: "any-to-search"}
	}
	return e, nil
}

func (g *fakeGateway) Ping(_ context.Context, r *admin.PingRequest) (*admin.Pong, error) {
	if r.Peer == "nowhere" {
		return nil, errNoPeer
	}
	if r.Peer == "azure-westeurope" {
		return nil, &federation.Diagnostic{Code: "TW-6001", What: "azure-westeurope does not answer", Why: "no path is up",
			Fix: "tradewind check --peer azure-westeurope"}
	}
	clock := admin.Seconds(-0.003)
	return &admin.Pong{Peer: r.Peer, Lane: g.lane, Address: "192.0.2.9:8443", RTTSeconds: 0.0862, ClockOffsetSeconds: &clock}, nil
}

func (g *fakeGateway) ListServices(context.Context, *admin.ListServicesRequest) (*admin.ListServicesResponse, error) {
	res := &admin.ListServicesResponse{Region: "aws-us-east-1"}
	if !g.lonely {
		res.Services = []admin.ServiceStatus{g.checkout(), {Name: service("search"),
			Homes: []admin.ServiceHome{{Region: "gcp-europe-west1", Healthy: 3, Total: 3, AgeSeconds: 0.4}},
			Order: []admin.ServiceTarget{{Region: "gcp-europe-west1", Healthy: 3, Total: 3, Chosen: true}}}}
	}
	return res, nil
}

func (g *fakeGateway) checkout() admin.ServiceStatus {
	return admin.ServiceStatus{Name: service("checkout"), Protocol: federation.ProtocolHTTP, Homes: []admin.ServiceHome{
		{Region: "aws-us-east-1", Local: true, Healthy: 1, Total: 2},
		{Region: "azure-westeurope", Healthy: 2, Total: 2, Freshness: federation.FreshnessStale, AgeSeconds: 252}},
		ExportedTo: []federation.Region{"gcp-europe-west1"},
		Order: []admin.ServiceTarget{{Region: "aws-us-east-1", Healthy: 1, Total: 2, Chosen: true},
			{Region: "azure-westeurope", Healthy: 2, Total: 2, Reason: "STALE"}}}
}

func (g *fakeGateway) instances() []admin.InstanceStatus {
	return []admin.InstanceStatus{
		{Instance: federation.Instance{ID: "checkout-1", Service: service("checkout"),
			Address: netip.MustParseAddrPort("192.0.2.10:8080"), Health: federation.HealthPassing,
			Locality: federation.Locality{Zone: "a"}}, Source: "file:shop", Since: before(3 * time.Hour),
			CheckStatus: []federation.CheckStatus{{Kind: federation.CheckHTTP, Target: "192.0.2.10:8080/healthz", Health: federation.HealthPassing,
				Since: before(3 * time.Hour).Time, Last: before(400 * time.Millisecond).Time, Output: "ok"}}},
		{Instance: federation.Instance{ID: "checkout-2", Service: service("checkout"),
			Address: netip.MustParseAddrPort("192.0.2.11:8080"), Health: federation.HealthFailing},
			Source: "api", Also: []federation.SourceName{"file:old"}, Since: before(20 * time.Second), Reason: "tcp: connection refused",
			CheckStatus: []federation.CheckStatus{{Kind: federation.CheckHTTP, Target: "192.0.2.11:8080/healthz", Health: federation.HealthFailing,
				Reason: "answered 503 Service Unavailable", Since: before(20 * time.Second).Time, Last: before(time.Second).Time,
				Output: "no database", Failures: 40}}}}
}

func (g *fakeGateway) ShowService(_ context.Context, r *admin.ShowServiceRequest) (*admin.ServiceDetail, error) {
	if r.Service != service("checkout") {
		return nil, &federation.Diagnostic{Code: "TW-5001", What: "there is no service " + r.Service.String(),
			Why: "no source has seen it and no peer shows it",
			Fix: "tradewind services list", Err: admin.ErrNotFound}
	}
	resolver := federation.Resolver{}.Defaulted()
	return &admin.ServiceDetail{ServiceStatus: g.checkout(), Identity: "spiffe://aws-us-east-1.mesh.internal/ns/default/svc/checkout",
		Instances: g.instances(), Resolver: &resolver,
		Imports: []admin.ImportedDetail{{Region: "azure-westeurope", Detail: federation.DetailSummary,
			Slots: []admin.Slot{{Key: "zone-1", Zone: "1", Healthy: 2, Total: 2}}}},
		Resources: g.stored()[:2]}, nil
}

func (g *fakeGateway) ListSources(context.Context, *admin.ListSourcesRequest) (*admin.ListSourcesResponse, error) {
	return &admin.ListSourcesResponse{Sources: []admin.SourceStatus{
		{Name: "api", Instances: 1},
		{Name: "file:shop", Instances: 3, LastComplete: before(90 * time.Second), AgeSeconds: 90,
			Error: "open /etc/shop.json: no such file"},
		{Name: "file:stock", Instances: 7, LastComplete: before(time.Second), AgeSeconds: 1, Skipped: 2, Conflicts: 1}}}, nil
}

func (g *fakeGateway) stored() []federation.Resource {
	return []federation.Resource{
		{Key: federation.Key{Kind: federation.KindExport, Name: "checkout"}, Owner: "cli", Version: 7,
			Spec: &federation.Export{To: []string{"gcp-europe-west1"}}},
		{Key: federation.Key{Kind: federation.KindIntention, Name: "web-to-checkout"}, Owner: "cli", Version: 9,
			Spec: &federation.Intention{Source: "web", Destination: "checkout", Action: federation.Allow, Description: "the shop"}},
		{Key: federation.Key{Kind: federation.KindUpstream, Name: "search"}, Owner: "terraform", Version: 2,
			Spec: &federation.Upstream{Service: federation.ServiceRef{Service: service("search")}, Listen: "127.0.0.1:9001",
				Caller: service("web")}},
	}
}

// requests are the resources that speak of requests.
func (g *fakeGateway) requests() []federation.Resource {
	return []federation.Resource{
		{Key: federation.Key{Kind: federation.KindIntention, Name: "reads"}, Owner: "cli", Version: 10,
			Spec: &federation.Intention{Source: "web", Destination: "api", Action: federation.Allow, HTTP: []federation.Permission{
				{HTTPMatch: federation.HTTPMatch{Methods: []string{"GET", "HEAD"}, PathPrefix: "/v2"}},
				{HTTPMatch: federation.HTTPMatch{Path: "/healthz"}}}}},
		{Key: federation.Key{Kind: federation.KindIntention, Name: "strict"}, Owner: "cli", Version: 11,
			Spec: &federation.Intention{Source: "*", Destination: "api", Action: federation.Deny, Mode: federation.Shadow}},
		{Key: federation.Key{Kind: federation.KindRoute, Name: "api"}, Owner: "cli", Version: 12, Spec: fakeRoute()},
	}
}

func fakeRoute() *federation.Route {
	return &federation.Route{Rules: []federation.RouteRule{
		{Name: "old", Match: []federation.HTTPMatch{{Hosts: []string{"old.example.com"}, PathPrefix: "/"}},
			Redirect: &federation.Redirect{Host: "api.example.com", Status: 308}},
		{Name: "v1", Match: []federation.HTTPMatch{{Methods: []string{"GET"}, PathPrefix: "/v1"}, {PathTemplate: "/users/{id}"}},
			Rewrite: &federation.Rewrite{PathPrefix: "/v2"}, Timeout: federation.Duration(5 * time.Second),
			Request: &federation.HeaderEdit{Set: map[string]string{"x-from": "v1"}, Remove: []string{"cookie"}}},
		{Name: "canary", Match: []federation.HTTPMatch{{Headers: []federation.FieldMatch{{Name: "x-canary", Exact: []string{"1", "2"}}},
			Query: []federation.FieldMatch{{Name: "page", Absent: true}}}},
			Split: []federation.Split{{Weight: 9}, {Service: service("api-next"), Subset: "v2", Region: "azure-westeurope", Weight: 1}},
			Retry: &federation.Retry{Attempts: 3}, Mirror: &federation.Mirror{Service: service("shadow"), Percent: 2.5}},
		{Name: "teapot", Match: []federation.HTTPMatch{{Path: "/teapot"}}, Respond: &federation.Respond{Status: 418}},
		{Name: "rest", Fault: &federation.Fault{Abort: 503, AbortPercent: 1}},
	}}
}

func (g *fakeGateway) ListResources(_ context.Context, r *admin.ListResourcesRequest) (*admin.ListResourcesResponse, error) {
	res := &admin.ListResourcesResponse{}
	if g.lonely {
		return res, nil
	}
	list := g.stored()
	if len(r.Kinds) > 0 {
		list = append(list, g.requests()...)
	}
	for _, s := range list {
		if len(r.Kinds) == 0 || r.Kinds[0] == s.Kind {
			res.Resources = append(res.Resources, s)
		}
	}
	return res, nil
}

func (g *fakeGateway) GetResource(_ context.Context, r *admin.GetResourceRequest) (*admin.GetResourceResponse, error) {
	for _, s := range append(g.stored(), g.requests()...) {
		if s.Key == r.Key {
			return &admin.GetResourceResponse{Resource: s}, nil
		}
	}
	return nil, &federation.Diagnostic{Code: "TW-1204", What: "there is no " + r.Key.String(), Fix: "tradewind get", Err: admin.ErrNotFound}
}

func (g *fakeGateway) PlanResources(_ context.Context, r *admin.ChangeRequest) (*admin.Plan, error) {
	p := &admin.Plan{}
	find := func(key federation.Key) *federation.Resource {
		for _, s := range g.stored() {
			if s.Key == key && !g.lonely {
				return &s
			}
		}
		return nil
	}
	for i := range r.Put {
		want := r.Put[i]
		want.Owner = r.Owner
		have := find(want.Key)
		step := admin.Step{Action: admin.ActionCreate, Key: want.Key, Before: have, After: &want}
		if have != nil {
			if have.Owner != r.Owner && !r.Force {
				return nil, &federation.Diagnostic{Code: "TW-1206", What: want.Key.String() + " belongs to " + have.Owner,
					Why: "only its owner may change it",
					Fix: "change it there, or take it over with --force", Err: admin.ErrConflict}
			}
			step.Action = admin.ActionUpdate
			if len(specDiff(have, &want)) == 0 {
				step.Action = admin.ActionNone
			}
		}
		p.Steps = append(p.Steps, step)
	}
	for _, key := range r.Delete {
		have := find(key)
		if have == nil {
			return nil, &federation.Diagnostic{Code: "TW-1204", What: "there is no " + key.String(), Fix: "tradewind get",
				Err: admin.ErrNotFound}
		}
		p.Steps = append(p.Steps, admin.Step{Action: admin.ActionDelete, Key: key, Before: have})
	}
	return p, nil
}

func (g *fakeGateway) ApplyResources(ctx context.Context, r *admin.ChangeRequest) (*admin.Plan, error) {
	g.applied = append(g.applied, r)
	return g.PlanResources(ctx, r)
}

func (g *fakeGateway) DeleteResources(ctx context.Context, r *admin.DeleteRequest) (*admin.Plan, error) {
	g.deleted = append(g.deleted, r)
	return g.PlanResources(ctx, &admin.ChangeRequest{Owner: r.Owner, Delete: r.Keys})
}

func (g *fakeGateway) PeerGenerateToken(_ context.Context, r *admin.PeerTokenRequest) (*admin.PeerToken, error) {
	return &admin.PeerToken{Token: "tw1.c2VjcmV0", Peer: r.Peer, Expires: after(15 * time.Minute),
		Addresses: []string{"192.0.2.1:8443"}, Fingerprint: "7Q4K-2MZP-AAAA"}, nil
}

func (g *fakeGateway) PeerEstablish(_ context.Context, r *admin.PeerEstablishRequest,
	progress func(admin.PeerStep)) (*admin.PeerEstablished, error) {
	g.asked = append(g.asked, *r)
	progress(admin.PeerStep{Name: "token", State: admin.StepRunning, Text: "reading the token"})
	if r.Token != "tw1.c2VjcmV0" {
		progress(admin.PeerStep{Name: "token", State: admin.StepFailed, Text: "it was used already"})
		return nil, &federation.Diagnostic{Code: "TW-3005", What: "the token was used already", Why: "each works once",
			Fix: "there: tradewind peer generate-token aws-us-east-1"}
	}
	progress(admin.PeerStep{Name: "token", State: admin.StepDone, Text: "valid, single use, 14m left"})
	progress(admin.PeerStep{Name: "reach", State: admin.StepDone, Text: "192.0.2.9:8443 answers QUIC in 86ms"})
	p := g.peers()[1]
	p.Export.Services = 0
	return &admin.PeerEstablished{Peering: p, TookSeconds: 1.9}, nil
}

func (g *fakeGateway) PeerWait(ctx context.Context, r *admin.PeerWaitRequest) (*admin.Peering, error) {
	if r.Peer == "azure-westeurope" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	p, err := g.PeerShow(ctx, &admin.PeerRequest{Peer: r.Peer})
	if err == nil {
		p.State = r.State
	}
	return p, err
}

func (g *fakeGateway) PeerList(context.Context, *admin.PeerListRequest) (*admin.PeerListResponse, error) {
	return &admin.PeerListResponse{Peerings: g.peers()}, nil
}

func (g *fakeGateway) PeerShow(_ context.Context, r *admin.PeerRequest) (*admin.Peering, error) {
	for _, p := range g.peers() {
		if p.Region == r.Peer {
			return &p, nil
		}
	}
	return nil, errNoPeer
}

func (g *fakeGateway) PeerPause(ctx context.Context, r *admin.PeerRequest) (*admin.Peering, error) {
	p, err := g.PeerShow(ctx, r)
	if err == nil {
		p.State = federation.PeeringPaused
	}
	return p, err
}

func (g *fakeGateway) PeerResume(ctx context.Context, r *admin.PeerRequest) (*admin.Peering, error) {
	return g.PeerShow(ctx, r)
}

func (g *fakeGateway) PeerRemove(_ context.Context, r *admin.PeerRequest) (*admin.PeerRemoveResponse, error) {
	g.asked = append(g.asked, *r)
	return &admin.PeerRemoveResponse{Told: r.Peer != "azure-westeurope"}, nil
}

func (g *fakeGateway) CertList(context.Context, *admin.CertListRequest) (*admin.CertListResponse, error) {
	return &admin.CertListResponse{Certificates: []admin.Certificate{
		{Serial: "01", ID: "spiffe://aws-us-east-1.mesh.internal", Role: "ca", NotAfter: after(61 * 24 * time.Hour)},
		{Serial: "2f", ID: "spiffe://aws-us-east-1.mesh.internal/gw/gw-1", Role: "gateway", NotAfter: after(9 * time.Hour),
			Renews: after(3 * time.Hour)},
		{Serial: "3a", ID: "spiffe://aws-us-east-1.mesh.internal/ns/default/svc/web", Role: "workload", NotAfter: before(time.Minute)},
		{Serial: "3b", ID: "spiffe://aws-us-east-1.mesh.internal/ns/default/svc/web", Role: "workload", NotAfter: after(time.Hour),
			Revoked: before(time.Minute), Reason: "lost"}},
		Bundles: []admin.TrustBundle{
			{Region: "aws-us-east-1", TrustDomain: "aws-us-east-1.mesh.internal", Own: true, Sequence: 1, Roots: 1,
				NotAfter: after(61 * 24 * time.Hour), Fingerprint: "7Q4K-2MZP-AAAA"},
			{Region: "gcp-europe-west1", TrustDomain: "gcp-europe-west1.mesh.internal", Sequence: 3, Roots: 2,
				NotAfter: after(30 * 24 * time.Hour), Fingerprint: "7Q4K-2MZP-BBBB"}}}, nil
}

func (g *fakeGateway) CertIssue(_ context.Context, r *admin.CertIssueRequest) (*admin.CertIssueResponse, error) {
	g.asked = append(g.asked, *r)
	return &admin.CertIssueResponse{Serial: "3c", ID: "spiffe://aws-us-east-1.mesh.internal/ns/shop/svc/web", ChainPEM: "chain\n",
		BundlePEM: "roots\n", NotAfter: after(time.Hour)}, nil
}

func (g *fakeGateway) CertRotateCA(ctx context.Context, _ *admin.CertRotateCARequest) (*admin.CertListResponse, error) {
	return g.CertList(ctx, nil)
}

func (g *fakeGateway) CertRevoke(_ context.Context, r *admin.CertRevokeRequest) (*admin.CertRevokeResponse, error) {
	return &admin.CertRevokeResponse{Revoked: []admin.Certificate{{Serial: r.Certificate,
		ID: "spiffe://aws-us-east-1.mesh.internal/ns/default/svc/web"}}}, nil
}

func (g *fakeGateway) ListInstances(context.Context, *admin.ListInstancesRequest) (*admin.ListInstancesResponse, error) {
	return &admin.ListInstancesResponse{Instances: g.instances()}, nil
}

func (g *fakeGateway) RegisterInstance(_ context.Context, r *admin.RegisterInstanceRequest) (*admin.RegisterInstanceResponse, error) {
	g.asked = append(g.asked, *r)
	return &admin.RegisterInstanceResponse{Instance: r.Instance, Replaced: r.Token != "", Also: []federation.SourceName{"file:old"}}, nil
}

func (g *fakeGateway) DeregisterInstance(_ context.Context, r *admin.InstanceRequest) (*admin.DeregisterInstanceResponse, error) {
	g.asked = append(g.asked, *r)
	return &admin.DeregisterInstanceResponse{}, nil
}

func (g *fakeGateway) HeartbeatInstance(_ context.Context, r *admin.InstanceRequest) (*admin.HeartbeatInstanceResponse, error) {
	g.asked = append(g.asked, *r)
	if r.ID == "checkout-1" {
		return &admin.HeartbeatInstanceResponse{}, nil
	}
	return &admin.HeartbeatInstanceResponse{Expires: after(15 * time.Second)}, nil
}

func (g *fakeGateway) Reload(context.Context, *admin.ReloadRequest) (*admin.ReloadResponse, error) {
	return &admin.ReloadResponse{Generation: 5, Changed: []string{"log.level"}, Restart: []string{"mesh.listen"}}, nil
}

func (g *fakeGateway) LogLevel(_ context.Context, r *admin.LogLevelRequest) (*admin.LogLevelResponse, error) {
	if r.Level == "" {
		return &admin.LogLevelResponse{Level: "info", Previous: "info"}, nil
	}
	return &admin.LogLevelResponse{Level: r.Level, Previous: "info"}, nil
}
