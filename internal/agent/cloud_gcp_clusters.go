//go:build !no_gcp && !no_kubernetes

package agent

import (
	"context"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/gcp"
)

// gcpClusters is cloud.clusters.
func gcpClusters(body any) (listClusters, error) {
	c, ok := body.(*config.GCPProvider)
	if !ok {
		return nil, wrongBody(body)
	}
	cfg := gcpConfig(c)
	cfg.Kinds = []string{gcp.KindInstances} // it takes one; clusters are of none
	l, err := gcp.New(cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]cluster, error) {
		found, err := gcp.Clusters(ctx, l)
		out := make([]cluster, 0, len(found))
		for _, f := range found {
			if f.Location != f.Region { // each zone can have one of the name
				f.Name = f.Location + "/" + f.Name
			}
			out = append(out, cluster{Name: f.Name, Account: f.Account, Region: f.Region, Endpoint: f.Endpoint, CA: f.CA, Token: f.Token})
		}
		return out, err
	}, nil
}
