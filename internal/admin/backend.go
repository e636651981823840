package admin

import "context"

// What follows is the gateway as the server needs it, by area. *Client implements all of it too, so that a program can ask
// a gateway in its own process and one behind a socket in the same way. An error should be, or wrap, a
// *federation.Diagnostic: it reaches the caller whole; any other is reported as TW-8011 with its text as the cause.

// Answers are questions about the present; they change nothing.
type Answers interface {
	Status(context.Context, *StatusRequest) (*Status, error)
	Check(context.Context, *CheckRequest) (*CheckReport, error)
	Explain(context.Context, *ExplainRequest) (*Explanation, error)
	Ping(context.Context, *PingRequest) (*Pong, error)
}

// Services is the catalog as this region sees it.
type Services interface {
	ListServices(context.Context, *ListServicesRequest) (*ListServicesResponse, error)
	ShowService(context.Context, *ShowServiceRequest) (*ServiceDetail, error)
	ListSources(context.Context, *ListSourcesRequest) (*ListSourcesResponse, error)
}

// Resources are the declarative objects of the region.
type Resources interface {
	ListResources(context.Context, *ListResourcesRequest) (*ListResourcesResponse, error)
	GetResource(context.Context, *GetResourceRequest) (*GetResourceResponse, error)
	PlanResources(context.Context, *ChangeRequest) (*Plan, error)
	ApplyResources(context.Context, *ChangeRequest) (*Plan, error)
	DeleteResources(context.Context, *DeleteRequest) (*Plan, error)
}

// Peerings are the region's peerings.
type Peerings interface {
	PeerGenerateToken(context.Context, *PeerTokenRequest) (*PeerToken, error)
	// PeerEstablish redeems a token and reports each step to progress, which never blocks for long and may be called from
	// any goroutine until PeerEstablish returns.
	PeerEstablish(ctx context.Context, r *PeerEstablishRequest, progress func(PeerStep)) (*PeerEstablished, error)
	PeerWait(context.Context, *PeerWaitRequest) (*Peering, error)
	PeerList(context.Context, *PeerListRequest) (*PeerListResponse, error)
	PeerShow(context.Context, *PeerRequest) (*Peering, error)
	PeerPause(context.Context, *PeerRequest) (*Peering, error)
	PeerResume(context.Context, *PeerRequest) (*Peering, error)
	PeerRemove(context.Context, *PeerRequest) (*PeerRemoveResponse, error)
}

// Certificates are the region's identities.
type Certificates interface {
	CertList(context.Context, *CertListRequest) (*CertListResponse, error)
	CertIssue(context.Context, *CertIssueRequest) (*CertIssueResponse, error)
	CertRevoke(context.Context, *CertRevokeRequest) (*CertRevokeResponse, error)
	CertRotateCA(context.Context, *CertRotateCARequest) (*CertListResponse, error)
}

// Instances are those registered through the API, and a list of all local ones.
type Instances interface {
	ListInstances(context.Context, *ListInstancesRequest) (*ListInstancesResponse, error)
	RegisterInstance(context.Context, *RegisterInstanceRequest) (*RegisterInstanceResponse, error)
	DeregisterInstance(context.Context, *InstanceRequest) (*DeregisterInstanceResponse, error)
	HeartbeatInstance(context.Context, *InstanceRequest) (*HeartbeatInstanceResponse, error)
}

// Providers are the sources that read an outside API.
type Providers interface {
	ListProviders(context.Context, *ListProvidersRequest) (*ListProvidersResponse, error)
	ShowProvider(context.Context, *ProviderRequest) (*ProviderDetail, error)
	// SyncProvider lists all scopes at once and answers when each was listed.
	SyncProvider(context.Context, *ProviderRequest) (*ProviderDetail, error)
	TestProvider(context.Context, *ProviderRequest) (*ProviderTest, error)
}

// Ingresses are the north-south listeners.
type Ingresses interface {
	ListIngresses(context.Context, *ListIngressesRequest) (*ListIngressesResponse, error)
}

// Process is the gateway process itself.
type Process interface {
	Reload(context.Context, *ReloadRequest) (*ReloadResponse, error)
	LogLevel(context.Context, *LogLevelRequest) (*LogLevelResponse, error)
}
