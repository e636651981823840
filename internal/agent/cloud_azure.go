//go:build !no_azure

package agent

import (
	"context"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/providers/azure"
)

var cloudAzure = &cloud{
	locate: azure.Locate,
	addresses: func(ctx context.Context, w map[string]string) ([]netip.Addr, error) {
		return azure.Addresses(ctx, azure.Filter{Subscription: w["subscription_id"], ResourceGroup: w["resource_group"], TagName: w["tag_name"],
			TagValue: w["tag_value"], AddressType: addressType(w), Cloud: w["environment"], Endpoint: w["endpoint"]})
	},
	clusters: azureClusters,
}
