//go:build no_gcp

package agent

var openGCP opener
