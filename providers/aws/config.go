package aws

import (
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The kinds of workload, as Config.Kinds and poll.Scope.Kind name them.
const (
	KindEC2      = "ec2"
	KindECS      = "ecs"
	KindCloudMap = "cloudmap"
)

// The types of address, as go-discover names them.
const (
	PrivateV4 = poll.PrivateV4
	PublicV4  = poll.PublicV4 // EC2 instances only: the API of ECS and Cloud Map does not say it
	PrivateV6 = poll.PrivateV6
)

// Config says what is listed, and as whom. Everything is a plain value.
type Config struct {
	Regions  []string  // "eu-west-1"; at least one
	Accounts []Account // none: the account that the process's own credentials are of
	Kinds    []string  // KindEC2, KindECS, KindCloudMap; at least one
	// Tags keeps workloads that have all of these: EC2 and ECS tags, Docker labels of the task definition, Cloud Map attributes.
	// An empty value means that the tag exists.
	Tags       map[string]string
	Clusters   []string // ECS clusters by name; none: all
	Namespaces []string // Cloud Map namespaces by name; none: all
	// NoTargetHealth leaves the load balancers unasked. By default their view of a target counts: it is what AWS users look at.
	NoTargetHealth bool
	// TargetGroups are the only target groups that are asked, by name. None: all that belong to a load balancer and a network in
	// which there are workloads. Each group is a request, which an account with hundreds of them will notice.
	TargetGroups []string
	// AddressType is the type of address that comes first. Default PrivateV4: a gateway runs in the network of its workloads.
	AddressType string
	Endpoint    string // base URL of every service, for private endpoints and tests; default: the services' own
}

// Account is an AWS account to list.
type Account struct {
	RoleARN    string // role to assume in the account; empty: the process's own credentials
	ExternalID string // as the role's trust policy demands it
	Name       string // for messages; default: the account's number
}

// id returns the account's number, or "" for the process's own account, which no call is spent on to find out.
func (a Account) id() string {
	role, err := arn.Parse(a.RoleARN)
	if err != nil {
		return ""
	}
	return role.AccountID
}

func (a Account) String() string {
	switch {
	case a.Name != "":
		return a.Name
	case a.RoleARN != "":
		return a.id()
	}
	return "own account"
}

var (
	regionForm  = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	accountForm = regexp.MustCompile(`^[0-9]{12}$`)
)

// validate returns all mistakes at once.
func (c *Config) validate() error {
	var wrong poll.Mistakes
	if len(c.Regions) == 0 {
		wrong.Add("regions: name at least one, such as \"eu-west-1\"")
	}
	if len(c.Kinds) == 0 {
		wrong.Add("kinds: name at least one of ec2, ecs and cloudmap")
	}
	wrong.List("regions", c.Regions, regionForm.MatchString, "is not the name of a region such as \"eu-west-1\"")
	wrong.List("kinds", c.Kinds, poll.OneOf(KindEC2, KindECS, KindCloudMap), "is unknown: use ec2, ecs or cloudmap")
	wrong.List("clusters", c.Clusters, nil, "")
	wrong.List("namespaces", c.Namespaces, nil, "")
	wrong.List("target_groups", c.TargetGroups, nil, "")
	c.validateAccounts(&wrong)
	wrong.AddressType(c.AddressType)
	wrong.Tags(c.Tags)
	wrong.Endpoint(c.Endpoint, "https://vpce.example.com")
	return wrong.Err()
}

func (c *Config) validateAccounts(wrong *poll.Mistakes) {
	seen := map[string]bool{}
	for _, a := range c.Accounts {
		if a.RoleARN == "" {
			if a.ExternalID != "" {
				wrong.Add("accounts: an external_id belongs to a role_arn, which is missing")
			}
		} else if role, err := arn.Parse(a.RoleARN); err != nil || role.Service != "iam" || !strings.HasPrefix(role.Resource, "role/") ||
			!accountForm.MatchString(role.AccountID) {
			wrong.Add("accounts: %q is not the ARN of a role such as \"arn:aws:iam::111122223333:role/tradewind\"", a.RoleARN)
			continue
		}
		if seen[a.id()] {
			wrong.Add("accounts: %v is there twice: one role sees the whole account", a)
		}
		seen[a.id()] = true
	}
}

// The limits of what is read and remembered. What goes beyond them was not meant for us.
const (
	maxBody   = 32 << 20 // of one answer; a full page of 1000 instances with 50 tags each is about 10 MB
	maxCached = 16384    // entries of each cache; they are made anew beyond
)

// targetsFor is how long an answer of the load balancers is used: ec2 and ecs of one account and region are listed at about the
// same time, and share it.
const targetsFor = 10 * time.Second

// Permissions returns the IAM actions that a Lister with this configuration uses, sorted. Clusters needs those of KindEKS too.
func Permissions(kinds ...string) []string {
	return poll.Permissions(kinds, map[string][]string{
		KindEC2: {"ec2:DescribeInstances", "ec2:DescribeAvailabilityZones", "autoscaling:DescribeAutoScalingGroups"},
		KindECS: {"ecs:ListClusters", "ecs:ListTasks", "ecs:DescribeTasks", "ecs:DescribeTaskDefinition", "ecs:DescribeContainerInstances",
			"ec2:DescribeInstances", "ec2:DescribeSubnets", "ec2:DescribeAvailabilityZones"},
		KindCloudMap: {"servicediscovery:ListNamespaces", "servicediscovery:ListServices", "servicediscovery:DiscoverInstances",
			"servicediscovery:DiscoverInstancesRevision", "servicediscovery:ListInstances", "servicediscovery:GetInstancesHealthStatus",
			"ecs:DescribeTasks", "ec2:DescribeAvailabilityZones"},
		SignalELB: {"elasticloadbalancing:DescribeTargetGroups", "elasticloadbalancing:DescribeTargetHealth"},
		KindEKS:   {"eks:ListClusters", "eks:DescribeCluster"},
	})
}

// Beside the kinds of workload, Permissions knows these.
const (
	SignalELB = "elb" // the health of load balancers' targets, with KindEC2 and KindECS unless Config.NoTargetHealth
	KindEKS   = "eks" // Clusters
)
