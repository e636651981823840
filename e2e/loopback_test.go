package e2e

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// A station is a region on loopback with a client of its admin API, for a test in Go.
type station struct {
	*world.Loopback
	client *admin.Client
}

// stations starts a gateway for each name, joins all to the first, and ends them with the test.
func stations(t *testing.T, names ...string) []station {
	t.Helper()
	bin, dir := world.Binaries(t), t.TempDir()
	var all []station
	for _, name := range names {
		l, err := world.NewLoopback(bin, filepath.Join(dir, name), name, "")
		if err != nil {
			t.Fatal(err)
		}
		s := station{l, l.Client()}
		t.Cleanup(func() {
			s.client.Close()
			s.Kill()
			if t.Failed() {
				t.Log(s.LastWords())
			}
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(all) > 0 {
			if err := world.Join(t.Context(), all[0].client, s.client); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, s)
	}
	return all
}

// put applies resources; a failure ends the test.
func (s station) put(t *testing.T, specs map[federation.Key]federation.Spec) {
	t.Helper()
	var list []federation.Resource
	for key, spec := range specs {
		list = append(list, federation.Resource{Key: key, Spec: spec})
	}
	if _, err := s.client.ApplyResources(t.Context(), &admin.ChangeRequest{Owner: "test", Put: list}); err != nil {
		t.Fatal(err)
	}
}

// seen is how many healthy instances s sees in region of each service.
func (s station) seen(ctx context.Context, region string) (map[federation.ServiceName]uint32, error) {
	list, err := s.client.ListServices(ctx, &admin.ListServicesRequest{})
	if err != nil {
		return nil, err
	}
	out := map[federation.ServiceName]uint32{}
	for _, service := range list.Services {
		for _, home := range service.Homes {
			if string(home.Region) == region {
				out[service.Name] = home.Healthy
			}
		}
	}
	return out, nil
}
