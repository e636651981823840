//go:build !no_aws && no_kubernetes

package agent

// awsClusters is nil: nobody follows clusters, and what lists them stays out of the build.
var awsClusters func(any) (listClusters, error)
