package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

const (
	fakeNear federation.Region = "gcp-europe-west1"
	fakeFar  federation.Region = "azure-westeurope"
)

// fakeDrains is what the fake gateway knows of drains.
type fakeDrains struct {
	status *admin.DrainStatus
	asked  int // how often since
}

func (g *fakeGateway) FailoverShow(_ context.Context, r *admin.FailoverShowRequest) (*admin.FailoverShowResponse, error) {
	out := &admin.FailoverShowResponse{Region: "aws-us-east-1"}
	if d := g.drains.status; d != nil {
		g.drains.asked++
		d.Share = map[bool]float64{true: 0.4, false: 0}[!d.Until.IsZero()]
		if d.Until.IsZero() || g.drains.asked < 3 {
			out.Drains = append(out.Drains, *d)
		}
	}
	s := admin.ServiceFailover{Service: service("search"), Protocol: federation.ProtocolHTTP, Serving: fakeNear, Regions: []admin.FailoverRegion{
		{Region: fakeNear, Serves: true, Reason: "2 of 2 healthy", Healthy: 2, Total: 2, AgeSeconds: 0.4, PerSecond: 312.5, LastSecond: 320, Open: 4},
		{Region: fakeFar, Serves: true, Reason: "1 of 1 healthy", Healthy: 1, Total: 1, AgeSeconds: 1.5},
		{Region: "aws-us-east-1", Local: true, Reason: "no source of this region has seen it"}}}
	if g.drains.asked > 1 {
		s.Regions[0].LastSecond, s.Regions[0].Open = 0, 1
	}
	if r.Service != (federation.ServiceName{}) && r.Service != s.Service {
		return nil, &federation.Diagnostic{Code: "TW-8903", What: fmt.Sprintf("there is no service %q", r.Service), Err: admin.ErrNotFound}
	}
	out.Services = append(out.Services, s)
	return out, nil
}

func (g *fakeGateway) FailoverTest(_ context.Context, r *admin.FailoverTestRequest) (*admin.FailoverTestResponse, error) {
	switch r.Region {
	case fakeNear:
		return &admin.FailoverTestResponse{Region: fakeNear, Moves: []admin.FailoverMove{
			{Service: service("search"), From: fakeNear, To: fakeFar, PerSecond: 312.5, Open: 4}}}, nil
	case fakeFar:
		return &admin.FailoverTestResponse{Region: fakeFar, Unserved: 1, Moves: []admin.FailoverMove{
			{Service: service("catalog"), From: fakeFar, PerSecond: 2, Reason: "no other region could serve it now"}}}, nil
	case federation.Local:
		return &admin.FailoverTestResponse{Region: "aws-us-east-1"}, nil
	}
	return nil, &federation.Diagnostic{Code: federation.CodeDrainRegion, What: fmt.Sprintf("region %q is not known", r.Region),
		Why: "it is neither this region nor a peer", Fix: "tradewind peer list", Err: admin.ErrNotFound}
}

func (g *fakeGateway) FailoverDrain(_ context.Context, r *admin.FailoverDrainRequest) (*admin.DrainStatus, error) {
	g.drains = fakeDrains{status: &admin.DrainStatus{Region: r.Region, Owner: r.Owner, By: "uid 0, pid 42", Since: before(time.Minute), AgeSeconds: 60}}
	status := *g.drains.status
	return &status, nil
}

func (g *fakeGateway) FailoverReturn(_ context.Context, r *admin.FailoverReturnRequest) (*admin.DrainStatus, error) {
	if r.Region != fakeNear {
		return nil, &federation.Diagnostic{Code: federation.CodeDrainNone, What: fmt.Sprintf("region %q is not drained", r.Region),
			Why: "no drain of it is in force in this region", Fix: "tradewind failover show", Err: admin.ErrNotFound}
	}
	g.drains = fakeDrains{status: &admin.DrainStatus{Region: r.Region, Owner: r.Owner, Since: before(time.Minute), Until: before(0), Share: 0.1}}
	status := *g.drains.status
	return &status, nil
}

// TestFailoverCommands runs the commands in an order: what one does, the next one sees.
func TestFailoverCommands(t *testing.T) {
	w := newWorld(t)
	for _, step := range []struct{ name, line string }{
		{"failover-show", "failover show"}, {"failover-show-none", "failover show nothing"},
		{"failover-test", "failover test gcp-europe-west1"}, {"failover-test-unserved", "failover test azure-westeurope"},
		{"failover-test-local", "failover test local"}, {"failover-test-unknown", "failover test nowhere"},
		{"failover-test-json", "failover test gcp-europe-west1 -o json"},
		{"failover-return-none", "failover return azure-westeurope"},
		{"failover-drain", "failover drain gcp-europe-west1"}, {"failover-show-drained", "failover show search"},
		{"failover-return", "failover return gcp-europe-west1"}, {"failover-drain-stays", "failover drain azure-westeurope"},
		{"failover-drain-bad", "failover drain gcp-europe-west1 --for -1s"}, {"failover-help", "failover"},
	} {
		stdout, stderr, code := w.run(t, strings.Fields(step.line)...)
		golden(t, step.name, fmt.Sprintf("$ tradewind %s\n--- stdout\n%s--- stderr\n%s--- exit code %d\n", step.line, stdout, stderr, code))
	}
}
