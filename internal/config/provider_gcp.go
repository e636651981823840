package config

// GCPProvider is the body of a provider of kind "gcp".
type GCPProvider struct {
	Projects        []string          `hcl:"projects"`
	Kinds           []string          `hcl:"kinds"` // "instances", "run", "servicedirectory"
	Labels          map[string]string `hcl:"labels,optional"`
	Locations       []string          `hcl:"locations,optional"`
	Namespaces      []string          `hcl:"namespaces,optional"`
	Groups          []string          `hcl:"groups,optional"`
	GroupHealth     *bool             `hcl:"group_health,optional"` // default true
	AddressType     string            `hcl:"address_type,optional"`
	CredentialsFile string            `hcl:"credentials_file,optional"`
	Endpoint        string            `hcl:"endpoint,optional"`
}
