package controlplane_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/federation/registry"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
)

// first keeps the first export that a peer is told.
type first chan federation.ExportView

func (f first) SetExport(_ federation.Region, view federation.ExportView) {
	select {
	case f <- view:
	default:
	}
}
func (first) SetHealth(federation.Region, federation.ServiceName, []federation.ExportedSlot) {}

// TestARestartWithdrawsNothing starts a plane and a real registry together, as a gateway does: the first that a peer hears
// already holds the services that are written down as resources.
func TestARestartWithdrawsNothing(t *testing.T) {
	const aws, gcp = federation.Region("aws-us-east-1"), federation.Region("gcp-europe-west1")
	s := &storetest.Memory{}
	start := func(t *testing.T, change controlplane.Change) federation.ExportView {
		reg := registry.New(registry.Config{Region: aws})
		told := make(first, 1)
		plane, err := controlplane.New(t.Context(), controlplane.Config{Region: aws, TrustDomain: federation.DefaultTrustDomain(aws), Store: s,
			Registry: reg, Exporter: told})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plane.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		plane.SetPeers([]federation.Peer{{Region: gcp, TrustDomain: federation.DefaultTrustDomain(gcp), State: federation.PeeringActive}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- reg.Run(ctx) }()
		go func() { done <- plane.Run(ctx) }()
		view := <-told
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		return view
	}
	service := federation.Resource{Key: federation.Key{Kind: federation.KindService, Name: "web"}, Spec: &federation.Service{
		Instances: []federation.StaticInstance{{Address: netip.MustParseAddrPort("192.0.2.1:80")},
			{Address: netip.MustParseAddrPort("192.0.2.2:80")}}}}
	export := federation.Resource{Key: federation.Key{Kind: federation.KindExport, Name: "web"}, Spec: &federation.Export{To: []string{"*"}}}
	synctest.Test(t, func(t *testing.T) {
		start(t, controlplane.Change{Owner: "cli", Put: []federation.Resource{service, export}})
	})
	for range 20 { // whichever of the two runs first
		synctest.Test(t, func(t *testing.T) {
			view := start(t, controlplane.Change{Owner: "cli"})
			if len(view.Services) != 1 || len(view.Services[0].Slots) != 1 ||
				view.Services[0].Slots[0].Health != (federation.SlotHealth{Healthy: 2, Total: 2}) {
				t.Errorf("the first that a peer hears is %+v", view)
			}
		})
	}
}
