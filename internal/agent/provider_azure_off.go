//go:build no_azure

package agent

var openAzure opener
