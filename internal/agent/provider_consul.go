//go:build !no_consul

package agent

import (
	"fmt"
	"log/slog"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/consul"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openConsul opener = func(body any, _ *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.ConsulProvider)
	if !ok {
		return nil, fmt.Errorf("configuration is a %T", body)
	}
	l, err := consul.New(consul.Config{
		Access: consul.Access{
			Address: c.Address, TokenFile: c.TokenFile, TokenEnv: c.TokenEnv, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
			ServerName: c.ServerName,
		},
		Datacenters: c.Datacenters, Namespaces: c.Namespaces, Partitions: c.Partitions, Services: c.Services, Tags: c.Tags,
		Filter: c.Filter, Consistent: c.Consistent, Proxies: c.Proxies, AddressTag: c.AddressTag,
	})
	if err != nil {
		return nil, err // not l: a nil *consul.Lister would be a lister
	}
	return l, nil
}
