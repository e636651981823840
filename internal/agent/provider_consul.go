//go:build !no_consul

package agent

import (
	"fmt"
	"log/slog"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/consul"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openConsul opener = func(body any, _ *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.ConsulProvider)
	if !ok {
		return nil, fmt.Errorf("configuration is a %T", body)
	}
	if c.Sync != nil {
		if _, err := newConsulSync(c, "any", "any", nil); err != nil { // a mistake is to be known before anything runs
			return nil, err
		}
	}
	l, err := consul.New(consul.Config{
		Access: consulAccess(c), Datacenters: c.Datacenters, Namespaces: c.Namespaces, Partitions: c.Partitions, Services: c.Services,
		Tags: c.Tags, Filter: c.Filter, Consistent: c.Consistent, Proxies: c.Proxies, AddressTag: c.AddressTag,
	})
	if err != nil {
		return nil, err // not l: a nil *consul.Lister would be a lister
	}
	return l, nil
}

func consulAccess(c *config.ConsulProvider) consul.Access {
	return consul.Access{
		Address: c.Address, TokenFile: c.TokenFile, TokenEnv: c.TokenEnv, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
		ServerName: c.ServerName,
	}
}

func newConsulSync(c *config.ConsulProvider, region federation.Region, gateway string, log *slog.Logger) (*consul.Sync, error) {
	return consul.NewSync(consul.SyncConfig{Access: consulAccess(c), Region: region, Gateway: gateway, TTL: c.Sync.TTLOf(),
		Prefix: c.Sync.Prefix, Tags: c.Sync.Tags, Merge: c.Sync.Merge, Log: log})
}
