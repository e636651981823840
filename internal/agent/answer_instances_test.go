package agent

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// TestWhatIsKnownOfAnInstance holds that an operator is told all that the registry knows: what each check said and when, who else
// reports an instance, and which records are not used.
func TestWhatIsKnownOfAnInstance(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no database", http.StatusServiceUnavailable)
	}))
	defer web.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "shop.json")
	content := fmt.Sprintf(`{"instances": [{"service": "web", "id": "1", "address": %q, "checks": [{"kind": "http"}]},
		{"service": "web", "id": "2", "address": "169.254.169.254:80"}]}`, web.Listener.Addr())
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t, "aws", dir, fmt.Sprintf("source \"file\" \"shop\" {\n path = %q\n}\nsource \"file\" \"none\" {\n path = %q\n}", file, file+"x"))
	ctx, name := t.Context(), federation.ServiceName{Namespace: "default", Name: "web"}
	one := func() (i admin.InstanceStatus) { // nothing yet before its file was read
		list, err := g.ListInstances(ctx, &admin.ListInstancesRequest{Service: name})
		if err != nil || len(list.Instances) > 1 {
			t.Fatalf("instances are %+v, %v", list, err)
		}
		if len(list.Instances) > 0 {
			i = list.Instances[0]
		}
		return i
	}
	g.until("the check to fail", func() error {
		if got := one().CheckStatus; len(got) != 1 || got[0].Health != federation.HealthFailing || got[0].Output != "no database" ||
			got[0].Reason != "answered 503 Service Unavailable" || time.Since(got[0].Last) > time.Minute {
			return fmt.Errorf("checks are %+v", got)
		}
		return nil
	})
	if !g.warnsOf(federation.CodeInstanceRefused) || !g.warnsOf(federation.CodeFileUnreadable) || g.warnsOf(federation.CodeInstanceConflict) {
		t.Error("check does not tell what the sources got wrong")
	}

	in := federation.Instance{ID: "1", Service: name, Address: netip.MustParseAddrPort("192.0.2.1:80")}
	for _, replaced := range []bool{false, true} {
		res, err := g.RegisterInstance(ctx, &admin.RegisterInstanceRequest{Instance: in, Token: "mine"})
		if err != nil || res.Replaced != replaced || len(res.Also) != 1 || res.Also[0] != "file:shop" || res.Instance.Health != federation.HealthPassing {
			t.Fatalf("registered as %+v, %v", res, err)
		}
	}
	g.until("the registration to be believed", func() error {
		if i := one(); i.Source != sourceAPI || len(i.Also) != 1 || i.Also[0] != "file:shop" || !i.Conflict {
			return fmt.Errorf("the instance is %+v", i)
		}
		return nil
	})
	if !g.warnsOf(federation.CodeInstanceConflict) {
		t.Error("check does not tell of the contradiction")
	}
	sources, err := g.ListSources(ctx, &admin.ListSourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources.Sources {
		got := fmt.Sprintf("%d %d %d '%s' %v", s.Instances, s.Skipped, s.Conflicts, s.Code, s.AgeSeconds > 0)
		want := map[federation.SourceName]string{sourceAPI: "1 0 0 '' false", "file:shop": "1 1 1 '' true", "file:none": "0 0 0 'TW-5031' false"}[s.Name]
		if want != "" && got != want {
			t.Errorf("source %s is %q, want %q", s.Name, got, want)
		}
	}
}

// TestHeartbeats holds what a workload can say of itself, and that only its owner can.
func TestHeartbeats(t *testing.T) {
	g := start(t, "aws", t.TempDir(), "")
	ctx, name := t.Context(), federation.ServiceName{Namespace: "default", Name: "batch"}
	in := federation.Instance{ID: "1", Service: name, Address: netip.MustParseAddrPort("192.0.2.1:80"), Checks: []federation.CheckSpec{
		{Kind: federation.CheckTTL, TTL: federation.Duration(time.Minute)}, {Kind: federation.CheckTTL, TTL: federation.Duration(time.Hour)}}}
	register := &admin.RegisterInstanceRequest{Instance: in, Token: "mine", DeregisterAfter: federation.Duration(time.Second)}
	if _, err := g.RegisterInstance(ctx, register); federation.CodeOf(err) != federation.CodeInstanceRefused {
		t.Errorf("removal after a second: %v", err)
	}
	register.DeregisterAfter = federation.Duration(time.Hour)
	if _, err := g.RegisterInstance(ctx, register); err != nil {
		t.Fatal(err)
	}
	if res, err := g.HeartbeatInstance(ctx, &admin.InstanceRequest{Service: name, ID: "1", Token: "mine"}); err != nil || res.Expires.IsZero() {
		t.Errorf("a heartbeat at once after the registration gives %+v, %v", res, err)
	}
	g.until("the registration to be seen", func() error {
		if list, err := g.ListInstances(ctx, &admin.ListInstancesRequest{}); err != nil || len(list.Instances) != 1 {
			return fmt.Errorf("%+v, %v", list, err)
		}
		return nil
	})
	for _, c := range []struct {
		beat   admin.InstanceRequest
		want   federation.Health
		output string
		code   federation.Code
	}{
		{beat: admin.InstanceRequest{Token: "mine", Health: federation.HealthFailing, Output: "queue is full"}, want: federation.HealthFailing,
			output: "queue is full"},
		{beat: admin.InstanceRequest{Token: "theirs"}, want: federation.HealthFailing, output: "queue is full", code: federation.CodeRegistrationOwner},
		{beat: admin.InstanceRequest{Token: "mine", Health: federation.HealthDraining}, want: federation.HealthDraining},
		{beat: admin.InstanceRequest{Token: "mine"}, want: federation.HealthPassing},
		{beat: admin.InstanceRequest{Force: true, Health: federation.HealthFailing}, want: federation.HealthFailing},
	} {
		c.beat.Service, c.beat.ID = name, "1"
		res, err := g.HeartbeatInstance(ctx, &c.beat)
		if federation.CodeOf(err) != c.code {
			t.Errorf("%+v: %v", c.beat, err)
		}
		if left := time.Until(cmp.Or(res, &admin.HeartbeatInstanceResponse{}).Expires.Time); err == nil && (left < 30*time.Second || left > time.Minute) {
			t.Errorf("%+v lasts %v", c.beat, left)
		}
		g.until("the heartbeat to count", func() error {
			list, err := g.ListInstances(ctx, &admin.ListInstancesRequest{Service: name})
			if err != nil || len(list.Instances) != 1 || list.Instances[0].Health != c.want || list.Instances[0].CheckStatus[0].Output != c.output {
				return fmt.Errorf("after %+v: %+v, %v", c.beat, list, err)
			}
			return nil
		})
	}
}
