//go:build !no_azure

package agent

import (
	"log/slog"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/azure"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openAzure opener = func(body any, _ *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.AzureProvider)
	if !ok {
		return nil, wrongBody(body)
	}
	l, err := azure.New(azureConfig(c))
	if err != nil {
		return nil, err // not l: a nil *azure.Lister would be a lister
	}
	return l, nil
}

func azureConfig(c *config.AzureProvider) azure.Config {
	return azure.Config{
		Subscriptions: c.Subscriptions, ManagementGroup: c.ManagementGroup, ResourceGroups: c.ResourceGroups, Kinds: c.Kinds, Tags: c.Tags,
		AddressType: c.AddressType, Cloud: c.Cloud, Endpoint: c.Endpoint,
	}
}
