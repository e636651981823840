package admin

import "github.com/tradewind-mesh/tradewind/federation"

// ListServicesRequest asks for the catalog: local and imported services.
type ListServicesRequest struct{}

// ListServicesResponse is sorted by name.
type ListServicesResponse struct {
	Region   federation.Region   `json:"region"`
	Services List[ServiceStatus] `json:"services"`
}

// ServiceStatus is one service as this region sees it, wherever it runs.
type ServiceStatus struct {
	Name       federation.ServiceName  `json:"name"`
	Protocol   federation.Protocol     `json:"protocol,omitempty"`
	Homes      List[ServiceHome]       `json:"homes"`       // the regions it runs in, this one first
	ExportedTo List[federation.Region] `json:"exported_to"` // peers that are shown it now
	Order      List[ServiceTarget]     `json:"order"`       // where a new connection goes, best first
}

// ServiceHome is a region that runs a service.
type ServiceHome struct {
	Region     federation.Region    `json:"region"`
	Local      bool                 `json:"local,omitempty"`
	Healthy    uint32               `json:"healthy"`
	Total      uint32               `json:"total"`
	Freshness  federation.Freshness `json:"freshness"`             // LIVE for a local one
	AgeSeconds Seconds              `json:"age_seconds,omitempty"` // of the import
}

// ServiceTarget is one region in the order of a service.
type ServiceTarget struct {
	Region  federation.Region `json:"region"`
	Healthy uint32            `json:"healthy"`
	Total   uint32            `json:"total"`
	Chosen  bool              `json:"chosen,omitempty"` // a new connection would go there
	Reason  string            `json:"reason,omitempty"` // why not, or why last: "STALE", "no healthy instance", "path down"
}

// ShowServiceRequest names a service.
type ShowServiceRequest struct {
	Service federation.ServiceName `json:"service"`
}

// ServiceDetail is everything about one service.
type ServiceDetail struct {
	ServiceStatus
	Identity  string                    `json:"identity,omitempty"` // SPIFFE ID, when it runs here
	Instances List[InstanceStatus]      `json:"instances"`          // local ones
	Imports   List[ImportedDetail]      `json:"imports"`
	Resolver  *federation.Resolver      `json:"resolver,omitempty"` // with defaults filled in
	Resources List[federation.Resource] `json:"resources"`          // exports, intentions, resolvers and upstreams that name it
}

// ImportedDetail is a service as one peer shows it.
type ImportedDetail struct {
	Region   federation.Region `json:"region"`
	Identity string            `json:"identity"`
	Detail   federation.Detail `json:"detail"`
	Slots    List[Slot]        `json:"slots"`
}

// Slot is a locality or an instance of an imported service. It never has an address.
type Slot struct {
	Key     string `json:"key"`
	Zone    string `json:"zone,omitempty"`
	Weight  uint32 `json:"weight,omitempty"`
	Healthy uint32 `json:"healthy"`
	Total   uint32 `json:"total"`
}

// InstanceStatus is a local instance and its health.
type InstanceStatus struct {
	federation.Instance                              // its health is the one after checks
	Source              federation.SourceName        `json:"source"`                 // the one that is believed
	Also                List[federation.SourceName]  `json:"also,omitempty"`         // others that report it
	Conflict            bool                         `json:"conflict,omitempty"`     // one of them says something else
	Reason              string                       `json:"reason,omitempty"`       // why it is not passing
	Since               Time                         `json:"since,omitzero"`         // of the present health
	Waiting             bool                         `json:"waiting,omitempty"`      // it gets no traffic: its service has too many instances
	CheckStatus         List[federation.CheckStatus] `json:"check_status,omitempty"` // where each of its checks stands
}

// ListInstancesRequest asks for local instances; of one service when it is set.
type ListInstancesRequest struct {
	Service federation.ServiceName `json:"service,omitzero"`
}

// ListInstancesResponse is sorted by service, then ID.
type ListInstancesResponse struct {
	Instances List[InstanceStatus] `json:"instances"`
}

// RegisterInstanceRequest adds an instance, or replaces the one with its service and ID.
type RegisterInstanceRequest struct {
	Instance federation.Instance `json:"instance"`
	Token    string              `json:"token,omitempty"` // whoever registers with a token must show it to change the registration later
	// DeregisterAfter is how long after its ttl check failed the registration is removed, at least 1m; 0: never.
	DeregisterAfter federation.Duration `json:"deregister_after,omitempty"`
}

// RegisterInstanceResponse says what is registered now.
type RegisterInstanceResponse struct {
	Instance federation.Instance         `json:"instance"`
	Replaced bool                        `json:"replaced"`       // another registration, not what another source reports
	Also     List[federation.SourceName] `json:"also,omitempty"` // sources that report an instance of this ID too
}

// InstanceRequest names an instance that was registered through the API.
type InstanceRequest struct {
	Service federation.ServiceName `json:"service"`
	ID      federation.InstanceID  `json:"id"`
	Token   string                 `json:"token,omitempty"` // as given at registration
	Force   bool                   `json:"force,omitempty"` // an administrator's word instead of the token

	Health federation.Health `json:"health,omitempty"` // heartbeat only: passing, which is the default, failing or draining
	Output string            `json:"output,omitempty"` // heartbeat only: what is shown beside the health, at most 256 octets of it
}

// DeregisterInstanceResponse is empty: the instance is gone.
type DeregisterInstanceResponse struct{}

// HeartbeatInstanceResponse says how long the heartbeat lasts; for ever when the instance has no ttl check.
type HeartbeatInstanceResponse struct {
	Expires Time `json:"expires,omitzero"`
}

// ListSourcesRequest asks where instances come from.
type ListSourcesRequest struct{}

// ListSourcesResponse is sorted by name.
type ListSourcesResponse struct {
	Sources List[SourceStatus] `json:"sources"`
}

// SourceStatus is one source of instances. An error leaves the last complete set in use and its age growing.
type SourceStatus struct {
	Name         federation.SourceName `json:"name"`
	Instances    int                   `json:"instances"`
	LastComplete Time                  `json:"last_complete,omitzero"`
	AgeSeconds   Seconds               `json:"age_seconds"` // of the set in use; 0 for "api" and "resources", which never miss a change
	Error        string                `json:"error,omitempty"`
	Code         federation.Code       `json:"code,omitempty"`      // of Error
	Skipped      int                   `json:"skipped,omitempty"`   // records of the set that are not valid
	Conflicts    int                   `json:"conflicts,omitempty"` // instances for which another source is believed
}
