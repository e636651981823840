package consul

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Access is how Consul is reached. What is left empty is taken from the environment variables of Consul's own programs:
// CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, CONSUL_CACERT and so on.
type Access struct {
	Address    string // of the agent: "127.0.0.1:8500", "https://consul.example.com:8501", "unix:///run/consul.sock"
	TokenFile  string // read before each request, so that a renewed token needs no restart; at most 4 KiB
	TokenEnv   string // the environment variable that holds the token
	CAFile     string // PEM; "https" only, as all below
	CertFile   string // PEM
	KeyFile    string // PEM
	ServerName string // that the certificate must be for, when not the address
	// Timeout is how long an answer may take, for a blocking query beyond its wait. Default 10 s: a server that is this slow is not
	// one to wait for.
	Timeout time.Duration
}

// Config configures a Lister.
type Config struct {
	Access
	Datacenters []string // default: the agent's own; "*": all that it knows
	Namespaces  []string // Consul Enterprise; default: that of the token
	Partitions  []string // Consul Enterprise; default: that of the agent
	Services    []string // names, or beginnings with "*" at the end; default: all but "consul"
	Tags        []string // an instance must have all of them
	Filter      string   // expression on an instance, as of Consul's health endpoint: `Service.Meta.stage == "live"`
	Consistent  bool     // ask the leader; see the package comment for why not to
	Proxies     bool     // also sidecar proxies and gateways of Consul's own mesh
	// AddressTag names the tagged address ("wan", "lan_ipv6") that is used where an instance or its node has it.
	AddressTag string
	// MaxStale is how long a server may not have heard from its leader for its answer to be complete. Default 10 s: a healthy
	// follower hears it several times a second.
	MaxStale time.Duration
	// Wait is how long a blocking query waits for a change. Default 1 min: a hung one is noticed soon after, for one request a
	// minute and service.
	Wait time.Duration
	// MaxWatches is how many services are asked about at once; beyond it they take turns. Default 128: an agent serves 200
	// connections of one address (its http_max_conns_per_client), and others on this host need some.
	MaxWatches int
}

// The limits of what a configuration may ask for.
const (
	maxScopes     = 256 // datacenters x partitions x namespaces
	maxMaxWatches = 10_000
)

func (c *Config) withDefaults() {
	c.MaxStale = cmp.Or(c.MaxStale, 10*time.Second)
	c.Wait = cmp.Or(c.Wait, time.Minute)
	c.MaxWatches = cmp.Or(c.MaxWatches, 128)
}

// validate returns every mistake, joined.
func (c *Config) validate() error {
	errs := []error{c.Access.validate()}
	for _, list := range []struct {
		what  string
		names []string
		star  bool // "*" may be all of it
		open  bool // "*" may be the end
	}{{"datacenter", c.Datacenters, true, false}, {"namespace", c.Namespaces, false, false}, {"partition", c.Partitions, false, false},
		{"service", c.Services, true, true}, {"tag", c.Tags, true, true}} {
		for _, name := range list.names {
			fixed := name
			if list.open {
				fixed = strings.TrimSuffix(name, "*")
			}
			switch {
			case name == "*" && list.star || list.what == "tag" && name != "":
			case name == "" || len(name) > maxName || strings.ContainsFunc(fixed, notInName):
				errs = append(errs, fmt.Errorf("%s %q is not a name that Consul can have", list.what, name))
			}
		}
	}
	if slices.Contains(c.Datacenters, "*") && len(c.Datacenters) > 1 {
		errs = append(errs, errors.New(`datacenters: "*" means all, it stands alone`))
	}
	if n := max(1, len(c.Datacenters)) * max(1, len(c.Namespaces)) * max(1, len(c.Partitions)); n > maxScopes {
		errs = append(errs, fmt.Errorf("%d combinations of datacenter, partition and namespace: at most %d are allowed", n, maxScopes))
	}
	for _, d := range []struct {
		what string
		d    time.Duration
	}{{"max_stale", c.MaxStale}, {"wait", c.Wait}} {
		if d.d < 0 || d.d > 10*time.Minute { // the longest wait that Consul grants
			errs = append(errs, fmt.Errorf("%s is %v: it is at most 10m", d.what, d.d))
		}
	}
	if c.MaxWatches < 0 || c.MaxWatches > maxMaxWatches {
		errs = append(errs, fmt.Errorf("max_watches is %d: it is at most %d", c.MaxWatches, maxMaxWatches))
	}
	return errors.Join(errs...)
}

func (a *Access) validate() error {
	var errs []error
	if a.TokenFile != "" && a.TokenEnv != "" {
		errs = append(errs, errors.New("token_file and token_env are both set: leave one of them"))
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		errs = append(errs, errors.New("cert_file and key_file come together"))
	}
	if a.Timeout < 0 || a.Timeout > 10*time.Minute {
		errs = append(errs, fmt.Errorf("timeout is %v: it is at most 10m", a.Timeout))
	}
	if scheme, rest, found := strings.Cut(a.Address, "://"); found {
		u, err := url.Parse(a.Address)
		switch {
		case !slices.Contains([]string{"http", "https", "unix"}, scheme) || rest == "":
			errs = append(errs, fmt.Errorf("address %q: use host:port, http://, https:// or unix://", a.Address))
		case err != nil:
			errs = append(errs, fmt.Errorf("address %q: %w", a.Address, err))
		case u.User != nil:
			errs = append(errs, errors.New("the address holds a user: secrets are given by token_file or token_env"))
		}
	}
	return errors.Join(errs...)
}

// maxName bounds a name. Consul's own are DNS labels, but it does not insist.
const maxName = 256

func notInName(r rune) bool {
	return !unicode.IsPrint(r) || strings.ContainsRune(`/\*?#% `, r)
}
