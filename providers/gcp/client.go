package gcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// operation is a method of an API.
type operation struct {
	service    string // "compute"
	permission string // what it needs, unless the API names another one when it refuses
	method     string
	// fields of the answer that are wanted, so that it is not megabytes of what nobody reads
	// (https://cloud.google.com/apis/docs/system-parameters).
	fields string
}

// The operations in use.
var (
	// Without the mask each instance would bring its metadata, up to 512 KB of start-up scripts.
	listInstances = operation{"compute", "compute.instances.list", http.MethodGet, "items/*/instances(name,status,labels,tags/items," +
		"networkInterfaces(network,networkIP,ipv6Address,accessConfigs/natIP,ipv6AccessConfigs/externalIpv6))," +
		"items/*/warning,nextPageToken,warning,unreachables"}
	listGroups = operation{"compute", "compute.instanceGroupManagers.list", http.MethodGet, "items/*/instanceGroupManagers(name,zone,region," +
		"namedPorts,autoHealingPolicies/healthCheck,status/isStable),items/*/warning,nextPageToken,warning,unreachables"}
	listManaged = operation{"compute", "compute.instanceGroupManagers.get", http.MethodPost,
		"managedInstances(instance,currentAction,instanceHealth/detailedHealthState),nextPageToken"}
	listServices = operation{"run", "run.services.list", http.MethodGet, "services(name,uri,labels,terminalCondition/state," +
		"conditions(type,state),deleteTime),nextPageToken,unreachable"}
	listNamespaces = operation{"servicedirectory", "servicedirectory.namespaces.list", http.MethodGet, "namespaces/name,nextPageToken"}
	listEntries    = operation{"servicedirectory", "servicedirectory.services.list", http.MethodGet,
		"services(name,annotations),nextPageToken"}
	listEndpoints = operation{"servicedirectory", "servicedirectory.endpoints.list", http.MethodGet,
		"endpoints(name,address,port,annotations,network),nextPageToken"}
	listClusters = operation{"container", "container.clusters.list", http.MethodGet, "clusters(name,location,status,endpoint," +
		"masterAuth/clusterCaCertificate,controlPlaneEndpointsConfig/dnsEndpointConfig/endpoint),missingZones"}
)

// identity is as whom we ask.
type identity struct {
	*auth.Credentials
	who string // the service account, where the credentials say it
}

// scope is what a token is for. IAM decides what it allows; the narrower scopes are not taken by all of the APIs.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// identify finds the process's credentials. On a machine that has none and is not Google's, the library looks for the metadata
// server for some seconds, the first time.
func (l *Lister) identify() (*identity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.identity != nil {
		return l.identity, nil
	}
	found, err := credentials.DetectDefault(&credentials.DetectOptions{
		Scopes:              []string{scope},
		CredentialsFile:     l.cfg.CredentialsFile,
		Client:              l.http,
		EarlyTokenRefresh:   5 * time.Minute, // a listing of many pages must not outlive its token
		DisableAsyncRefresh: true,            // no goroutine that nobody waits for
	})
	if err != nil {
		return nil, fmt.Errorf("find credentials for Google Cloud: %w: %w", poll.ErrCredentials, err)
	}
	var file struct {
		Email string `json:"client_email"`
	}
	_ = json.Unmarshal(found.JSON(), &file) // other kinds of credentials have no such field, or no file
	l.identity = &identity{found, file.Email}
	return l.identity, nil
}

// forget drops credentials that turned out to be of no use, so that the next listing reads them anew.
func (l *Lister) forget(id *identity, err error) {
	if !errors.Is(err, poll.ErrCredentials) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.identity == id {
		l.identity = nil
	}
}

// token returns a token, or an error with poll.ErrCredentials in its tree.
func (id *identity) token(ctx context.Context) (*auth.Token, error) {
	t, err := id.Token(ctx)
	if ended := ctx.Err(); ended != nil {
		return nil, poll.Halt(fmt.Errorf("get a token for Google Cloud: %w", ended))
	}
	if err != nil {
		// Its text only: it may be a whole page of HTML.
		return nil, poll.Halt(fmt.Errorf("get a token for Google Cloud: %w: %s", poll.ErrCredentials, oneLine(err.Error())))
	}
	return t, nil
}

// call makes one request when the budget allows it, and reads the answer into answer.
func (v *visit) call(ctx context.Context, op *operation, path string, query url.Values, answer any) error {
	if err := v.Wait(ctx); err != nil {
		return err
	}
	token, err := v.identity.token(ctx)
	if err != nil {
		return err
	}
	query.Set("fields", op.fields)
	query.Set("prettyPrint", "false")
	base := strings.TrimSuffix(strings.ReplaceAll(v.cfg.Endpoint, "{service}", op.service), "/")
	req, err := http.NewRequestWithContext(ctx, op.method, base+path+"?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Value)
	req.Header.Set("User-Agent", "tradewind")
	if project, err := v.identity.QuotaProjectID(ctx); err == nil && project != "" {
		req.Header.Set("X-Goog-User-Project", project) // without it some APIs refuse a person's own credentials
	}
	resp, err := v.http.Do(req)
	if err != nil {
		return ended(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrBody)) // what is cut off or missing is not needed: the status speaks
		return ended(ctx, v.refused(op, resp, body))
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ended(ctx, fmt.Errorf("read the answer: %w", err))
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// ended returns err, as the end of the listing when the context is what has ended.
func ended(ctx context.Context, err error) error {
	if over := ctx.Err(); over != nil {
		return poll.Halt(fmt.Errorf("%w: %w", over, err))
	}
	return err
}

// asked returns a query with a token, if there is one.
func asked(size, most, token string) url.Values {
	q := url.Values{size: {most}}
	if token != "" {
		q.Set("pageToken", token)
	}
	return q
}
