package azure

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The kinds of workload, as Config.Kinds and poll.Scope.Kind name them.
const (
	KindVM           = "vm"           // virtual machines, those of Flexible scale sets among them
	KindScaleSet     = "vmss"         // instances of Uniform scale sets
	KindContainerApp = "containerapp" // Container Apps with an ingress
)

// The types of address, as go-discover names them.
const (
	PrivateV4 = poll.PrivateV4
	PublicV4  = poll.PublicV4 // KindVM only
	PrivateV6 = poll.PrivateV6
)

// The clouds of Microsoft.
const (
	CloudPublic     = "public"
	CloudGovernment = "government"
	CloudChina      = "china"
)

// Config says what is listed. As whom is the environment's choice, as with Azure's own tools: AZURE_CLIENT_ID and its likes, a
// workload identity, a managed identity, or who is logged in to the Azure CLI, in this order. AZURE_TOKEN_CREDENTIALS narrows it.
type Config struct {
	Subscriptions []string // IDs
	// ManagementGroup is listed instead, with all below it. The tenant's ID names its root group.
	ManagementGroup string
	ResourceGroups  []string // only these, in whichever subscription; none: all
	Kinds           []string // at least one
	// Tags keeps workloads that have all of these. An empty value means that the tag exists. As in Azure the case of a name
	// does not matter, that of a value does. An instance has the tags of its scale set too.
	Tags map[string]string
	// AddressType is the type of address that comes first. Default PrivateV4: a gateway runs in the network of its workloads.
	AddressType string
	Cloud       string // default CloudPublic
	Endpoint    string // base URL of the Resource Manager, for private links, Azure Stack and tests; default: the cloud's
}

var (
	subscriptionForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	groupForm        = regexp.MustCompile(`^[A-Za-z0-9_().-]{1,90}$`)
)

var clouds = map[string]cloud.Configuration{"": cloud.AzurePublic, CloudPublic: cloud.AzurePublic,
	CloudGovernment: cloud.AzureGovernment, CloudChina: cloud.AzureChina}

// validate returns all mistakes at once.
func (c *Config) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case len(c.Subscriptions) == 0 && c.ManagementGroup == "":
		fail("subscriptions: name at least one, or a management_group")
	case len(c.Subscriptions) > 0 && c.ManagementGroup != "":
		fail("management_group: there are subscriptions too: leave one of them")
	case c.ManagementGroup != "" && !groupForm.MatchString(c.ManagementGroup):
		fail("management_group: %q is not the ID of a management group", c.ManagementGroup)
	}
	if len(c.Subscriptions) > maxSubscriptions {
		fail("subscriptions: %d are more than the %d that one query may name: use a management_group", len(c.Subscriptions), maxSubscriptions)
	}
	for _, s := range c.Subscriptions {
		if !subscriptionForm.MatchString(s) {
			fail("subscriptions: %q is not an ID such as \"00000000-0000-0000-0000-000000000000\"", s)
		}
	}
	for _, g := range c.ResourceGroups {
		if !groupForm.MatchString(g) {
			fail("resource_groups: %q is not the name of a resource group", g)
		}
	}
	if len(c.Kinds) == 0 {
		fail("kinds: name at least one of vm, vmss and containerapp")
	}
	for _, k := range c.Kinds {
		if !slices.Contains([]string{KindVM, KindScaleSet, KindContainerApp}, k) {
			fail("kinds: %q is unknown: use vm, vmss or containerapp", k)
		}
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"subscriptions", c.Subscriptions}, {"resource_groups", c.ResourceGroups}, {"kinds", c.Kinds}} {
		for i, v := range list.values {
			if slices.Contains(list.values[:i], v) {
				fail("%s: %q is there twice", list.name, v)
			}
		}
	}
	if !slices.Contains([]string{"", PrivateV4, PublicV4, PrivateV6}, c.AddressType) {
		fail("address_type: %q is unknown: use private_v4, public_v4 or private_v6", c.AddressType)
	}
	if c.AddressType == PublicV4 && slices.Contains(c.Kinds, KindScaleSet) {
		fail("address_type: public_v4 is known of kind vm only, and kinds has vmss")
	}
	for k := range c.Tags {
		if k == "" {
			fail("tags: a tag has no name")
		}
	}
	if _, known := clouds[c.Cloud]; !known {
		fail("cloud: %q is unknown: use public, government or china", c.Cloud)
	}
	if u, err := url.Parse(c.Endpoint); c.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		fail("endpoint: %q is not a URL such as \"https://management.example.com\"", c.Endpoint)
	}
	return errors.Join(errs...)
}

// The limits of what is read and remembered. What goes beyond them was not meant for us.
const (
	maxBody          = 32 << 20 // of one answer; a full page of 1000 machines with their interfaces is about 3 MB
	maxSubscriptions = 1000     // of one query
)

// pageSize is the most that Resource Graph gives in one answer, and requests are what it counts.
const pageSize = 1000

// lostFor is how long workloads of a subscription that we lost sight of are waited for. It is half of the framework's time to
// live: after that they are gone.
const lostFor = 30 * time.Minute

// KindAKS is what Permissions calls that which Clusters uses.
const KindAKS = "aks"

// Permissions returns the actions that a Lister with these kinds uses, sorted: the built-in role Reader has all but the last of
// KindAKS, which is in "Azure Kubernetes Service Cluster User Role". What may not be read Resource Graph leaves out in silence.
func Permissions(kinds ...string) []string {
	of := map[string][]string{
		KindVM: {actionGraph, "Microsoft.Compute/virtualMachines/read", "Microsoft.Compute/virtualMachineScaleSets/read",
			"Microsoft.Network/networkInterfaces/read", "Microsoft.Network/publicIPAddresses/read"},
		KindScaleSet: {actionGraph, "Microsoft.Compute/virtualMachineScaleSets/read",
			"Microsoft.Compute/virtualMachineScaleSets/virtualMachines/read",
			"Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces/read", actionScaleSetNICs},
		KindContainerApp: {actionGraph, "Microsoft.App/containerApps/read", "Microsoft.App/managedEnvironments/read"},
		KindAKS:          {actionGraph, "Microsoft.ContainerService/managedClusters/read", actionClusterCredential},
	}
	var all []string
	for _, k := range kinds {
		all = append(all, of[k]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The actions that are asked for by a request of their own. What a query reads needs the actions of the tables in it.
const (
	actionGraph             = "Microsoft.ResourceGraph/resources/read"
	actionScaleSetNICs      = "Microsoft.Compute/virtualMachineScaleSets/networkInterfaces/read"
	actionClusterCredential = "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action"
)
