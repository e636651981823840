//go:build no_consul

package agent

var openConsul opener
