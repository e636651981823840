//go:build !no_azure

package agent

import (
	"context"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/providers/azure"
)

var cloudAzure = &cloud{
	locate: func(ctx context.Context) (admin.Location, error) {
		l, err := azure.Locate(ctx)
		return admin.Location{Provider: l.Provider, Region: l.Region, Zone: l.Zone, ZoneID: l.ZoneID, Instance: l.InstanceID, Account: l.Account}, err
	},
	addresses: func(ctx context.Context, w map[string]string) ([]netip.Addr, error) {
		return azure.Addresses(ctx, azure.Filter{Subscription: w["subscription_id"], ResourceGroup: w["resource_group"], TagName: w["tag_name"],
			TagValue: w["tag_value"], AddressType: addressType(w), Cloud: w["environment"], Endpoint: w["endpoint"]})
	},
	clusters: azureClusters,
}
