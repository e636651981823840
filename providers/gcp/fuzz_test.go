package gcp

import (
	"encoding/json"
	"net/http"
	"os"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// FuzzAnswers: whatever an API answers, it is read or refused.
func FuzzAnswers(f *testing.F) {
	text, err := os.ReadFile("gcptest/testdata/exchanges.json")
	if err != nil {
		f.Fatal(err)
	}
	var all []exchange
	if err := json.Unmarshal(text, &all); err != nil {
		f.Fatal(err)
	}
	for _, e := range all {
		f.Add([]byte(e.Answer))
	}
	f.Add([]byte(`{"error":{"code":403,"message":"Required 'a.b.c' permission","errors":[{"reason":"forbidden"}],` +
		`"details":[{"retryDelay":"1e9s"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		cfg := Config{Projects: []string{gcptest.Project}, AddressType: PrivateV4}
		v := &visit{cfg: &cfg, project: gcptest.Project, identity: &identity{}}
		var page aggregate[zonePart]
		if json.Unmarshal(body, &page) == nil {
			v.miss("instances", page.gaps(&cfg, func(p zonePart) warning { return p.Warning }))
			for zone, part := range page.Items {
				for _, raw := range part.Instances {
					_ = v.addInstance(lastPart(zone), raw)
				}
			}
		}
		_, _, _ = v.addInstance(gcptest.Zone, body), v.addService(body), v.addEndpoint(gcptest.Region, &entry{Name: "s"}, body)
		var g group
		var m member
		_, _ = json.Unmarshal(body, &g), json.Unmarshal(body, &m)
		v.mergeMember(&g, &m)
		var c gkeCluster
		_ = json.Unmarshal(body, &c)
		_, _ = c.cluster()
		for _, r := range v.Found {
			if r.ID == "" || r.Kind == "" || len(r.Addresses) == 0 && r.Host == "" || len(r.Addresses) > poll.MaxAddresses {
				t.Errorf("record %+v lacks something", r)
			}
		}
		if v.refused(&listInstances, &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}}, body) == nil {
			t.Error("a refusal is no error")
		}
	})
}
