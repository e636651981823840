//go:build !no_azure

package agent

import (
	"context"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
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
	clusters: func(body any) (listClusters, error) {
		c, ok := body.(*config.AzureProvider)
		if !ok {
			return nil, wrongBody(body)
		}
		cfg := azureConfig(c)
		cfg.Kinds = []string{azure.KindVM} // it takes one; clusters are of none
		l, err := azure.New(cfg)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) ([]cluster, error) {
			found, err := l.Clusters(ctx)
			out := make([]cluster, 0, len(found))
			for _, f := range found { // each resource group can have one of the name
				out = append(out, cluster{Name: f.Group + "/" + f.Name, Account: f.Account, Region: f.Region, Endpoint: f.Endpoint, CA: f.CA, Token: f.Token})
			}
			return out, err
		}, nil
	},
}
