package agent

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
)

// apiServer is as much of a Kubernetes API server as the provider asks: one Service with one endpoint, for whoever has a token of the
// cloud that the cluster is in.
type apiServer struct {
	*httptest.Server
	ca     string
	mu     sync.Mutex
	tokens map[string]bool // that came
}

func newAPIServer(t *testing.T, address, token string) *apiServer {
	s := &apiServer{tokens: map[string]bool{}}
	type m = map[string]any
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		s.mu.Lock()
		s.tokens[given] = true
		s.mu.Unlock()
		var items []m
		switch {
		case !strings.HasPrefix(given, token):
			w.WriteHeader(http.StatusUnauthorized)
			return
		case r.URL.Query().Get("watch") != "":
			<-r.Context().Done() // nothing changes
			return
		case strings.HasSuffix(r.URL.Path, "/services"):
			items = []m{{"metadata": m{"namespace": "default", "name": "web", "annotations": m{"mesh/service": "web"}}}}
		case strings.HasSuffix(r.URL.Path, "/endpointslices"):
			items = []m{{"metadata": m{"namespace": "default", "name": "web-1", "labels": m{"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
				"ports": []m{{"name": "", "port": 8080, "protocol": "TCP"}}, "endpoints": []m{{"addresses": []string{address},
					"conditions": m{"ready": true, "serving": true}, "targetRef": m{"kind": "Pod", "namespace": "default", "name": "web-1"}}}}}
		}
		_ = json.NewEncoder(w).Encode(m{"metadata": m{"resourceVersion": "1"}, "items": items})
	}))
	t.Cleanup(s.Close)
	s.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	return s
}

const clustersOfThreeClouds = `provider "aws" "amazon" {
  regions  = [%q]
  kinds    = []
  endpoint = %q
}
provider "gcp" "google" {
  projects         = [%q]
  kinds            = []
  credentials_file = %q
  endpoint         = %q
}
provider "azure" "azure" {
  subscriptions = [%q]
  kinds         = []
  endpoint      = %q
}
provider "kubernetes" "all" {
  clusters_from = ["amazon", "google", "azure"]
  discover {
    service = "web"
  }
}
`

// TestClustersOfThreeClouds: the clusters that the clouds list are followed, each with a token of its own cloud; one that is deleted takes
// its endpoints along, and one that merely is not listed does not.
func TestClustersOfThreeClouds(t *testing.T) {
	eks, gke := newAPIServer(t, "192.0.2.1", "k8s-aws-v1."), newAPIServer(t, "192.0.2.2", "ya29.")
	aks := newAPIServer(t, "192.0.2.3", "azuretest-token")
	inAmazon := awstest.New(awstest.Inventory{Kubernetes: []awstest.Kubernetes{{Name: "prod", Endpoint: eks.URL, CA: eks.ca}}})
	amazon := httptest.NewServer(inAmazon)
	defer amazon.Close()
	inGoogle := gcptest.New(gcptest.Inventory{Clusters: []gcptest.Cluster{{Location: "europe-west1-b", Name: "prod",
		Endpoint: strings.TrimPrefix(gke.URL, "https://"), CA: gke.ca}}})
	google := httptest.NewServer(inGoogle)
	defer google.Close()
	azure := httptest.NewServer(azuretest.New(azuretest.Inventory{Clusters: []azuretest.Cluster{{Name: "prod", Server: aks.URL, CA: []byte(aks.ca)}}}))
	defer azure.Close()
	key := credentials(t, google.URL, azure.URL)
	g := start(t, "a", t.TempDir(), fmt.Sprintf(clustersOfThreeClouds, awstest.Region, amazon.URL, gcptest.Project, key, google.URL,
		azuretest.Subscription, azure.URL))
	see := func(want ...string) func() error {
		return func() error {
			var got []string
			for _, i := range g.reg.Instances() {
				got = append(got, i.Instance.Address.Addr().String())
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				return fmt.Errorf("there are %v, want %v", got, want)
			}
			return nil
		}
	}
	g.until("the endpoints of three clusters", see("192.0.2.1", "192.0.2.2", "192.0.2.3"))

	// Google refuses to list, and Amazon's cluster is gone: what one of them does not say must not cost the other its clusters, and a
	// list that lacks a part is no news of anybody's end.
	inGoogle.Change(func(s *gcptest.Server, _ *gcptest.Inventory) {
		s.Fail = func(gcptest.Request) *gcptest.Failure { return &gcptest.Failure{Fault: gcptest.Deny} }
	})
	inAmazon.Set(awstest.Inventory{})
	sync := func() {
		t.Helper()
		if _, err := g.SyncProvider(t.Context(), &admin.ProviderRequest{Name: "all"}); err != nil {
			t.Log(err) // of a cluster that is gone
		}
	}
	sync()
	if err := see("192.0.2.1", "192.0.2.2", "192.0.2.3")(); err != nil {
		t.Error(err)
	}
	inGoogle.Change(func(s *gcptest.Server, _ *gcptest.Inventory) { s.Fail = nil })
	sync()
	g.until("the endpoints of the two that are left", see("192.0.2.2", "192.0.2.3"))
	for _, s := range []*apiServer{eks, gke, aks} {
		s.mu.Lock()
		if len(s.tokens) != 1 {
			t.Errorf("%d tokens came to one cluster, want the one that is good", len(s.tokens))
		}
		s.mu.Unlock()
	}
}

// credentials makes the doubles at the URLs the clouds that this process is known to.
func credentials(t *testing.T, google, azure string) (key string) {
	t.Helper()
	for k, v := range azuretest.Environment(azure) {
		t.Setenv(k, v)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "example")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	key, err := gcptest.WriteCredentials(t.TempDir(), google)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestWhatTheGatewayWasBuiltWithout: whoever wants a cloud that is not in this gateway is told so, by name, before anything has changed.
func TestWhatTheGatewayWasBuiltWithout(t *testing.T) {
	aws := cloudsByKind["aws"]
	cloudsByKind["aws"] = nil // as with the build tag
	defer func() { cloudsByKind["aws"] = aws }()
	for text, want := range map[string]string{
		"peer \"b\" {\n retry_join = [\"provider=aws tag_key=role\"]\n}\n": "retry_join",
		"provider \"aws\" \"amazon\" {\n regions = [\"eu-west-1\"]\n kinds = []\n}\nprovider \"kubernetes\" \"all\" {\n " +
			"clusters_from = [\"amazon\"]\n discover {\n service = \"*\"\n }\n}\n": "clusters_from \"amazon\"",
	} {
		g := &gateway{t: t, path: filepath.Join(t.TempDir(), "gateway.hcl")}
		g.write("a", text)
		cfg, err := config.Load(g.path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = New(t.Context(), Options{Config: cfg, Path: g.path, Out: io.Discard, Err: io.Discard})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "without the tag no_aws") {
			t.Errorf("%s\ngives %v", text, err)
		}
	}
}
