//go:build no_gcp

package agent

var cloudGCP *cloud
