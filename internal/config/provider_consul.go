package config

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
}
