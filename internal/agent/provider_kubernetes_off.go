//go:build no_kubernetes

package agent

var openKubernetes opener
