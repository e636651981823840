package azure

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph/fake"
	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// official makes the lister speak to a fake of the SDK's own authors.
func official(t *testing.T, l *Lister, answer func(armresourcegraph.QueryRequest) (*armresourcegraph.QueryResponse, int)) {
	t.Helper()
	server := &fake.Server{Resources: func(_ context.Context, q armresourcegraph.QueryRequest, _ *armresourcegraph.ClientResourcesOptions) (
		resp azfake.Responder[armresourcegraph.ClientResourcesResponse], fail azfake.ErrorResponder) {
		if out, status := answer(q); out != nil {
			resp.SetResponse(http.StatusOK, armresourcegraph.ClientResourcesResponse{QueryResponse: *out}, nil)
		} else {
			fail.SetResponseError(status, http.StatusText(status))
		}
		return resp, fail
	}}
	options := azcore.ClientOptions{Transport: fake.NewServerTransport(server), Retry: policy.RetryOptions{MaxRetries: -1}}
	c, err := newClients(&marked{&azfake.TokenCredential{}}, &arm.ClientOptions{DisableRPRegistration: true, ClientOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	l.clients = c
}

// TestOfficialFake: pages and errors as the SDK's own fake serves them.
func TestOfficialFake(t *testing.T) {
	l := open(t, Config{Kinds: []string{KindVM}})
	machine := func(name, ip string) map[string]any {
		return map[string]any{"id": subscriptionPath + "vm/" + name, "power": "PowerState/running", "nics": []any{map[string]any{"primary": true,
			"configurations": []any{map[string]any{"properties": map[string]any{"primary": true, "privateIPAddress": ip}}}}}}
	}
	status := 0
	official(t, l, func(q armresourcegraph.QueryRequest) (*armresourcegraph.QueryResponse, int) {
		out := &armresourcegraph.QueryResponse{Count: to.Ptr(int64(1)), TotalRecords: to.Ptr(int64(2)),
			ResultTruncated: to.Ptr(armresourcegraph.ResultTruncatedFalse)}
		switch {
		case status != 0:
			return nil, status
		case *q.Options.Top != pageSize || *q.Options.ResultFormat != armresourcegraph.ResultFormatObjectArray ||
			*q.Subscriptions[0] != azuretest.Subscription:
			return nil, http.StatusTeapot
		case q.Options.SkipToken == nil:
			out.Data, out.SkipToken = []any{machine("a", "10.0.0.1")}, to.Ptr("more")
		case *q.Options.SkipToken == "more":
			out.Data = []any{machine("b", "10.0.0.2")}
		}
		return out, 0
	})
	got, err := l.List(t.Context(), l.scope(KindVM), nil)
	if err != nil || len(got.Records) != 2 || got.Calls != 2 || got.Partial != nil {
		t.Fatalf("the listing is %+v, %v", got, err)
	}
	var throttled *poll.ThrottledError
	var denied *poll.DeniedError
	for code, is := range map[int]func(error) bool{
		http.StatusTooManyRequests:     func(err error) bool { return errors.As(err, &throttled) },
		http.StatusForbidden:           func(err error) bool { return errors.As(err, &denied) && denied.Action == actionGraph },
		http.StatusInternalServerError: func(err error) bool { return strings.Contains(err.Error(), "(500)") },
		http.StatusUnauthorized:        func(err error) bool { return errors.Is(err, poll.ErrCredentials) }, // last of a client
	} {
		status = code
		clients := l.clients
		if _, err := l.List(t.Context(), l.scope(KindVM), nil); err == nil || !is(err) {
			t.Errorf("status %d gives %v", code, err)
		}
		l.clients = clients
	}
}

// post returns the body of an answer of the double.
func post(t *testing.T, method, url, body string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer azuretest-token")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s: %s, %v", method, url, resp.Status, raw, err)
	}
	return raw
}

// TestDoubleSpeaksAsTheOfficialFakes: what the double answers is, field by field, what the SDK's models and fake make of it. A field that
// they do not know would be lost on the way.
func TestDoubleSpeaksAsTheOfficialFakes(t *testing.T) {
	_, url := serve(t, azuretest.Inventory{Machines: []azuretest.Machine{{Name: "a", IP: "10.0.0.1"}, {Name: "b", IP: "10.0.0.2", Zone: "1"}},
		ScaleSets: []azuretest.ScaleSet{{Name: "s", Instances: []azuretest.Machine{{Name: "0", IP: "10.0.0.3", IPv6: "fd00::3"}}}},
		Clusters:  []azuretest.Cluster{{Name: "c", CA: []byte("x")}}})
	same := func(what string, ours, theirs []byte) {
		t.Helper()
		var a, b any
		if err := errors.Join(json.Unmarshal(ours, &a), json.Unmarshal(theirs, &b)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s (-official +double):\n%s", what, diff)
		}
	}

	cfg := Config{}
	kql, err := cfg.kql(KindVM)
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(armresourcegraph.QueryRequest{Query: &kql, Subscriptions: []*string{to.Ptr(azuretest.Subscription)},
		Options: &armresourcegraph.QueryRequestOptions{Top: to.Ptr(int32(1))}})
	if err != nil {
		t.Fatal(err)
	}
	ours := post(t, http.MethodPost, url+"/providers/Microsoft.ResourceGraph/resources?api-version=2024-04-01", string(request))
	var page armresourcegraph.QueryResponse
	if err := json.Unmarshal(ours, &page); err != nil || page.SkipToken == nil || len(page.Data.([]any)) != 1 {
		t.Fatalf("%s: %v", ours, err)
	}
	l := open(t, Config{Kinds: []string{KindVM}})
	official(t, l, func(armresourcegraph.QueryRequest) (*armresourcegraph.QueryResponse, int) { return &page, 0 })
	var resp *http.Response
	if _, err := l.clients.query(policy.WithCaptureResponse(t.Context(), &resp), armresourcegraph.QueryRequest{Query: &kql}, nil); err != nil {
		t.Fatal(err)
	}
	theirs, err := runtime.Payload(resp)
	if err != nil {
		t.Fatal(err)
	}
	same("Resource Graph", ours, theirs)

	path := url + "/subscriptions/" + azuretest.Subscription + "/resourceGroups/shop/providers/"
	ours = post(t, http.MethodGet, path+"microsoft.Compute/virtualMachineScaleSets/s/networkInterfaces", "")
	var nics armnetwork.InterfaceListResult
	theirs, err = through(ours, &nics)
	if err != nil {
		t.Fatal(err)
	}
	same("interfaces", ours, theirs)
	ours = post(t, http.MethodPost, path+"Microsoft.ContainerService/managedClusters/c/listClusterUserCredential", "")
	var configs armcontainerservice.CredentialResults
	theirs, err = through(ours, &configs)
	if err != nil {
		t.Fatal(err)
	}
	same("credentials", ours, theirs)
}

// through writes what was read into a model of the SDK.
func through(raw []byte, model any) ([]byte, error) {
	if err := json.Unmarshal(raw, model); err != nil {
		return nil, err
	}
	return json.Marshal(model)
}

// FuzzAnswer: whatever Resource Graph answers, there is a listing or an error, and each record has an ID.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`[{"id":"/a","power":"PowerState/running","zones":["1"],"location":"x",` +
		`"nics":[{"configurations":[{"properties":{"privateIPAddress":"10.0.0.1"}}]}]}]`))
	f.Add([]byte(`[{"id":"/a","fqdn":"x","transport":"tcp","exposed":8080,"address":"10.0.0.1"},{"id":7},[],null]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var data any
		if json.Unmarshal(raw, &data) != nil {
			return
		}
		for _, kind := range []string{KindVM, KindContainerApp} {
			l, err := New(Config{Subscriptions: []string{azuretest.Subscription}, Kinds: []string{kind}})
			if err != nil {
				t.Fatal(err)
			}
			l.clients = &clients{query: func(_ context.Context, _ armresourcegraph.QueryRequest, _ *armresourcegraph.ClientResourcesOptions) (
				out armresourcegraph.ClientResourcesResponse, _ error) {
				out.Data = data
				return out, nil
			}}
			got, err := l.List(t.Context(), l.scope(kind), nil)
			if err != nil {
				continue
			}
			for _, r := range got.Records {
				if r.ID == "" || len(r.Addresses) == 0 && r.Host == "" || len(r.Addresses) > poll.MaxAddresses {
					t.Errorf("%s gives record %+v", raw, r)
				}
			}
		}
	})
}
