package main

import (
	"context"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (g *fakeGateway) providers() []*admin.ProviderDetail {
	denied := &admin.Problem{Severity: admin.SeverityWarning, Code: federation.CodeProviderDenied,
		What: "aws/222222222222/eu-west-1/ec2 cannot be listed: permission ec2:DescribeInstances is missing", Why: "not authorized",
		Fix: "grant ec2:DescribeInstances to arn:aws:iam::222222222222:role/gateway"}
	return []*admin.ProviderDetail{
		{ProviderStatus: admin.ProviderStatus{Name: "corp", Kind: "dns", Source: "dns:corp", State: "ok", Scopes: 1, Workloads: 2, Instances: 2,
			AgeSeconds: 12},
			Details: []admin.ProviderScope{{Scope: "dns/a/web.corp.example.com", State: "ok", Watching: true, Workloads: 2, LastComplete: before(12 * time.Second),
				AgeSeconds: 12, Calls: 40}},
			Rules: []federation.Discover{{Service: "web"}}},
		{ProviderStatus: admin.ProviderStatus{Name: "prod", Kind: "aws", Source: "aws:prod", State: "denied", Scopes: 2, Workloads: 140, Instances: 36,
			AgeSeconds: 4000, Problem: denied},
			Details: []admin.ProviderScope{
				{Scope: "aws/111111111111/eu-west-1/ec2", State: "ok", Workloads: 100, LastComplete: before(41 * time.Second), AgeSeconds: 41,
					Next: after(19 * time.Second), Calls: 12, BadItems: 1, Bad: []admin.BadItem{{ID: "i-0abc", Why: "address \"x\" is not valid"}}},
				{Scope: "aws/222222222222/eu-west-1/ec2", State: "denied", Workloads: 40, LastComplete: before(4000 * time.Second), AgeSeconds: 4000,
					Next: after(200 * time.Second), Calls: 30, Failures: 5, Problem: denied}},
			Rules: []federation.Discover{{Service: "shop-*", Accounts: []string{"111111111111"}, Export: []string{"gcp-europe-west1"}}},
			Ignored: []admin.IgnoredWorkloads{
				{Reason: "not_allowed", Count: 1, Examples: []admin.IgnoredWorkload{{ID: "i-0def", Scope: "aws/222222222222/eu-west-1/ec2",
					Why: "discover rule 1 (service \"shop-*\") does not allow account \"222222222222\""}}},
				{Reason: "unclaimed", Count: 103, Examples: []admin.IgnoredWorkload{{ID: "i-0123", Scope: "aws/111111111111/eu-west-1/ec2",
					Why: "neither its tags nor the provider name a service"}}}}},
		{ProviderStatus: admin.ProviderStatus{Name: "registry", Kind: "consul", Source: "consul:registry", State: "ok", Scopes: 1, Workloads: 3,
			Instances: 3, AgeSeconds: 2},
			Details: []admin.ProviderScope{{Scope: "consul/services", State: "ok", Watching: true, Workloads: 3, LastComplete: before(2 * time.Second),
				AgeSeconds: 2, Calls: 9}},
			Rules: []federation.Discover{{Service: "*"}},
			Consul: &admin.ConsulSync{LastSuccess: admin.At(before(30 * time.Second).Time),
				Entries: []admin.SyncedImport{
					{Name: "orders", Service: service("orders"), Regions: []federation.Region{"azure-1", "gcp-1"}, Address: "192.0.2.10:9001", Healthy: true},
					{Name: "cart-shop", Service: service("shop/cart"), Regions: []federation.Region{"gcp-1"}, Address: "192.0.2.10:9002"}},
				NotShown: []admin.HiddenImports{{Why: "this gateway has no upstream for it", Count: 12, Services: []federation.ServiceName{service("billing")},
					Fix: "add an upstream that listens on an address of this host, with the callers' networks in allow_from"}},
				Problem: &admin.Problem{Severity: admin.SeverityWarning, Code: federation.CodeConsulSyncDenied,
					What: "imports cannot be written to Consul: a rule is missing", Why: "Permission denied",
					Fix: "add service \"orders\" { policy = \"write\" } to the policy of the token"}}},
	}
}

func (g *fakeGateway) ListProviders(context.Context, *admin.ListProvidersRequest) (*admin.ListProvidersResponse, error) {
	out := &admin.ListProvidersResponse{}
	for _, p := range g.providers() {
		out.Providers = append(out.Providers, p.ProviderStatus)
	}
	return out, nil
}

func (g *fakeGateway) ShowProvider(_ context.Context, r *admin.ProviderRequest) (*admin.ProviderDetail, error) {
	for _, p := range g.providers() {
		if p.Name == r.Name {
			return p, nil
		}
	}
	return nil, &federation.Diagnostic{Code: federation.CodeProviderUnknown, What: "there is no provider \"" + r.Name + "\"",
		Why: "gateway.hcl has no provider block of this name", Fix: "tradewind provider list", Err: admin.ErrNotFound}
}

func (g *fakeGateway) SyncProvider(ctx context.Context, r *admin.ProviderRequest) (*admin.ProviderDetail, error) {
	return g.ShowProvider(ctx, r)
}

func (g *fakeGateway) TestProvider(ctx context.Context, r *admin.ProviderRequest) (*admin.ProviderTest, error) {
	p, err := g.ShowProvider(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &admin.ProviderTest{Name: p.Name, Passed: p.Problem == nil}
	for _, d := range p.Details {
		result := admin.ProviderTestResult{Scope: d.Scope, Workloads: d.Workloads, Calls: 2, TookSeconds: 0.231, Problem: d.Problem}
		if d.Problem != nil {
			result.Missing = "ec2:DescribeInstances"
		}
		out.Results = append(out.Results, result)
	}
	return out, nil
}
