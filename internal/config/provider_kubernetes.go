package config

import (
	"fmt"
	"slices"
)

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
	// ClustersFrom names provider blocks of clouds: all the clusters that they know are followed.
	ClustersFrom []string `hcl:"clusters_from,optional"`

	From []Provider // that ClustersFrom names
}

// cloudKinds returns the kinds of workload that a cloud's provider lists. With none the block is there for clusters_from only.
func cloudKinds(body any) (kinds []string, cloud bool) {
	switch c := body.(type) {
	case *AWSProvider:
		return c.Kinds, true
	case *AzureProvider:
		return c.Kinds, true
	case *GCPProvider:
		return c.Kinds, true
	}
	return nil, false
}

func onlyForClusters(body any) bool {
	kinds, cloud := cloudKinds(body)
	return cloud && len(kinds) == 0
}

// clustersFrom gives each provider of Kubernetes the blocks that it names, and takes away those that list nothing themselves.
func (b *builder) clustersFrom(g *Gateway) {
	named := map[string]bool{}
	for _, p := range g.Providers {
		k, ok := p.Config.(*KubernetesProvider)
		if !ok {
			continue
		}
		for _, name := range k.ClustersFrom {
			i := slices.IndexFunc(g.Providers, func(o Provider) bool { return o.Name == name })
			cloud := false
			if i >= 0 {
				_, cloud = cloudKinds(g.Providers[i].Config)
			}
			if !cloud || named[p.Name+"/"+name] {
				b.fail("provider/kubernetes/"+p.Name+".clusters_from",
					fmt.Errorf("%q is not the name of another provider block of kind aws, azure or gcp, or is there twice", name))
				continue
			}
			named[name], named[p.Name+"/"+name] = true, true
			k.From = append(k.From, g.Providers[i])
		}
	}
	g.Providers = slices.DeleteFunc(g.Providers, func(p Provider) bool { return named[p.Name] && onlyForClusters(p.Config) })
}
