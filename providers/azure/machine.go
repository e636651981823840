package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// powerStates are the states of machines (https://learn.microsoft.com/azure/virtual-machines/states-billing).
var powerStates = map[string]poll.State{
	"creating": poll.StatePending, "starting": poll.StatePending, "running": poll.StateRunning,
	"stopping": poll.StateDraining, "deallocating": poll.StateDraining, "stopped": poll.StateStopped, "deallocated": poll.StateStopped,
}

// healths are what the Application Health extension says.
var healths = map[string]federation.Health{"healthy": federation.HealthPassing, "unhealthy": federation.HealthFailing}

// machine reads a virtual machine or an instance of a scale set.
func (v *visit) machine(r row) (found, error) {
	state, known := powerStates[strings.TrimPrefix(strings.ToLower(r.text("power")), "powerstate/")]
	if strings.EqualFold(r.text("provisioning"), "Deleting") {
		state, known = poll.StateDraining, true
	}
	if !known { // its last record stays, if it has one
		return found{}, fmt.Errorf("power state %q says nothing", bounds(r.text("power"), 64))
	}
	health, known := healths[strings.TrimPrefix(strings.ToLower(r.text("health")), "healthstate/")]
	if !known {
		health = federation.HealthUnknown
	}
	f := found{set: r.text("scaleSet"), Record: poll.Record{State: state, Health: health}}
	if zones := r.list("zones"); len(zones) > 0 && r.text("location") != "" && text(zones[0]) != "" {
		f.Zone = r.text("location") + "-" + text(zones[0]) // as AKS labels its nodes
	}
	var nics []nic
	for _, n := range r.list("nics") {
		nics = append(nics, rowInterface(n))
	}
	return f, f.connect(nics)
}

// nic is a network interface.
type nic struct {
	primary        bool
	configurations []configuration
	public         []string
}

type configuration struct {
	primary         bool
	address, subnet string
}

// rowInterface reads an interface of a row.
func rowInterface(v any) nic {
	n := nic{primary: text(at(v, "primary")) == "true"}
	list, _ := at(v, "configurations").([]any)
	for _, c := range list {
		p := at(c, "properties")
		n.configurations = append(n.configurations, configuration{text(at(p, "primary")) == "true", text(at(p, "privateIPAddress")),
			text(at(p, "subnet", "id"))})
	}
	public, _ := at(v, "public").([]any)
	for _, p := range public {
		n.public = append(n.public, text(p))
	}
	return n
}

// connect gives a machine the addresses of its interfaces, the primary ones first.
func (f *found) connect(nics []nic) error {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	slices.SortStableFunc(nics, func(a, b nic) int { return first(a.primary, b.primary) })
	var errs []error
	for _, n := range nics {
		slices.SortStableFunc(n.configurations, func(a, b configuration) int { return first(a.primary, b.primary) })
		for _, c := range n.configurations {
			list := &f.Private
			if strings.Contains(c.address, ":") {
				list = &f.V6
			}
			errs = append(errs, list.Add(c.address))
			f.Network = cmp.Or(f.Network, network(c.subnet))
		}
		for _, p := range n.public {
			errs = append(errs, f.Public.Add(p))
		}
	}
	return errors.Join(errs...)
}

// network returns the ID of the virtual network of a subnet.
func network(subnet string) string {
	id, _, _ := strings.Cut(strings.ToLower(subnet), "/subnets/")
	return id
}

// findInterfaces asks for the interfaces of scale sets with running instances of which the graph shows no address: a request for
// each set, never for each instance.
func (v *visit) findInterfaces(ctx context.Context) error {
	lacking := map[string]bool{}
	for _, f := range v.Found {
		if f.State == poll.StateRunning && len(f.Private)+len(f.V6) == 0 {
			lacking[f.set] = true
		}
	}
	for _, set := range sorted(lacking) {
		nics, err := v.interfacesOf(ctx, set)
		if gone(err) {
			continue // it went away a moment ago
		}
		if err != nil {
			return err
		}
		var spoilt []string
		for i := range v.Found {
			f := &v.Found[i]
			if f.set != set || len(f.Private)+len(f.V6) > 0 {
				continue
			}
			if err := f.connect(nics[f.ID]); err != nil {
				v.Bad = append(v.Bad, poll.BadItem{ID: f.ID, Err: err})
				spoilt = append(spoilt, f.ID)
			}
		}
		v.Delete(func(f found) bool { return slices.Contains(spoilt, f.ID) })
	}
	return nil
}

// interfacesOf returns the interfaces of a scale set's instances, by the instance's ID.
func (v *visit) interfacesOf(ctx context.Context, set string) (map[string][]nic, error) {
	id, err := arm.ParseResourceID(set)
	if err != nil {
		return nil, fmt.Errorf("read the ID of a scale set: %w", err)
	}
	list, err := v.setInterfaces(id.SubscriptionID)
	if err != nil {
		return nil, err
	}
	of := map[string][]nic{}
	pager := list(id.ResourceGroupName, id.Name, nil)
	for pages := 0; pager.More(); pages++ {
		if pages >= poll.MaxPages {
			return nil, poll.ErrLoop
		}
		page, _, err := call(ctx, &v.spend, actionScaleSetNICs, pager.NextPage)
		if err != nil {
			return nil, fmt.Errorf("list the interfaces of scale set %s: %w", id.Name, err)
		}
		for _, i := range page.Value {
			if i == nil || i.Properties == nil || i.Properties.VirtualMachine == nil {
				continue
			}
			machine := strings.ToLower(value(i.Properties.VirtualMachine.ID))
			of[machine] = append(of[machine], sdkInterface(i.Properties))
		}
	}
	return of, nil
}

// sdkInterface reads an interface of the SDK.
func sdkInterface(p *armnetwork.InterfacePropertiesFormat) nic {
	n := nic{primary: value(p.Primary)}
	for _, c := range p.IPConfigurations {
		if c == nil || c.Properties == nil {
			continue
		}
		here := configuration{primary: value(c.Properties.Primary), address: value(c.Properties.PrivateIPAddress)}
		if c.Properties.Subnet != nil {
			here.subnet = value(c.Properties.Subnet.ID)
		}
		n.configurations = append(n.configurations, here)
	}
	return n
}

// value returns what p points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
