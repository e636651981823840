//go:build !no_azure && !no_kubernetes

package agent

import (
	"context"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/azure"
)

// azureClusters is cloud.clusters.
func azureClusters(body any) (listClusters, error) {
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
		found, err := azure.Clusters(ctx, l)
		out := make([]cluster, 0, len(found))
		for _, f := range found { // each resource group can have one of the name
			out = append(out, cluster{Name: f.Group + "/" + f.Name, Account: f.Account, Region: f.Region, Endpoint: f.Endpoint, CA: f.CA, Token: f.Token})
		}
		return out, err
	}, nil
}
