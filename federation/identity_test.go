package federation

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

// roleBySegments reads a path segment by segment; RoleOf must agree with it on every path.
func roleBySegments(path string) (Role, ServiceName) {
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 5 && parts[1] == "ns" && parts[3] == "svc":
		if service, err := ParseServiceName(parts[2] + "/" + parts[4]); err == nil {
			return RoleWorkload, service
		}
	case len(parts) == 3 && parts[1] == "gw":
		return RoleGateway, ServiceName{}
	case len(parts) == 2 && parts[1] == "cp":
		return RoleControlPlane, ServiceName{}
	}
	return RoleNone, ServiceName{}
}

func TestRoleOfAgreesWithSegments(t *testing.T) {
	segment := rapid.SampledFrom([]string{"ns", "svc", "gw", "cp", "default", "web", "Web", "a-b", "-", "a.b", "x_y", strings.Repeat("a", 64)})
	seen := map[Role]bool{}
	rapid.Check(t, func(t *rapid.T) {
		segments := rapid.SliceOfN(segment, 0, 6).Draw(t, "segments")
		if rapid.Bool().Draw(t, "likely") {
			segments = []string{"ns", segment.Draw(t, "namespace"), "svc", segment.Draw(t, "name")}
		}
		id, err := spiffeid.FromSegments(spiffeid.RequireTrustDomainFromString("aws.example.com"), segments...)
		if err != nil {
			t.Skip(err)
		}
		role, service := RoleOf(id)
		wantRole, wantService := roleBySegments(id.Path())
		if role != wantRole || service != wantService {
			t.Fatalf("%s: got %s %s, want %s %s", id, role, service, wantRole, wantService)
		}
		seen[role] = true
	})
	for _, path := range []string{"/cp", "/gw/a", "/gw/svc", "/cp/x", "/gw", "/ns/svc/svc/svc", "/ns/a/svc/svc/b", "/ns/a/b/svc/c", "/ns/a/svc/b/svc/c"} {
		id := spiffeid.RequireFromString("spiffe://aws.example.com" + path)
		role, service := RoleOf(id)
		if wantRole, wantService := roleBySegments(path); role != wantRole || service != wantService {
			t.Errorf("%s: got %s %s, want %s %s", id, role, service, wantRole, wantService)
		}
	}
	if role, _ := RoleOf(spiffeid.ID{}); role != RoleNone {
		t.Errorf("the zero identity is a %s", role)
	}
}

func TestRoleOfAllocatesNothing(t *testing.T) {
	id := spiffeid.RequireFromString("spiffe://aws.example.com/ns/shop/svc/checkout")
	if n := testing.AllocsPerRun(100, func() { RoleOf(id) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
