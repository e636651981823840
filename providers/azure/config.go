package azure

import (
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
	var wrong poll.Mistakes
	switch {
	case len(c.Subscriptions) == 0 && c.ManagementGroup == "":
		wrong.Add("subscriptions: name at least one, or a management_group")
	case len(c.Subscriptions) > 0 && c.ManagementGroup != "":
		wrong.Add("management_group: there are subscriptions too: leave one of them")
	case c.ManagementGroup != "" && !groupForm.MatchString(c.ManagementGroup):
		wrong.Add("management_group: %q is not the ID of a management group", c.ManagementGroup)
	}
	if len(c.Subscriptions) > maxSubscriptions {
		wrong.Add("subscriptions: %d are more than the %d that one query may name: use a management_group", len(c.Subscriptions), maxSubscriptions)
	}
	if len(c.Kinds) == 0 {
		wrong.Add("kinds: name at least one of vm, vmss and containerapp")
	}
	wrong.List("subscriptions", c.Subscriptions, subscriptionForm.MatchString, "is not an ID such as \"00000000-0000-0000-0000-000000000000\"")
	wrong.List("resource_groups", c.ResourceGroups, groupForm.MatchString, "is not the name of a resource group")
	wrong.List("kinds", c.Kinds, poll.OneOf(KindVM, KindScaleSet, KindContainerApp), "is unknown: use vm, vmss or containerapp")
	wrong.AddressType(c.AddressType)
	if c.AddressType == PublicV4 && slices.Contains(c.Kinds, KindScaleSet) {
		wrong.Add("address_type: public_v4 is known of kind vm only, and kinds has vmss")
	}
	wrong.Tags(c.Tags)
	if _, known := clouds[c.Cloud]; !known {
		wrong.Add("cloud: %q is unknown: use public, government or china", c.Cloud)
	}
	wrong.Endpoint(c.Endpoint, "https://management.example.com")
	return wrong.Err()
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
	return poll.Permissions(kinds, map[string][]string{
		KindVM: {actionGraph, "Microsoft.Compute/virtualMachines/read", "Microsoft.Compute/virtualMachineScaleSets/read",
			"Microsoft.Network/networkInterfaces/read", "Microsoft.Network/publicIPAddresses/read"},
		KindScaleSet: {actionGraph, "Microsoft.Compute/virtualMachineScaleSets/read",
			"Microsoft.Compute/virtualMachineScaleSets/virtualMachines/read",
			"Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces/read", actionScaleSetNICs},
		KindContainerApp: {actionGraph, "Microsoft.App/containerApps/read", "Microsoft.App/managedEnvironments/read"},
		KindAKS:          {actionGraph, "Microsoft.ContainerService/managedClusters/read", actionClusterCredential},
	})
}

// The actions that are asked for by a request of their own. What a query reads needs the actions of the tables in it.
const (
	actionGraph             = "Microsoft.ResourceGraph/resources/read"
	actionScaleSetNICs      = "Microsoft.Compute/virtualMachineScaleSets/networkInterfaces/read"
	actionClusterCredential = "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action"
)
