package agent

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
)

const clouds = `provider "aws" "amazon" {
  regions  = [%q]
  kinds    = ["ec2"]
  endpoint = %q
  discover {
    service = "web"
  }
}
provider "gcp" "google" {
  projects         = [%q]
  kinds            = ["instances"]
  credentials_file = %q
  endpoint         = %q
  discover {
    service = "web"
  }
}
provider "azure" "azure" {
  subscriptions = [%q]
  kinds         = ["vm"]
  endpoint      = %q
  discover {
    service = "web"
  }
}
provider "consul" "corp" {
  address  = "127.0.0.1:1"
  services = ["web"]
  discover {
    service = "web"
  }
}
`

// TestOneServiceInThreeClouds: what carries the tag in any of the clouds is an instance, what does not is none, and a registry that
// cannot be reached takes nothing away.
func TestOneServiceInThreeClouds(t *testing.T) {
	tags := map[string]string{"mesh/service": "web", "mesh/port": "8080"}
	labels := map[string]string{"mesh-service": "web", "mesh-port": "8080"}
	amazon := httptest.NewServer(awstest.New(awstest.Inventory{Instances: []awstest.Instance{
		{ID: "i-1", VPC: "vpc-1", IP: "192.0.2.1", Tags: tags}, {ID: "i-2", VPC: "vpc-1", IP: "192.0.2.2"},
		{ID: "i-3", VPC: "vpc-1", IP: "192.0.2.3", Tags: map[string]string{"mesh/service": "shop/api", "mesh/port": "80"}},
	}}))
	defer amazon.Close()
	google := httptest.NewServer(gcptest.New(gcptest.Inventory{Instances: []gcptest.Instance{
		{Name: "web-1", IP: "198.51.100.1", Labels: labels}, {Name: "other-1", IP: "198.51.100.2"},
	}}))
	defer google.Close()
	azure := httptest.NewServer(azuretest.New(azuretest.Inventory{Machines: []azuretest.Machine{
		{Name: "web-1", IP: "203.0.113.1", Tags: labels}, {Name: "other-1", IP: "203.0.113.2"},
	}}))
	defer azure.Close()
	for k, v := range azuretest.Environment(azure.URL) {
		t.Setenv(k, v)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "example")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	key, err := gcptest.WriteCredentials(t.TempDir(), google.URL)
	if err != nil {
		t.Fatal(err)
	}
	g := start(t, "a", t.TempDir(), fmt.Sprintf(clouds, awstest.Region, amazon.URL, gcptest.Project, key, google.URL, azuretest.Subscription, azure.URL))
	g.until("the tagged machines of all three clouds are instances", func() error {
		var got []string
		for _, i := range g.reg.Instances() {
			got = append(got, i.Instance.Service.String()+" "+i.Instance.Address.String())
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != "web 192.0.2.1:8080, web 198.51.100.1:8080, web 203.0.113.1:8080" {
			return errors.New(s)
		}
		return nil
	})
	e, err := g.Explain(t.Context(), &admin.ExplainRequest{Source: "web", Destination: "shop/api"})
	if err != nil || len(e.LeftOut) != 1 || e.LeftOut[0].Provider != "amazon" || !strings.HasSuffix(e.LeftOut[0].ID, "instance/i-3") ||
		!strings.Contains(e.LeftOut[0].Why, `no discover rule has a pattern for service "api"`) {
		t.Errorf("what is left out of shop/api: %+v, %v", e, err)
	}
}
