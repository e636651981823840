//go:build !no_gcp

package agent

import (
	"log/slog"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/gcp"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openGCP opener = func(body any, _ *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.GCPProvider)
	if !ok {
		return nil, wrongBody(body)
	}
	l, err := gcp.New(gcpConfig(c))
	if err != nil {
		return nil, err // not l: a nil *gcp.Lister would be a lister
	}
	return l, nil
}

func gcpConfig(c *config.GCPProvider) gcp.Config {
	return gcp.Config{
		Projects: c.Projects, Kinds: c.Kinds, Labels: c.Labels, Locations: c.Locations, Namespaces: c.Namespaces, Groups: c.Groups,
		NoGroupHealth: c.GroupHealth != nil && !*c.GroupHealth, AddressType: c.AddressType, CredentialsFile: c.CredentialsFile,
		Endpoint: c.Endpoint,
	}
}
