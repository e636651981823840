package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// ConsulProvider is the body of a provider of kind "consul". What is left out is taken from Consul's own environment variables.
type ConsulProvider struct {
	Address     string   `hcl:"address,optional"`
	TokenFile   string   `hcl:"token_file,optional"`
	TokenEnv    string   `hcl:"token_env,optional"`
	CAFile      string   `hcl:"ca_file,optional"`
	CertFile    string   `hcl:"cert_file,optional"`
	KeyFile     string   `hcl:"key_file,optional"`
	ServerName  string   `hcl:"server_name,optional"`
	Datacenters []string `hcl:"datacenters,optional"`
	Namespaces  []string `hcl:"namespaces,optional"`
	Partitions  []string `hcl:"partitions,optional"`
	Services    []string `hcl:"services,optional"`
	Tags        []string `hcl:"tags,optional"`
	Filter      string   `hcl:"filter,optional"`
	Consistent  bool     `hcl:"consistent,optional"`
	Proxies     bool     `hcl:"proxies,optional"`
	AddressTag  string   `hcl:"address_tag,optional"`

	Sync *SyncToConsul `hcl:"sync_to_consul,block"`
}

// SyncToConsul shows imports in the Consul that the provider reads, for its users.
type SyncToConsul struct {
	Services []string `hcl:"services,optional"` // which imports, as patterns of service names: "shop/*"; default: all
	Prefix   string   `hcl:"prefix,optional"`   // of their names in Consul
	Address  string   `hcl:"address,optional"`  // where callers reach upstreams that listen on all addresses; default: this host's
	Tags     []string `hcl:"tags,optional"`     // given to each service
	Merge    bool     `hcl:"merge,optional"`    // also where Consul has a service of that name
	TTL      string   `hcl:"ttl,optional"`      // how long they stay in use without this gateway; default: 15s
}

// Validate returns what is wrong with the block, joined.
func (c *ConsulProvider) Validate() error {
	s := c.Sync
	if s == nil {
		return nil
	}
	var errs []error
	for _, text := range s.Services {
		p, err := federation.ParsePattern(text)
		if err == nil && p.Region != "" {
			err = fmt.Errorf("pattern %q: imports are chosen by name; leave out the region", text)
		}
		errs = append(errs, err)
	}
	if a, err := netip.ParseAddr(s.Address); s.Address != "" && (err != nil || a.IsUnspecified() || a.IsLoopback()) {
		errs = append(errs, fmt.Errorf("address %q is not an IP address that other hosts can reach", s.Address))
	}
	if s.TTL != "" && s.TTLOf() < 2*time.Second {
		errs = append(errs, fmt.Errorf("ttl %q: write a duration of at least 2s, such as \"15s\"", s.TTL))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sync_to_consul: %w", err)
	}
	return nil
}

// TTLOf is the TTL, or 0 for the default.
func (s *SyncToConsul) TTLOf() time.Duration {
	d, err := time.ParseDuration(s.TTL)
	if err != nil {
		return 0
	}
	return d
}

// Wants reports whether an import is one of Services.
func (s *SyncToConsul) Wants(service federation.ServiceName) bool {
	if len(s.Services) == 0 {
		return true
	}
	return slices.ContainsFunc(s.Services, func(text string) bool {
		p, err := federation.ParsePattern(text)
		return err == nil && p.Matches("", "", service)
	})
}
