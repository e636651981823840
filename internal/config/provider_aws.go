package config

// AWSProvider is the body of a provider of kind "aws".
type AWSProvider struct {
	Regions      []string          `hcl:"regions"`
	Kinds        []string          `hcl:"kinds"` // "ec2", "ecs", "cloudmap"
	Tags         map[string]string `hcl:"tags,optional"`
	Clusters     []string          `hcl:"clusters,optional"`
	Namespaces   []string          `hcl:"namespaces,optional"`
	TargetHealth *bool             `hcl:"target_health,optional"` // default true
	TargetGroups []string          `hcl:"target_groups,optional"`
	AddressType  string            `hcl:"address_type,optional"`
	Endpoint     string            `hcl:"endpoint,optional"`
	Accounts     []AWSAccount      `hcl:"account,block"`
}

// AWSAccount is an account that is listed by assuming a role in it.
type AWSAccount struct {
	Name       string `hcl:"name,label"`
	RoleARN    string `hcl:"role_arn"`
	ExternalID string `hcl:"external_id,optional"`
}
