package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
)

// TestPresumed: the configuration counts before the environment, and variables of another cloud, or of two, say nothing.
func TestPresumed(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  config.Location
		env  map[string]string
		want admin.Location
		zone string
	}{
		{name: "nothing"},
		{name: "environment", env: map[string]string{"AWS_DEFAULT_REGION": "eu-west-1"}, want: admin.Location{Provider: "aws", Region: "eu-west-1"}},
		{name: "its order", env: map[string]string{"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-1"},
			want: admin.Location{Provider: "aws", Region: "eu-west-2"}},
		{name: "with a zone", env: map[string]string{"CLOUDSDK_COMPUTE_REGION": "europe-west1", "CLOUDSDK_COMPUTE_ZONE": "europe-west1-b"},
			want: admin.Location{Provider: "gcp", Region: "europe-west1", Zone: "europe-west1-b"}, zone: "europe-west1-b"},
		{name: "two clouds", env: map[string]string{"AWS_REGION": "eu-west-1", "AZURE_LOCATION": "westeurope"}},
		{name: "another cloud", cfg: config.Location{Provider: "gcp"}, env: map[string]string{"AWS_REGION": "eu-west-1"},
			want: admin.Location{Provider: "gcp"}},
		{name: "another region", cfg: config.Location{Region: "eu-west-3"}, env: map[string]string{"AWS_REGION": "eu-west-1"},
			want: admin.Location{Region: "eu-west-3"}},
		{name: "no text", env: map[string]string{"AWS_REGION": "eu west"}},
		{name: "configuration", cfg: config.Location{Provider: "rack", Zone: "room-7", Instance: "gw-1"},
			want: admin.Location{Provider: "rack", Zone: "room-7", Instance: "gw-1"}, zone: "room-7"},
		{name: "a zone's ID", cfg: config.Location{Provider: "aws", Zone: "eu-west-1b", ZoneID: "euw1-az2"},
			want: admin.Location{Provider: "aws", Zone: "eu-west-1b", ZoneID: "euw1-az2"}, zone: "euw1-az2"},
	} {
		if got := presumed(c.cfg, func(name string) string { return c.env[name] }); got.Location != c.want || got.local != c.zone {
			t.Errorf("%s: presumed %+v, want %+v and %q", c.name, got, c.want, c.zone)
		}
	}
}

func TestMergeKeepsAZoneAndItsIDTogether(t *testing.T) {
	found := admin.Location{Provider: "aws", Region: "eu-west-1", Zone: "eu-west-1b", ZoneID: "euw1-az2", Instance: "i-1"}
	for zone, want := range map[string]string{"": "eu-west-1b euw1-az2", "eu-west-1b": "eu-west-1b euw1-az2", "eu-west-1c": "eu-west-1c "} {
		got := merge(admin.Location{Zone: zone}, found)
		if got.Zone+" "+got.ZoneID != want || got.Instance != "i-1" {
			t.Errorf("with zone %q in the configuration it is %+v, want %s", zone, got, want)
		}
	}
}

func TestWhatWasSaidCountsBeforeTheMetadata(t *testing.T) {
	found := admin.Location{Provider: "aws", Region: "eu-west-1", Zone: "eu-west-1b", ZoneID: "euw1-az2", Instance: "i-1", Account: "1"}
	for _, c := range []struct {
		said, want admin.Location
		agreed     bool
	}{
		{admin.Location{}, found, true},
		{admin.Location{Provider: "aws", Region: "eu-west-1"}, found, true},
		{admin.Location{Provider: "aws", Region: "us-east-1"}, admin.Location{Provider: "aws", Region: "us-east-1", Instance: "i-1"}, false},
		{admin.Location{Provider: "gcp"}, admin.Location{Provider: "gcp", Instance: "i-1"}, false},
	} {
		if got, agreed := reconcile(c.said, found); got != c.want || agreed != c.agreed {
			t.Errorf("said %+v: %+v, %v", c.said, got, agreed)
		}
	}
}

func TestTheFirstGoodAnswerWins(t *testing.T) {
	type locate = func(context.Context) (admin.Location, error)
	after := func(d time.Duration, l admin.Location, err error) locate {
		return func(ctx context.Context) (admin.Location, error) {
			select {
			case <-ctx.Done():
				return admin.Location{}, ctx.Err()
			case <-time.After(d):
				return l, err
			}
		}
	}
	here := admin.Location{Provider: "gcp", Zone: "europe-west1-b"}
	for _, c := range []struct {
		name string
		ask  map[string]locate
		want admin.Location
		took time.Duration
	}{
		{"one answers", map[string]locate{"aws": after(time.Hour, here, nil), "gcp": after(time.Second, here, nil),
			"azure": after(time.Millisecond, here, errors.New("404"))}, here, time.Second},
		{"nobody answers", map[string]locate{"aws": after(time.Hour, here, nil), "gcp": after(time.Hour, here, nil)}, admin.Location{}, locateWithin},
		{"nobody knows", map[string]locate{"aws": after(time.Millisecond, here, errors.New("404"))}, admin.Location{}, time.Millisecond},
		{"no text", map[string]locate{"aws": after(0, admin.Location{Zone: "a\x1b[2J"}, nil), "gcp": after(time.Second, here, nil)}, here, time.Second},
		{"too long", map[string]locate{"aws": after(0, admin.Location{Zone: strings.Repeat("z", 64)}, nil)}, admin.Location{}, 0},
		{"nobody to ask", nil, admin.Location{}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			got, err := askAll(t.Context(), c.ask)
			if got != c.want || err != nil && got != (admin.Location{}) || time.Since(began) != c.took {
				t.Errorf("%s: %+v, %v after %v; want %+v after %v", c.name, got, err, time.Since(began), c.want, c.took)
			}
		})
	}
}

// blackHole accepts connections and never answers. heard is closed with the first.
func blackHole(t *testing.T) (address string, heard chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard = make(chan struct{})
	var first sync.Once
	var all sync.WaitGroup
	all.Go(func() {
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			held = append(held, c)
			first.Do(func() { close(heard) })
		}
		for _, c := range held {
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String(), heard
}

const lookUp = "location {\n lookup = true\n}\n"

// TestSilentMetadataServicesHoldNothingUp: the gateway is ready before anybody is asked, and stops while they are still silent.
func TestSilentMetadataServicesHoldNothingUp(t *testing.T) {
	hole, heard := blackHole(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	silence(t, hole)
	began := time.Now()
	g := start(t, "a", t.TempDir(), lookUp)
	t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
	select {
	case <-heard:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was asked")
	}
	if s, _ := g.Status(t.Context(), nil); s.State != admin.StateReady || s.Location != (admin.Location{}) {
		t.Errorf("it is %s at %+v", s.State, s.Location)
	}
	if err := g.stop(); err != nil {
		t.Error(err)
	}
}

// silence sends all questions about where this process runs to address.
func silence(t *testing.T, address string) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+address)
	t.Setenv("ECS_CONTAINER_METADATA_URI_V4", "")
	t.Setenv("GCE_METADATA_HOST", address)
	t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://"+address)
	for _, names := range environment {
		for _, name := range append(names.region, names.zone...) {
			t.Setenv(name, "")
		}
	}
}

// TestLocatedByEachCloud: whichever cloud answers, the status says where the gateway is, what the configuration says stays, and
// instances that say no zone are in the gateway's.
func TestLocatedByEachCloud(t *testing.T) {
	hole, _ := blackHole(t)
	amazon := httptest.NewServer(awstest.New(awstest.Inventory{Self: awstest.Self{Instance: "i-1"},
		Instances: []awstest.Instance{{ID: "i-1", Zone: "eu-west-1b", ZoneID: "euw1-az2", IP: "192.0.2.1"}}}))
	defer amazon.Close()
	google := httptest.NewServer(gcptest.New(gcptest.Inventory{Self: gcptest.Self{Instance: "gw-1"},
		Instances: []gcptest.Instance{{Name: "gw-1", Zone: "europe-west1-b", IP: "192.0.2.2"}}}))
	defer google.Close()
	azure := httptest.NewServer(azuretest.New(azuretest.Inventory{Self: "gw-1", Machines: []azuretest.Machine{{Name: "gw-1", Zone: "2", IP: "192.0.2.3"}}}))
	defer azure.Close()
	for _, c := range []struct {
		name, variable, value, location string
		want                            admin.Location // but for the instance and the account
		zone                            string
	}{
		{"aws", "AWS_EC2_METADATA_SERVICE_ENDPOINT", amazon.URL, lookUp,
			admin.Location{Provider: "aws", Region: "eu-west-1", Zone: "eu-west-1b", ZoneID: "euw1-az2"}, "euw1-az2"},
		{"gcp", "GCE_METADATA_HOST", strings.TrimPrefix(google.URL, "http://"), lookUp,
			admin.Location{Provider: "gcp", Region: "europe-west1", Zone: "europe-west1-b", ZoneID: "europe-west1-b"}, "europe-west1-b"},
		{"azure", "AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.URL, lookUp,
			admin.Location{Provider: "azure", Region: "westeurope", Zone: "westeurope-2"}, "westeurope-2"},
		{"configuration", "AWS_EC2_METADATA_SERVICE_ENDPOINT", amazon.URL, "location {\n zone = \"room-7\"\n}\n",
			admin.Location{Provider: "aws", Region: "eu-west-1", Zone: "room-7"}, "room-7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			silence(t, hole)
			t.Setenv(c.variable, c.value)
			g := start(t, "a", t.TempDir(), c.location)
			g.apply("service \"web\" {\n instance \"1\" { address = \"127.0.0.1:8080\" }\n}\n")
			g.until("located", func() error {
				s, _ := g.Status(t.Context(), nil)
				got := s.Location
				if got.Instance == "" || got.Account == "" {
					return fmt.Errorf("it is at %+v", got)
				}
				if c.name == "azure" {
					got.ZoneID = ""
				}
				got.Instance, got.Account = "", ""
				if got != c.want {
					return fmt.Errorf("it is at %+v, want %+v", got, c.want)
				}
				svc := g.reg.Catalog().Service(federation.ServiceName{Namespace: "default", Name: "web"})
				if svc == nil || svc.Instances[0].Locality.Zone != c.zone {
					return fmt.Errorf("the service is %+v, want zone %s", svc, c.zone)
				}
				return nil
			})
		})
	}
}
