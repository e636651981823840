// Package azuretest is a small Azure: one HTTP handler that answers Resource Graph, the two requests to resource providers that
// providers/azure makes, a token endpoint and the instance metadata service from a declared inventory, in the forms of the real
// APIs, page by page. It runs the queries themselves, over resources in the form of the Resource Manager, and refuses what it
// does not understand. Its answers are read back by the SDK's own models and compared with those of the SDK's own fakes.
package azuretest

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"strings"
)

// The subscription, resource group and region of what names none.
const (
	Subscription = "00000000-0000-0000-0000-000000000001"
	Group        = "shop"
	Region       = "westeurope"
)

// Inventory is what there is. The zero value is an empty Azure.
type Inventory struct {
	Machines  []Machine
	ScaleSets []ScaleSet
	Apps      []App
	Clusters  []Cluster
	Self      string // name of the machine behind the metadata service; empty: there is none
	// Hidden are subscriptions that the principal may no longer read: the graph leaves them out.
	Hidden []string
	// LateInterfaces says that the graph does not show the interfaces of Uniform scale sets.
	LateInterfaces bool
}

// Where says in which subscription, resource group and region something is.
type Where struct{ Subscription, Group, Region string }

func (w Where) subscription() string { return cmp.Or(w.Subscription, Subscription) }
func (w Where) group() string        { return cmp.Or(w.Group, Group) }
func (w Where) region() string       { return cmp.Or(w.Region, Region) }

// id returns the ID of a resource at this place: id("Microsoft.Compute/virtualMachines", "web-1").
func (w Where) id(kind, name string) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/%s/%s", w.subscription(), w.group(), kind, name)
}

// Machine is a virtual machine.
type Machine struct {
	Where
	Name        string
	IP          string
	IPv6        string
	Public      string
	Secondary   []string // addresses of a second interface, which the graph names first
	VNet        string   // default "vnet"
	Zone        string   // "1"
	Physical    string   // "westeurope-az2", which the metadata service alone says
	Power       string   // default "running"; "-": the graph has none
	Provisioned string   // default "Succeeded"
	Health      string   // "healthy", as the Application Health extension says it; empty: it is not installed
	Tags        map[string]string
	Set         string // its Flexible scale set
}

// ScaleSet is a scale set: Uniform with instances, Flexible without; the machines of that one name it.
type ScaleSet struct {
	Where
	Name      string
	Tags      map[string]string
	Instances []Machine // named by their numbers
}

// App is a Container App.
type App struct {
	Where
	Name        string
	Environment string // default "env"
	Address     string // of the environment
	Transport   string // default "Auto"
	Port        int    // exposed, with transport "Tcp"
	Running     string // default "Running"
	Provisioned string // default "Succeeded"
	NotReady    bool   // no revision is
	Closed      bool   // without an ingress
	Tags        map[string]string
}

// Cluster is an AKS cluster.
type Cluster struct {
	Where
	Name        string
	Server      string // default https://NAME.hcp.REGION.azmk8s.io:443
	CA          []byte // PEM
	Power       string // default "Running"
	Provisioned string // default "Succeeded"
	Local       bool   // without the directory
	Gone        bool   // listed, and missing when it is asked
}

type object = map[string]any

// resource returns a resource as the graph shows it.
func (w Where) resource(kind, name string, tags map[string]string, properties object) object {
	bag := object{}
	for k, v := range tags {
		bag[k] = v
	}
	return object{"id": w.id(kind, name), "name": name[strings.LastIndexByte(name, '/')+1:], "type": strings.ToLower(kind),
		"location": w.region(), "resourceGroup": strings.ToLower(w.group()), "subscriptionId": w.subscription(), "tags": bag,
		"zones": nil, "properties": properties}
}

// resources returns all resources of the inventory, in the tables "resources" and "computeresources".
func (inv *Inventory) resources() (general, compute []object) {
	for i := range inv.Machines {
		m := &inv.Machines[i]
		general = append(general, m.resource("Microsoft.Compute/virtualMachines"), m.nic("-nic"))
		if len(m.Secondary) > 0 {
			general = append(general, m.second())
		}
		if m.Public != "" {
			general = append(general, m.Where.resource("Microsoft.Network/publicIPAddresses", m.Name+"-ip", nil,
				object{"ipAddress": m.Public, "ipConfiguration": object{"id": m.configurationID("-nic")}}))
		}
	}
	for i := range inv.ScaleSets {
		s := &inv.ScaleSets[i]
		mode := "Flexible"
		for _, m := range s.Instances {
			m.Where, mode = s.Where, "Uniform"
			r := m.resource("Microsoft.Compute/virtualMachineScaleSets/" + s.Name + "/virtualMachines")
			r["type"] = "microsoft.compute/virtualmachinescalesets/virtualmachines"
			compute = append(compute, r)
			if !inv.LateInterfaces {
				compute = append(compute, s.nic(&m))
			}
		}
		general = append(general, s.resource("Microsoft.Compute/virtualMachineScaleSets", s.Name, s.Tags, object{"orchestrationMode": mode}))
	}
	general = append(general, inv.apps()...)
	for i := range inv.Clusters {
		general = append(general, inv.Clusters[i].resource())
	}
	return general, compute
}

func (m *Machine) resource(kind string) object {
	view := object{}
	if m.Power != "-" {
		view["powerState"] = object{"code": "PowerState/" + cmp.Or(m.Power, "running"), "displayStatus": "VM " + cmp.Or(m.Power, "running")}
	}
	if m.Health != "" {
		view["vmHealth"] = object{"status": object{"code": "HealthState/" + m.Health}}
	}
	p := object{"provisioningState": cmp.Or(m.Provisioned, "Succeeded"), "extended": object{"instanceView": view}}
	if m.Set != "" {
		p["virtualMachineScaleSet"] = object{"id": m.id("Microsoft.Compute/virtualMachineScaleSets", m.Set)}
	}
	r := m.Where.resource(kind, m.Name, m.Tags, p)
	if m.Zone != "" {
		r["zones"] = []any{m.Zone}
	}
	return r
}

func (m *Machine) configurationID(nic string) string {
	return m.id("Microsoft.Network/networkInterfaces", m.Name+nic) + "/ipConfigurations/ipconfig1"
}

// configurations returns those of one interface. The last address is the primary one: order says nothing.
func (m *Machine) configurations(primary string, others ...string) []any {
	subnet := object{"id": m.id("Microsoft.Network/virtualNetworks", cmp.Or(m.VNet, "vnet")) + "/subnets/default"}
	var list []any
	add := func(ip string, primary bool) {
		if ip == "" {
			return
		}
		version := "IPv4"
		if strings.Contains(ip, ":") {
			version = "IPv6"
		}
		list = append(list, object{"name": fmt.Sprint("ipconfig", len(list)+1), "properties": object{"privateIPAddress": ip,
			"privateIPAddressVersion": version, "primary": primary, "subnet": subnet}})
	}
	for _, ip := range others {
		add(ip, false)
	}
	add(primary, true)
	return list
}

func (m *Machine) nic(suffix string) object {
	return m.Where.resource("Microsoft.Network/networkInterfaces", m.Name+suffix, nil, object{"primary": true,
		"virtualMachine":   object{"id": strings.ToUpper(m.id("Microsoft.Compute/virtualMachines", m.Name))}, // as Azure does at times
		"ipConfigurations": m.configurations(m.IP, m.IPv6)})
}

func (m *Machine) second() object {
	return m.Where.resource("Microsoft.Network/networkInterfaces", "a-"+m.Name, nil, object{"primary": false,
		"virtualMachine":   object{"id": m.id("Microsoft.Compute/virtualMachines", m.Name)},
		"ipConfigurations": m.configurations("", m.Secondary...)})
}

// nic returns the interface of an instance, as the graph and the Resource Manager show it.
func (s *ScaleSet) nic(m *Machine) object {
	instance := s.id("Microsoft.Compute/virtualMachineScaleSets", s.Name) + "/virtualMachines/" + m.Name
	r := s.resource("Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces", "nic", nil, object{"primary": true,
		"virtualMachine": object{"id": instance}, "ipConfigurations": m.configurations(m.IP, m.IPv6)})
	r["id"] = instance + "/networkInterfaces/nic"
	return r
}

func (inv *Inventory) apps() (list []object) {
	environments := map[string]bool{}
	for i := range inv.Apps {
		a := &inv.Apps[i]
		environment := a.id("Microsoft.App/managedEnvironments", cmp.Or(a.Environment, "env"))
		if !environments[environment] {
			environments[environment] = true
			list = append(list, a.resource("Microsoft.App/managedEnvironments", cmp.Or(a.Environment, "env"), nil, object{"staticIp": a.Address,
				"vnetConfiguration": object{"infrastructureSubnetId": a.id("Microsoft.Network/virtualNetworks", "vnet") + "/subnets/apps"}}))
		}
		p := object{"provisioningState": cmp.Or(a.Provisioned, "Succeeded"), "runningStatus": cmp.Or(a.Running, "Running"),
			"environmentId": environment, "managedEnvironmentId": environment, "configuration": object{}}
		if !a.NotReady {
			p["latestReadyRevisionName"] = a.Name + "--1"
		}
		if !a.Closed {
			ingress := object{"fqdn": a.Name + ".blue-sea-1." + a.region() + ".azurecontainerapps.io", "transport": cmp.Or(a.Transport, "Auto"),
				"targetPort": 8080}
			if a.Port != 0 {
				ingress["exposedPort"] = a.Port
			}
			p["configuration"] = object{"ingress": ingress}
		}
		list = append(list, a.resource("Microsoft.App/containerApps", a.Name, a.Tags, p))
	}
	return list
}

func (c *Cluster) resource() object {
	p := object{"provisioningState": cmp.Or(c.Provisioned, "Succeeded"), "powerState": object{"code": cmp.Or(c.Power, "Running")}}
	if !c.Local {
		p["aadProfile"] = object{"managed": true}
	}
	return c.Where.resource("Microsoft.ContainerService/managedClusters", c.Name, nil, p)
}

// kubeconfig returns the answer to listClusterUserCredential.
func (c *Cluster) kubeconfig() object {
	server := cmp.Or(c.Server, "https://"+c.Name+".hcp."+c.region()+".azmk8s.io:443")
	config := fmt.Sprintf("apiVersion: v1\nclusters:\n- cluster:\n"+
		"    certificate-authority-data: %s\n    server: %s\n  name: %s\nkind: Config\n",
		base64.StdEncoding.EncodeToString(c.CA), server, c.Name)
	return object{"kubeconfigs": []object{{"name": "clusterUser", "value": base64.StdEncoding.EncodeToString([]byte(config))}}}
}
