package azure

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// app reads a Container App. What an ingress of TCP exposes is found at its environment's address; one of HTTP is chosen by its
// name, behind TLS on port 443, and has no address of its own.
func (v *visit) app(r row) (found, error) {
	f := found{Record: poll.Record{Host: bounds(r.text("fqdn"), 255), State: poll.StateRunning, Health: appHealth(r),
		Network: network(r.text("subnet"))}}
	if f.Network == "" {
		f.Network = r.text("environment")
	}
	switch provisioning, running := strings.ToLower(r.text("provisioning")), strings.ToLower(r.text("running")); {
	case provisioning == "deleting":
		f.State = poll.StateDraining
	case running == "stopped" || running == "suspended":
		f.State = poll.StateStopped
	case running == "" && provisioning == "inprogress" && r.text("ready") == "":
		f.State = poll.StatePending
	}
	if !strings.EqualFold(r.text("transport"), "tcp") {
		f.Ports = []poll.Port{{Number: 443}}
		return f, nil
	}
	if err := f.Private.Add(r.text("address")); err != nil {
		return found{}, err
	}
	port, err := strconv.ParseUint(r.text("exposed"), 10, 16)
	if err != nil || port == 0 {
		return found{}, fmt.Errorf("read its exposed port: %q is none", bounds(r.text("exposed"), 16))
	}
	f.Ports = []poll.Port{{Number: uint16(port), Protocol: string(federation.ProtocolTCP)}}
	return f, nil
}

// appHealth returns what an app's state says. A new revision that fails leaves the one before in service.
func appHealth(r row) federation.Health {
	switch {
	case r.text("ready") == "" && strings.EqualFold(r.text("provisioning"), "Failed"):
		return federation.HealthFailing
	case r.text("ready") != "" && strings.EqualFold(r.text("running"), "Running"):
		return federation.HealthPassing
	}
	return federation.HealthUnknown
}
