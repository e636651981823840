//go:build no_aws

package agent

var cloudAWS *cloud
