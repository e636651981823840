//go:build !no_dns

package agent

import (
	"fmt"
	"log/slog"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/dns"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openDNS opener = func(body any, log *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.DNSProvider)
	if !ok {
		return nil, fmt.Errorf("configuration is a %T", body)
	}
	cfg := dns.Config{Servers: c.Servers, Log: log}
	for _, n := range c.Names {
		cfg.Names = append(cfg.Names, dns.Name(n))
	}
	l, err := dns.New(cfg)
	if err != nil {
		return nil, err // not l: a nil *dns.Lister would be a lister
	}
	return l, nil
}
