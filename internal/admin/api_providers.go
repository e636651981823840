package admin

import "github.com/tradewind-mesh/tradewind/federation"

// ListProvidersRequest asks for the providers of gateway.hcl.
type ListProvidersRequest struct{}

// ListProvidersResponse is sorted by name.
type ListProvidersResponse struct {
	Providers List[ProviderStatus] `json:"providers"`
}

// ProviderRequest names a provider.
type ProviderRequest struct {
	Name string `json:"name"`
}

// ProviderStatus is where one provider stands.
type ProviderStatus struct {
	Name      string                `json:"name"`
	Kind      string                `json:"kind"`
	Source    federation.SourceName `json:"source"` // as its instances name it
	State     string                `json:"state"`  // the worst state of its scopes
	Scopes    int                   `json:"scopes"`
	Workloads int                   `json:"workloads"` // listed, used or not
	Instances int                   `json:"instances"` // used
	// AgeSeconds is since the last complete listing of the scope whose is oldest; 0 with Never.
	AgeSeconds Seconds  `json:"age_seconds"`
	Never      bool     `json:"never,omitempty"` // some scope was never listed completely
	Problem    *Problem `json:"problem,omitempty"`
}

// ProviderDetail is all there is to say about a provider.
type ProviderDetail struct {
	ProviderStatus
	Details List[ProviderScope]       `json:"scope_details"`
	Rules   List[federation.Discover] `json:"discover"`
	Ignored List[IgnoredWorkloads]    `json:"ignored"`
	Consul  *ConsulSync               `json:"sync_to_consul,omitempty"` // when it shows imports there
}

// ConsulSync is how far a Consul shows imports.
type ConsulSync struct {
	Entries     List[SyncedImport]  `json:"entries"`
	NotShown    List[HiddenImports] `json:"not_shown"`
	LastSuccess Time                `json:"last_success,omitzero"` // when Consul last was as it should be
	Problem     *Problem            `json:"problem,omitempty"`
}

// SyncedImport is an import that users of a Consul can call.
type SyncedImport struct {
	Name    string                  `json:"name"` // in Consul
	Service federation.ServiceName  `json:"service"`
	Regions List[federation.Region] `json:"regions"` // that export it
	Address string                  `json:"address"` // of this gateway's listener
	Healthy bool                    `json:"healthy"` // false: not in DNS
}

// HiddenImports are those that are not shown for one reason.
type HiddenImports struct {
	Why      string                       `json:"why"`
	Fix      string                       `json:"fix"`
	Count    int                          `json:"count"`
	Services List[federation.ServiceName] `json:"services"` // the first of them
}

// ProviderScope is what one listing covers.
type ProviderScope struct {
	Scope        string        `json:"scope"`
	State        string        `json:"state"` // ok, stale, throttled, denied, failed, held or pending
	Watching     bool          `json:"watching,omitempty"`
	Workloads    int           `json:"workloads"`
	LastComplete Time          `json:"last_complete,omitzero"`
	AgeSeconds   Seconds       `json:"age_seconds"`
	Next         Time          `json:"next,omitzero"` // of the next listing
	Calls        int64         `json:"calls"`         // requests since the start
	Throttles    int64         `json:"throttles,omitempty"`
	Failures     int           `json:"failures,omitempty"` // in a row
	BadItems     int           `json:"bad_items,omitempty"`
	Bad          List[BadItem] `json:"bad"` // the first of them
	Problem      *Problem      `json:"problem,omitempty"`
}

// BadItem is a workload that could not be read.
type BadItem struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// IgnoredWorkloads are those that are not used for one reason.
type IgnoredWorkloads struct {
	Reason   string                `json:"reason"` // unclaimed, stopped, tags, not_allowed, address, port or overlap
	Count    int                   `json:"count"`
	Examples List[IgnoredWorkload] `json:"examples"`
}

// IgnoredWorkload is one of them.
type IgnoredWorkload struct {
	ID    string `json:"id"`
	Scope string `json:"scope"`
	Why   string `json:"why"`
}

// ProviderTest is the outcome of listing everything once without using it.
type ProviderTest struct {
	Name    string                   `json:"name"`
	Passed  bool                     `json:"passed"`
	Results List[ProviderTestResult] `json:"results"`
}

// ProviderTestResult is the outcome for one scope.
type ProviderTestResult struct {
	Scope       string   `json:"scope"` // empty: it could not even be learnt what there is
	Workloads   int      `json:"workloads"`
	Calls       int      `json:"calls"`
	TookSeconds Seconds  `json:"took_seconds"`
	Missing     string   `json:"missing,omitempty"` // the permission that is missing, exactly as the provider names it
	Problem     *Problem `json:"problem,omitempty"`
}
