package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// TestDemo tells the whole story to a user whose environment is full of credentials and proxies: none of them is used.
func TestDemo(t *testing.T) {
	var asked atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		t.Errorf("a request left the demo: %s %s", r.Method, r.URL)
	}))
	defer trap.Close()
	elsewhere := trap.Listener.Addr().String()
	temp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(world.Binaries(t), "tradewind"), "demo", "--once", "-o", "json")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "HTTP_PROXY="+trap.URL, "HTTPS_PROXY="+trap.URL, "ALL_PROXY="+trap.URL,
		"AWS_PROFILE=production", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=example", "AWS_ENDPOINT_URL="+trap.URL,
		"AWS_EC2_METADATA_SERVICE_ENDPOINT="+trap.URL, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+trap.URL,
		"GCE_METADATA_HOST="+elsewhere, "GOOGLE_APPLICATION_CREDENTIALS=/nowhere", "IDENTITY_ENDPOINT="+trap.URL, "IDENTITY_HEADER=example",
		"AZURE_AUTHORITY_HOST="+trap.URL, "AZURE_CLIENT_ID=example", "AZURE_TENANT_ID=example", "AZURE_CLIENT_SECRET=example")
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run() // it also fails when a step takes too long, of which more below
	t.Logf("%s%s", said.String(), out.String())
	var result struct {
		FirstTrafficMS int64 `json:"first_traffic_ms"`
		Steps          []struct {
			Name        string
			OK          bool
			RecoveredMS *float64 `json:"recovered_ms"`
			ReachedMS   *float64 `json:"reached_ms"`
			WithdrawnMS *float64 `json:"withdrawn_ms"`
			DrainedMS   *float64 `json:"drained_ms"`
			ReturnedMS  *float64 `json:"returned_ms"`
			Shares      []struct {
				Region   string
				Requests int
				Asked    float64 `json:"asked_percent"`
				Percent  float64
				Least    float64 `json:"least_percent"`
				Most     float64 `json:"most_percent"`
			}
			Failed  int
			Retried int
		}
	}
	if e := json.Unmarshal([]byte(out.String()), &result); e != nil {
		t.Fatalf("the result: %v; the demo: %v", e, err)
	}
	var names []string
	for _, s := range result.Steps {
		names = append(names, s.Name)
		if s.Failed > 0 {
			t.Errorf("%s: %d requests failed", s.Name, s.Failed)
		}
		if (s.Name == "start a machine") != (s.ReachedMS != nil) || (s.Name == "terminate it") != (s.WithdrawnMS != nil) {
			t.Errorf("%s: reached %v, withdrawn %v", s.Name, s.ReachedMS, s.WithdrawnMS)
		}
		if (s.Name == "drain azure-westeurope") != (s.DrainedMS != nil) || (s.Name == "return azure-westeurope") != (s.ReturnedMS != nil) {
			t.Errorf("%s: drained %v, returned %v", s.Name, s.DrainedMS, s.ReturnedMS)
		}
		if splits := strings.HasPrefix(s.Name, "canary") || s.ReturnedMS != nil; splits != (len(s.Shares) == 2) {
			t.Errorf("%s: shares %+v", s.Name, s.Shares)
		}
		for _, share := range s.Shares {
			within := share.Least <= min(share.Percent, share.Asked) && share.Most >= max(share.Percent, share.Asked)
			if share.Requests == 0 || !within {
				t.Errorf("%s: share %+v", s.Name, share)
			}
		}
		late := s.RecoveredMS != nil && *s.RecoveredMS > 1000 || s.Name == "first traffic" && result.FirstTrafficMS >= 5000 ||
			s.Name == "steady load" || s.Retried > 0
		if !s.OK && !late { // what a busy machine makes late is for whoever reads the figures
			t.Errorf("%s did not hold", s.Name)
		}
	}
	want := []string{"start", "discover", "federate", "first traffic", "steady load", "canary 90/10", "canary 50/50",
		"drain azure-westeurope", "start a machine", "terminate it", "return azure-westeurope",
		"kill every instance in aws-us-east-1", "kill the gateway of azure-westeurope", "heal", "deny batch"}
	if !slices.Equal(names, want) {
		t.Errorf("the steps are %q; the demo: %v", names, err)
	}
	if !strings.Contains(said.String(), "local doubles") {
		t.Error("it is not said that the clouds are doubles")
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests left the demo", n)
	}
}
