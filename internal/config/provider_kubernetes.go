package config

// KubernetesProvider is the body of a provider of kind "kubernetes". Without a way to a cluster, it is the one that the gateway runs
// in.
type KubernetesProvider struct {
	Kubeconfig string   `hcl:"kubeconfig,optional"`
	Context    string   `hcl:"context,optional"`
	InCluster  bool     `hcl:"in_cluster,optional"`
	Server     string   `hcl:"server,optional"`
	CAFile     string   `hcl:"ca_file,optional"`
	TokenFile  string   `hcl:"token_file,optional"`
	Cluster    string   `hcl:"cluster,optional"`
	Region     string   `hcl:"region,optional"`
	Namespaces []string `hcl:"namespaces,optional"`
	Selector   string   `hcl:"selector,optional"`
}
