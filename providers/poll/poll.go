// Package poll turns listings of an outside API into a source of instances. It owns everything that the adapters have in common:
// the schedule with its jitter, back-off, the request budget of an account, what a failed or partial listing may change (nothing),
// how long a scope that can no longer be listed is believed, the guard against listings that shrink at once, and the last good
// snapshot on disk. An adapter lists; it decides nothing. No SDK is imported here.
package poll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Scope is what one listing covers. A complete listing replaces what was known of exactly its scope.
type Scope struct {
	Provider string `json:"provider"`          // "aws", "gcp", "azure", "consul", "kubernetes", "dns"
	Account  string `json:"account,omitempty"` // AWS account or role, GCP project, Azure subscription or tenant, Consul datacenter, cluster
	Region   string `json:"region,omitempty"`  // the cloud's region or zone; empty where one listing covers all of them
	Kind     string `json:"kind"`              // "ec2", "ecs", "instances", "endpointslices"
	Part     string `json:"part,omitempty"`    // splits a kind further: an ECS cluster, a GCE zone, a namespace
}

// String returns the parts that are not empty: "aws/111111111111/eu-west-1/ec2", "dns/a/web.example.com".
func (s Scope) String() string {
	parts := []string{s.Provider, s.Account, s.Region, s.Kind, s.Part}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "/")
}

// State is how far along its life a workload is.
type State string

// The states. A workload in another state than running gets no new connections; a draining one keeps its open ones.
const (
	StatePending  State = "pending"
	StateRunning  State = "running"
	StateDraining State = "draining"
	StateStopped  State = "stopped"
)

// Port is one port of a workload.
type Port struct {
	Name     string `json:"name,omitempty"` // empty: the workload's only or main port
	Number   uint16 `json:"number"`
	Protocol string `json:"protocol,omitempty"` // as federation.Protocol; empty: tcp
}

// Record is one workload as a provider sees it, before any rule of this gateway. Adapters fill in what they know.
type Record struct {
	ID        string            `json:"id"` // unique in the provider: ARN, self link, resource ID, "consul://dc/node/id", "k8s://cluster/ns/service/pod"
	Account   string            `json:"account,omitempty"`
	Region    string            `json:"region,omitempty"`  // of the cloud
	Zone      string            `json:"zone,omitempty"`    // zone ID where the cloud has one: names differ between AWS accounts, IDs do not
	Network   string            `json:"network,omitempty"` // VPC, VNet or network ID: private addresses are unique inside it only
	Kind      string            `json:"kind"`
	Addresses []netip.Addr      `json:"addresses,omitempty"` // private ones first; the first is used
	Host      string            `json:"host,omitempty"`      // where the provider gives no address, as Cloud Run does; the source resolves it
	Ports     []Port            `json:"ports,omitempty"`     // as the provider knows them; tags may name others
	State     State             `json:"state"`
	Health    federation.Health `json:"health"`            // worst of the provider's own signals; unknown where it has none
	Service   string            `json:"service,omitempty"` // the name the provider itself gives, as Consul and Kubernetes do; a tag overrides it
	Namespace string            `json:"namespace,omitempty"`
	Weight    uint16            `json:"weight,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"` // tags, labels or annotations, raw
}

// BadItem is an item of a listing that could not be read. What was last known of it stays.
type BadItem struct {
	ID  string // Record.ID, or as much of it as could be read
	Err error
}

// Listing is the answer to one List.
type Listing struct {
	Records []Record
	Bad     []BadItem
	// Partial says why the listing is known to miss something, such as zones that could not be reached; nil: it is complete. A
	// partial listing adds and changes records and never removes one.
	Partial error
	Calls   int // requests made, for the accounting
}

// Lister lists one kind of workload over one or several scopes. List may be called for different scopes at once.
type Lister interface {
	// Scopes returns what there is to list. It may ask the provider, for example for the zones or clusters there are. An error
	// changes nothing: the scopes known before stay.
	Scopes(ctx context.Context) ([]Scope, error)
	// List lists one scope in full. It waits for Budget before each request. An error says that nothing was learnt.
	List(ctx context.Context, scope Scope, budget Budget) (Listing, error)
}

// Watcher is a Lister that learns of changes by itself. Watch blocks until ctx ends or the watch breaks, and calls tell with a
// listing for each change it has learnt: always the whole scope.
type Watcher interface {
	Lister
	Watch(ctx context.Context, scope Scope, budget Budget, tell func(Listing)) error
}

// Budget is the right to make requests of an account: a token bucket shared by everything that lists it.
type Budget interface {
	// Wait blocks until one more request may be made.
	Wait(ctx context.Context) error
}

// ThrottledError is the provider's request to slow down.
type ThrottledError struct {
	RetryAfter time.Duration // 0: it did not say
	Err        error
}

func (e *ThrottledError) Error() string { return fmt.Sprintf("throttled by the provider: %v", e.Err) }

func (e *ThrottledError) Unwrap() error { return e.Err }

// DeniedError is a permission that the credentials lack.
type DeniedError struct {
	Action string // exactly as the provider names it: "ec2:DescribeInstances", "compute.instances.list"
	Who    string // the principal, where the provider says it
	Err    error
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("permission %s is missing: %v", e.Action, e.Err)
}

func (e *DeniedError) Unwrap() error { return e.Err }

// ErrCredentials is in the tree of an error that says that there are no usable credentials: the client is to be made anew.
var ErrCredentials = errors.New("no usable credentials")
