package azure

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A query gives one row for each workload: what is paged must have an ID, and rows of one workload would be torn apart by the
// pages. So interfaces are gathered into a list before they are joined. Resource Graph allows three joins. IDs are compared in lower
// case: Azure does not keep their case.

// queryVM lists virtual machines that are not stopped, with their interfaces and the tags of their scale set.
const queryVM = `resources
| where type =~ 'microsoft.compute/virtualmachines'%s
| extend power = tostring(properties.extended.instanceView.powerState.code)
| where power !in~ ('PowerState/stopped', 'PowerState/deallocated')
| project id, key = tolower(id), subscriptionId, location, zones, tags, power,
    provisioning = tostring(properties.provisioningState),
    health = tostring(properties.extended.instanceView.vmHealth.status.code),
    scaleSet = tolower(tostring(properties.virtualMachineScaleSet.id))
| join kind=leftouter (` + sets + `) on scaleSet
| join kind=leftouter (
    resources
    | where type =~ 'microsoft.network/networkinterfaces' and isnotempty(properties.virtualMachine.id)
    | project key = tolower(tostring(properties.virtualMachine.id)), nic = tolower(id), primary = properties.primary,
        configurations = properties.ipConfigurations%s
    | summarize nics = make_list(pack('primary', primary, 'configurations', configurations%s)) by key
  ) on key` + shown

// withPublic joins public addresses to network interfaces. It is the third join, and needed by few.
const withPublic = `
    | join kind=leftouter (
        resources
        | where type =~ 'microsoft.network/publicipaddresses' and isnotempty(properties.ipConfiguration.id)
        | project nic = tostring(split(tolower(tostring(properties.ipConfiguration.id)), '/ipconfigurations/')[0]),
            address = tostring(properties.ipAddress)
        | summarize public = make_list(address) by nic
      ) on nic`

// queryScaleSet lists instances of Uniform scale sets, which have a table of their own.
const queryScaleSet = `computeresources
| where type =~ 'microsoft.compute/virtualmachinescalesets/virtualmachines'%s
| extend power = tostring(properties.extended.instanceView.powerState.code)
| where power !in~ ('PowerState/stopped', 'PowerState/deallocated')
| project id, key = tolower(id), subscriptionId, location, zones, tags, power,
    provisioning = tostring(properties.provisioningState),
    health = tostring(properties.extended.instanceView.vmHealth.status.code),
    scaleSet = tostring(split(tolower(id), '/virtualmachines/')[0])
| join kind=leftouter (` + sets + `) on scaleSet
| join kind=leftouter (
    computeresources
    | where type =~ 'microsoft.compute/virtualmachinescalesets/virtualmachines/networkinterfaces'
    | project key = tostring(split(tolower(id), '/networkinterfaces/')[0]), primary = properties.primary,
        configurations = properties.ipConfigurations
    | summarize nics = make_list(pack('primary', primary, 'configurations', configurations)) by key
  ) on key` + shown

const sets = `
    resources
    | where type =~ 'microsoft.compute/virtualmachinescalesets'
    | project scaleSet = tolower(id), setTags = tags
  `

const shown = `
| extend said = strcat(tostring(tags), tostring(setTags))%s
| project id, subscriptionId, location, zones, tags, power, provisioning, health, scaleSet, setTags, nics
| order by id asc`

// queryContainerApp lists Container Apps with an ingress, with the address of their environment.
const queryContainerApp = `resources
| where type =~ 'microsoft.app/containerapps' and isnotempty(properties.configuration.ingress.fqdn)%s
| project id, subscriptionId, location, tags, fqdn = tostring(properties.configuration.ingress.fqdn),
    transport = tostring(properties.configuration.ingress.transport),
    exposed = properties.configuration.ingress.exposedPort,
    provisioning = tostring(properties.provisioningState), running = tostring(properties.runningStatus),
    ready = tostring(properties.latestReadyRevisionName),
    environment = tolower(tostring(coalesce(properties.environmentId, properties.managedEnvironmentId)))
| join kind=leftouter (
    resources
    | where type =~ 'microsoft.app/managedenvironments'
    | project environment = tolower(id), address = tostring(properties.staticIp),
        subnet = tostring(properties.vnetConfiguration.infrastructureSubnetId)
  ) on environment
| extend said = tostring(tags)%s
| project id, subscriptionId, location, tags, fqdn, transport, exposed, provisioning, running, ready, environment, address, subnet
| order by id asc`

// queryCluster lists AKS clusters.
const queryCluster = `resources
| where type =~ 'microsoft.containerservice/managedclusters'%s
| project id, name, resourceGroup, subscriptionId, location, provisioning = tostring(properties.provisioningState),
    power = tostring(properties.powerState.code), directory = properties.aadProfile
| order by id asc`

// queryVisible says of which subscriptions anything can be seen.
const queryVisible = `resourcecontainers
| where subscriptionId in~ (%s)
| summarize seen = count() by subscriptionId`

// kql returns the query for a kind.
func (c *Config) kql(kind string) (string, error) {
	groups := ""
	if len(c.ResourceGroups) > 0 {
		groups = "\n| where resourceGroup in~ (" + literals(c.ResourceGroups) + ")"
	}
	switch kind {
	case KindVM:
		join, packed := "", ""
		if c.AddressType == PublicV4 {
			join, packed = withPublic, ", 'public', public"
		}
		return fmt.Sprintf(queryVM, groups, join, packed, c.tagged()), nil
	case KindScaleSet:
		return fmt.Sprintf(queryScaleSet, groups, c.tagged()), nil
	case KindContainerApp:
		return fmt.Sprintf(queryContainerApp, groups, c.tagged()), nil
	case KindAKS:
		return fmt.Sprintf(queryCluster, groups), nil
	}
	return "", fmt.Errorf("kind %q is unknown", kind)
}

var plain = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// tagged narrows a query to what may have the tags. It looks for them in the text of all tags, because tags['name'] minds the case
// of the name, and Azure does not; the rows are looked at closely when they are here. What JSON may write in several ways is not
// looked for.
func (c *Config) tagged() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(c.Tags)) {
		for _, part := range []string{k, c.Tags[k]} {
			if plain.MatchString(part) {
				fmt.Fprintf(&b, "\n| where said contains %s", literal(part))
			}
		}
	}
	return b.String()
}

var escaped = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

func literal(s string) string { return "'" + escaped.Replace(s) + "'" }

func literals(list []string) string {
	quoted := make([]string, 0, len(list))
	for _, s := range list {
		quoted = append(quoted, literal(s))
	}
	return strings.Join(quoted, ", ")
}
