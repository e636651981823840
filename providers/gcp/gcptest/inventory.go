// Package gcptest is a small Google Cloud: one HTTP handler that answers Compute Engine, Cloud Run, Service Directory, GKE, the token
// endpoint and the metadata server from a declared inventory, in the forms of the real APIs, page by page, with only the fields that
// the request asks for. It only reads, and knows only what providers/gcp asks.
//
// Its requests and answers in testdata are checked against Google's own discovery documents by e2e/tools/googleapi.
package gcptest

import "cmp"

// The project, and the zone, of what names none.
const (
	Project = "example-prod"
	Zone    = "europe-west1-b"
	Region  = "europe-west1"
)

// Inventory is what there is. The zero value is an empty cloud.
type Inventory struct {
	Instances []Instance
	Groups    []Group
	Services  []Service
	Entries   []Entry
	Clusters  []Cluster
	Self      Self
}

// Instance is a Compute Engine instance.
type Instance struct {
	Project, Zone, Name string
	Status              string // default "RUNNING"
	Network             string // "projects/P/global/networks/N", default that of the project called default
	IP                  string
	Secondary           []string // addresses of further interfaces
	IPv6                string   // internal
	PublicIPv6          string
	Public              string
	Labels              map[string]string
	Tags                []string // network tags
	Spoilt              bool     // a field has the wrong type
}

func (i *Instance) project() string { return cmp.Or(i.Project, Project) }
func (i *Instance) zone() string    { return cmp.Or(i.Zone, Zone) }

// Group is a managed instance group.
type Group struct {
	Project, Name string
	Zone          string // default Zone, unless there is a region
	Region        string
	Unstable      bool
	HealthCheck   bool // it has an autohealing policy
	Ports         map[string]int
	Members       []Member
}

func (g *Group) project() string { return cmp.Or(g.Project, Project) }

// Member is an instance in a group.
type Member struct {
	Zone, Name string
	Action     string // default "NONE"
	Health     string // of its autohealing check; empty: there is none
}

// Service is a Cloud Run service.
type Service struct {
	Project, Region, Name string
	URL                   string
	Ready                 string // state of its readiness, default "CONDITION_SUCCEEDED"
	Routes                string // state of its routes, default as Ready
	Labels                map[string]string
	PortName              string // "h2c"
	Deleted               bool
}

// Entry is a service of Service Directory.
type Entry struct {
	Project, Region, Namespace, Name string
	Annotations                      map[string]string
	Endpoints                        []Endpoint
	Gone                             bool // listed, and missing when it is asked for its endpoints
}

// Endpoint is an endpoint of a service of Service Directory.
type Endpoint struct {
	Name, Address string
	Port          int
	Annotations   map[string]string
	Network       string // "projects/NUMBER/locations/global/networks/N"
}

// Cluster is a GKE cluster.
type Cluster struct {
	Project, Location, Name string
	Status                  string // default "RUNNING"
	Endpoint                string
	DNS                     string
	CA                      string // PEM
}

// Self says where the caller of the metadata server runs.
type Self struct {
	Instance string // its name in the inventory; empty: there is no metadata server
	Run      string // region, on Cloud Run, which has no zone
	Silent   bool   // it does not answer
	Foreign  bool   // another cloud's metadata server answers
}
