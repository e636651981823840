package peering

import (
	"context"
	"fmt"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// SetAddresses replaces the "host:port" of the peer's gateways, 1 to MaxAddresses in the order to try, as somebody who looks them up
// has found them. They are kept over restarts. Sessions to addresses that are no longer among them take no new flows and end with
// their last one; the session of the exchange stays as long as it works. Whoever answers at them must prove to be the peer, as ever.
// Without a live peering the error has CodePeeringUnknown or CodePeeringState.
func (m *Manager) SetAddresses(ctx context.Context, region federation.Region, addresses []string) error {
	refuse := func(code federation.Code, why string) error {
		return &federation.Diagnostic{Code: code, What: fmt.Sprintf("gateway addresses of %s were not changed", region), Why: why,
			Fix: fmt.Sprintf("see: tradewind peer show %s", region)}
	}
	if len(addresses) == 0 || len(addresses) > MaxAddresses {
		return refuse(federation.CodeNoAddress, fmt.Sprintf("there are %d: 1 to %d are allowed", len(addresses), MaxAddresses))
	}
	for i, a := range addresses {
		if err := CheckAddress(a); err != nil {
			return refuse(federation.CodeNoAddress, err.Error())
		}
		if slices.Contains(addresses[:i], a) {
			return refuse(federation.CodeNoAddress, a+" is there twice")
		}
	}
	unlock, err := m.lock(ctx, region)
	if err != nil {
		return err
	}
	defer unlock()
	rec := m.record(region)
	switch {
	case rec == nil:
		return unknownPeering(region)
	case !rec.live():
		return refuse(federation.CodePeeringState, fmt.Sprintf("the peering is %s", rec.restingState()))
	case slices.Equal(rec.Addresses, addresses):
		return nil
	}
	err = m.change(ctx, region, func(old *record) (*record, []store.Op, error) {
		if !old.live() {
			return nil, nil, unknownPeering(region)
		}
		next := *old
		next.Addresses = slices.Clone(addresses)
		return &next, nil, nil
	})
	if err != nil {
		return err
	}
	m.publishPeers()
	m.tell()
	m.log.Info("gateway addresses changed", "peer", string(region), "from", rec.Addresses, "to", addresses)
	return nil
}
