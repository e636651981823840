package azure

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The operations in use. The clients themselves are not kept: see the package comment.
type (
	queryGraph func(context.Context, armresourcegraph.QueryRequest, *armresourcegraph.ClientResourcesOptions) (
		armresourcegraph.ClientResourcesResponse, error)
	setInterfaces func(resourceGroup, set string, o *armnetwork.InterfacesClientListVirtualMachineScaleSetNetworkInterfacesOptions,
	) *runtime.Pager[armnetwork.InterfacesClientListVirtualMachineScaleSetNetworkInterfacesResponse]
	clusterCredentials func(ctx context.Context, resourceGroup, cluster string,
		o *armcontainerservice.ManagedClustersClientListClusterUserCredentialsOptions) (
		armcontainerservice.ManagedClustersClientListClusterUserCredentialsResponse, error)
)

// clients are the operations of one principal. Those of a resource provider are made for a subscription.
type clients struct {
	credential azcore.TokenCredential
	options    *arm.ClientOptions
	query      queryGraph
}

func newClients(credential azcore.TokenCredential, options *arm.ClientOptions) (*clients, error) {
	graph, err := armresourcegraph.NewClient(credential, options)
	if err != nil {
		return nil, fmt.Errorf("make a client of Resource Graph: %w", err)
	}
	return &clients{credential: credential, options: options, query: graph.Resources}, nil
}

func (c *clients) setInterfaces(subscription string) (setInterfaces, error) {
	nics, err := armnetwork.NewInterfacesClient(subscription, c.credential, c.options)
	if err != nil {
		return nil, fmt.Errorf("make a client of network interfaces: %w", err)
	}
	return nics.NewListVirtualMachineScaleSetNetworkInterfacesPager, nil
}

func (c *clients) clusterCredentials(subscription string) (clusterCredentials, error) {
	aks, err := armcontainerservice.NewManagedClustersClient(subscription, c.credential, c.options)
	if err != nil {
		return nil, fmt.Errorf("make a client of AKS: %w", err)
	}
	return aks.ListClusterUserCredentials, nil
}

// load makes clients with the credentials that the environment gives. It makes no request.
func load(cfg *Config, transport policy.Transporter) (*clients, error) {
	where := clouds[cfg.Cloud]
	manager := where.Services[cloud.ResourceManager]
	if cfg.Endpoint != "" {
		manager.Endpoint = strings.TrimSuffix(cfg.Endpoint, "/")
	}
	common := azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: where.ActiveDirectoryAuthorityHost, Services: where.Services},
		Transport: transport,
		Retry:     policy.RetryOptions{MaxRetries: -1}, // the framework waits for budget before each request, and backs off
		Telemetry: policy.TelemetryOptions{ApplicationID: "tradewind"},
	}
	credential, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: common})
	if err != nil {
		return nil, fmt.Errorf("find credentials: %w: %w", poll.ErrCredentials, err)
	}
	common.Cloud.Services = map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: manager}
	common.InsecureAllowCredentialWithHTTP = strings.HasPrefix(manager.Endpoint, "http://") // whoever writes that wants it
	return newClients(&marked{credential}, &arm.ClientOptions{
		ClientOptions:         common,
		DisableRPRegistration: true, // the SDK would register a resource provider that it finds unregistered: a write
	})
}

// marked puts poll.ErrCredentials into the tree of whatever keeps a credential from giving a token.
type marked struct{ azcore.TokenCredential }

func (m *marked) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	t, err := m.TokenCredential.GetToken(ctx, o)
	if err != nil {
		return t, fmt.Errorf("get a token: %w: %w", poll.ErrCredentials, err)
	}
	return t, nil
}

func newHTTP() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = direct(http.ProxyFromEnvironment)
	return poll.Client(transport, maxBody)
}

// direct uses proxies, but not for link-local addresses: a proxy asked for a token there would get its own machine's.
func direct(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		if a, err := netip.ParseAddr(req.URL.Hostname()); err == nil && a.IsLinkLocalUnicast() {
			return nil, nil
		}
		return proxy(req)
	}
}
