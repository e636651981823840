//go:build no_dns

package agent

var openDNS opener
