//go:build !no_aws

package agent

import (
	"log/slog"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/aws"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openAWS opener = func(body any, _ *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.AWSProvider)
	if !ok {
		return nil, wrongBody(body)
	}
	l, err := aws.New(awsConfig(c))
	if err != nil {
		return nil, err // not l: a nil *aws.Lister would be a lister
	}
	return l, nil
}

func awsConfig(c *config.AWSProvider) aws.Config {
	cfg := aws.Config{
		Regions: c.Regions, Kinds: c.Kinds, Tags: c.Tags, Clusters: c.Clusters, Namespaces: c.Namespaces,
		NoTargetHealth: c.TargetHealth != nil && !*c.TargetHealth, TargetGroups: c.TargetGroups,
		AddressType: c.AddressType, Endpoint: c.Endpoint,
	}
	for _, a := range c.Accounts {
		cfg.Accounts = append(cfg.Accounts, aws.Account{RoleARN: a.RoleARN, ExternalID: a.ExternalID, Name: a.Name})
	}
	return cfg
}
