// Package awstest is a small AWS: one HTTP handler that answers EC2, ECS, Cloud Map, ELBv2, EKS, STS and the metadata services of
// EC2 and ECS from a declared inventory, in the forms of the real APIs, with their limits, page by page. It only reads, and knows
// only what providers/aws asks. Its answers are checked against Amazon's own models by the parser of botocore.
//
// It checks no signature: the access key says whose account is asked, the signature's scope in which region.
package awstest

import (
	"cmp"
	"fmt"
)

// The account and region of what names none.
const (
	Account = "111122223333"
	Region  = "eu-west-1"
)

// Inventory is what there is. The zero value is an empty AWS.
type Inventory struct {
	Instances    []Instance
	Subnets      []Subnet
	Zones        []Zone
	Clusters     []Cluster
	Definitions  []Definition
	Namespaces   []Namespace
	TargetGroups []TargetGroup
	Kubernetes   []Kubernetes
	Roles        []Role
	Self         Self
}

// Where says in which account and region something is.
type Where struct{ Account, Region string }

func (w Where) account() string { return cmp.Or(w.Account, Account) }
func (w Where) region() string  { return cmp.Or(w.Region, Region) }

// at reports whether it is where the request looks.
func (w Where) at(r *Request) bool { return w.account() == r.Account && w.region() == r.Region }

// arn returns an ARN at this place.
func (w Where) arn(service, resource string) string {
	return fmt.Sprintf("arn:aws:%s:%s:%s:%s", service, w.region(), w.account(), resource)
}

// Instance is an EC2 instance.
type Instance struct {
	Where
	ID        string // "i-1"
	State     string // default "running"
	VPC       string
	Subnet    string
	Zone      string // "eu-west-1a"
	ZoneID    string // "euw1-az1"; empty: the answer lacks it
	IP        string
	Secondary []string // further private addresses
	IPv6      []string
	Public    string
	Tags      map[string]string
	Group     string // its Auto Scaling group
	Lifecycle string // its state there, default "InService"
	Sick      bool   // the group thinks so
}

// Zone is an availability zone, by its name in one account.
type Zone struct {
	Where
	Name, ID string
}

// Subnet is a part of a VPC.
type Subnet struct {
	Where
	ID, VPC, Zone, ZoneID string
}

// Cluster is an ECS cluster.
type Cluster struct {
	Where
	Name  string
	Tasks []Task
	Hosts map[string]string // EC2 instance by ID of the container instance
}

// Task is an ECS task.
type Task struct {
	ID         string
	Service    string // empty: run by hand
	Definition string // "web:3"
	Last       string // status, default "RUNNING"
	Desired    string // default "RUNNING"
	Health     string // default "UNKNOWN"
	IP, IPv6   string // of its own interface; both empty: it has none
	Subnet     string
	Host       string // container instance
	LaunchType string // default "FARGATE" with an interface, "EC2" without
	Bindings   []Binding
	Tags       map[string]string
	Gone       bool   // listed, and missing when it is described
	Failure    string // the reason why it cannot be described, such as "ACCESS_DENIED"
}

// Binding is a port of a task on its host.
type Binding struct {
	Container               string
	ContainerPort, HostPort int
	Protocol                string // default "tcp"
}

// Definition is a revision of a task definition.
type Definition struct {
	Where
	Name       string // "web:3"
	Mode       string // default "awsvpc"
	Containers []Container
	Tags       map[string]string
}

// Container is a container of a task definition.
type Container struct {
	Name   string
	Ports  []Port
	Labels map[string]string // Docker's
}

// Port is a port mapping.
type Port struct {
	Name            string
	Container, Host int
	Protocol        string // default "tcp"
	App             string // "http", "http2", "grpc"
}

// Namespace is a Cloud Map namespace.
type Namespace struct {
	Where
	Name     string
	HTTPName string // default: the name
	Services []Service
}

// Service is a Cloud Map service.
type Service struct {
	Name      string
	Checked   bool // its instances have health
	Revision  int64
	Instances []Registered
}

// Registered is an instance of a Cloud Map service.
type Registered struct {
	ID         string
	Attributes map[string]string
	Health     string // default "HEALTHY" in a checked service, else "UNKNOWN"
}

// TargetGroup is a target group of a load balancer.
type TargetGroup struct {
	Where
	Name    string
	VPC     string
	Type    string // "instance" (default), "ip", "lambda", "alb"
	Port    int
	Unused  bool // it belongs to no load balancer
	Targets []Target
}

// Target is an instance or address of a target group.
type Target struct {
	ID    string
	Port  int
	State string // default "healthy"
}

// Kubernetes is an EKS cluster.
type Kubernetes struct {
	Where
	Name     string
	Status   string // default "ACTIVE"
	Endpoint string
	CA       string // PEM
}

// Role is a role that may be assumed.
type Role struct {
	ARN        string
	ExternalID string // empty: none is asked for
}

// Self says where the caller of the metadata services runs.
type Self struct {
	Instance   string // its ID in the inventory; empty: there is no metadata service
	Task       string // "CLUSTER/ID" of the task behind /v4/task
	Off        bool   // the instance's metadata service is switched off
	V1         bool   // it speaks version 1 only: no tokens, and answers to everybody
	OutOfReach bool   // token answers do not arrive: the hop limit is too low
}
