//go:build no_azure

package agent

var cloudAzure *cloud
