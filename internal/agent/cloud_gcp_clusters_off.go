//go:build !no_gcp && no_kubernetes

package agent

// gcpClusters is nil: nobody follows clusters, and what lists them stays out of the build.
var gcpClusters func(any) (listClusters, error)
