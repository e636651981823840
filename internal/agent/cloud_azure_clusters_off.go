//go:build !no_azure && no_kubernetes

package agent

// azureClusters is nil: nobody follows clusters, and what lists them stays out of the build.
var azureClusters func(any) (listClusters, error)
