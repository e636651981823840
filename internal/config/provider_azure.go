package config

// AzureProvider is the body of a provider of kind "azure".
type AzureProvider struct {
	Subscriptions   []string          `hcl:"subscriptions,optional"`
	ManagementGroup string            `hcl:"management_group,optional"`
	ResourceGroups  []string          `hcl:"resource_groups,optional"`
	Kinds           []string          `hcl:"kinds"` // "vm", "vmss", "containerapp"
	Tags            map[string]string `hcl:"tags,optional"`
	AddressType     string            `hcl:"address_type,optional"`
	Cloud           string            `hcl:"cloud,optional"`
	Endpoint        string            `hcl:"endpoint,optional"`
}
