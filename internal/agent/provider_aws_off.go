//go:build no_aws

package agent

var openAWS opener
