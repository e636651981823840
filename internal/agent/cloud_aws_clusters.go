//go:build !no_aws && !no_kubernetes

package agent

import (
	"context"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/aws"
)

// awsClusters is cloud.clusters.
func awsClusters(body any) (listClusters, error) {
	c, ok := body.(*config.AWSProvider)
	if !ok {
		return nil, wrongBody(body)
	}
	cfg := awsConfig(c)
	cfg.Kinds = []string{aws.KindEC2} // it takes one; clusters are of none
	l, err := aws.New(cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]cluster, error) {
		found, err := aws.Clusters(ctx, l)
		out := make([]cluster, 0, len(found))
		for _, f := range found {
			out = append(out, cluster{Name: f.Name, Account: f.Account, Region: f.Region, Endpoint: f.Endpoint, CA: f.CA, Token: f.Token})
		}
		return out, err
	}, nil
}
