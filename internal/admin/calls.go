package admin

import "context"

// Status implements Answers.
func (c *Client) Status(ctx context.Context, r *StatusRequest) (*Status, error) {
	return call[StatusRequest, Status](ctx, c, "Status", r)
}

// Check implements Answers.
func (c *Client) Check(ctx context.Context, r *CheckRequest) (*CheckReport, error) {
	return call[CheckRequest, CheckReport](ctx, c, "Check", r)
}

// Explain implements Answers.
func (c *Client) Explain(ctx context.Context, r *ExplainRequest) (*Explanation, error) {
	return call[ExplainRequest, Explanation](ctx, c, "Explain", r)
}

// Ping implements Answers.
func (c *Client) Ping(ctx context.Context, r *PingRequest) (*Pong, error) {
	return call[PingRequest, Pong](ctx, c, "Ping", r)
}

// ListServices implements Services.
func (c *Client) ListServices(ctx context.Context, r *ListServicesRequest) (*ListServicesResponse, error) {
	return call[ListServicesRequest, ListServicesResponse](ctx, c, "ListServices", r)
}

// ShowService implements Services.
func (c *Client) ShowService(ctx context.Context, r *ShowServiceRequest) (*ServiceDetail, error) {
	return call[ShowServiceRequest, ServiceDetail](ctx, c, "ShowService", r)
}

// ListSources implements Services.
func (c *Client) ListSources(ctx context.Context, r *ListSourcesRequest) (*ListSourcesResponse, error) {
	return call[ListSourcesRequest, ListSourcesResponse](ctx, c, "ListSources", r)
}

// ListResources implements Resources.
func (c *Client) ListResources(ctx context.Context, r *ListResourcesRequest) (*ListResourcesResponse, error) {
	return call[ListResourcesRequest, ListResourcesResponse](ctx, c, "ListResources", r)
}

// GetResource implements Resources.
func (c *Client) GetResource(ctx context.Context, r *GetResourceRequest) (*GetResourceResponse, error) {
	return call[GetResourceRequest, GetResourceResponse](ctx, c, "GetResource", r)
}

// PlanResources implements Resources.
func (c *Client) PlanResources(ctx context.Context, r *ChangeRequest) (*Plan, error) {
	return call[ChangeRequest, Plan](ctx, c, "PlanResources", r)
}

// ApplyResources implements Resources.
func (c *Client) ApplyResources(ctx context.Context, r *ChangeRequest) (*Plan, error) {
	return call[ChangeRequest, Plan](ctx, c, "ApplyResources", r)
}

// DeleteResources implements Resources.
func (c *Client) DeleteResources(ctx context.Context, r *DeleteRequest) (*Plan, error) {
	return call[DeleteRequest, Plan](ctx, c, "DeleteResources", r)
}

// PeerGenerateToken implements Peerings.
func (c *Client) PeerGenerateToken(ctx context.Context, r *PeerTokenRequest) (*PeerToken, error) {
	return call[PeerTokenRequest, PeerToken](ctx, c, "PeerGenerateToken", r)
}

// PeerWait implements Peerings.
func (c *Client) PeerWait(ctx context.Context, r *PeerWaitRequest) (*Peering, error) {
	return call[PeerWaitRequest, Peering](ctx, c, "PeerWait", r)
}

// PeerList implements Peerings.
func (c *Client) PeerList(ctx context.Context, r *PeerListRequest) (*PeerListResponse, error) {
	return call[PeerListRequest, PeerListResponse](ctx, c, "PeerList", r)
}

// PeerShow implements Peerings.
func (c *Client) PeerShow(ctx context.Context, r *PeerRequest) (*Peering, error) {
	return call[PeerRequest, Peering](ctx, c, "PeerShow", r)
}

// PeerPause implements Peerings.
func (c *Client) PeerPause(ctx context.Context, r *PeerRequest) (*Peering, error) {
	return call[PeerRequest, Peering](ctx, c, "PeerPause", r)
}

// PeerResume implements Peerings.
func (c *Client) PeerResume(ctx context.Context, r *PeerRequest) (*Peering, error) {
	return call[PeerRequest, Peering](ctx, c, "PeerResume", r)
}

// PeerRemove implements Peerings.
func (c *Client) PeerRemove(ctx context.Context, r *PeerRequest) (*PeerRemoveResponse, error) {
	return call[PeerRequest, PeerRemoveResponse](ctx, c, "PeerRemove", r)
}

// CertList implements Certificates.
func (c *Client) CertList(ctx context.Context, r *CertListRequest) (*CertListResponse, error) {
	return call[CertListRequest, CertListResponse](ctx, c, "CertList", r)
}

// CertIssue implements Certificates.
func (c *Client) CertIssue(ctx context.Context, r *CertIssueRequest) (*CertIssueResponse, error) {
	return call[CertIssueRequest, CertIssueResponse](ctx, c, "CertIssue", r)
}

// CertRotateCA implements Certificates.
func (c *Client) CertRotateCA(ctx context.Context, r *CertRotateCARequest) (*CertListResponse, error) {
	return call[CertRotateCARequest, CertListResponse](ctx, c, "CertRotateCA", r)
}

// CertRevoke implements Certificates.
func (c *Client) CertRevoke(ctx context.Context, r *CertRevokeRequest) (*CertRevokeResponse, error) {
	return call[CertRevokeRequest, CertRevokeResponse](ctx, c, "CertRevoke", r)
}

// ListInstances implements Instances.
func (c *Client) ListInstances(ctx context.Context, r *ListInstancesRequest) (*ListInstancesResponse, error) {
	return call[ListInstancesRequest, ListInstancesResponse](ctx, c, "ListInstances", r)
}

// RegisterInstance implements Instances.
func (c *Client) RegisterInstance(ctx context.Context, r *RegisterInstanceRequest) (*RegisterInstanceResponse, error) {
	return call[RegisterInstanceRequest, RegisterInstanceResponse](ctx, c, "RegisterInstance", r)
}

// DeregisterInstance implements Instances.
func (c *Client) DeregisterInstance(ctx context.Context, r *InstanceRequest) (*DeregisterInstanceResponse, error) {
	return call[InstanceRequest, DeregisterInstanceResponse](ctx, c, "DeregisterInstance", r)
}

// HeartbeatInstance implements Instances.
func (c *Client) HeartbeatInstance(ctx context.Context, r *InstanceRequest) (*HeartbeatInstanceResponse, error) {
	return call[InstanceRequest, HeartbeatInstanceResponse](ctx, c, "HeartbeatInstance", r)
}

// Reload implements Process.
func (c *Client) Reload(ctx context.Context, r *ReloadRequest) (*ReloadResponse, error) {
	return call[ReloadRequest, ReloadResponse](ctx, c, "Reload", r)
}

// LogLevel implements Process.
func (c *Client) LogLevel(ctx context.Context, r *LogLevelRequest) (*LogLevelResponse, error) {
	return call[LogLevelRequest, LogLevelResponse](ctx, c, "LogLevel", r)
}

// ListIngresses implements Ingresses.
func (c *Client) ListIngresses(ctx context.Context, r *ListIngressesRequest) (*ListIngressesResponse, error) {
	return call[ListIngressesRequest, ListIngressesResponse](ctx, c, "ListIngresses", r)
}

// ListProviders implements Providers.
func (c *Client) ListProviders(ctx context.Context, r *ListProvidersRequest) (*ListProvidersResponse, error) {
	return call[ListProvidersRequest, ListProvidersResponse](ctx, c, "ListProviders", r)
}

// ShowProvider implements Providers.
func (c *Client) ShowProvider(ctx context.Context, r *ProviderRequest) (*ProviderDetail, error) {
	return call[ProviderRequest, ProviderDetail](ctx, c, "ShowProvider", r)
}

// SyncProvider implements Providers.
func (c *Client) SyncProvider(ctx context.Context, r *ProviderRequest) (*ProviderDetail, error) {
	return call[ProviderRequest, ProviderDetail](ctx, c, "SyncProvider", r)
}

// TestProvider implements Providers.
func (c *Client) TestProvider(ctx context.Context, r *ProviderRequest) (*ProviderTest, error) {
	return call[ProviderRequest, ProviderTest](ctx, c, "TestProvider", r)
}
