package aws

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// list lists a scope of the test's own account and region.
func list(t *testing.T, l *Lister, kind, part string) poll.Listing {
	t.Helper()
	got, err := l.List(t.Context(), poll.Scope{Provider: "aws", Region: awstest.Region, Kind: kind, Part: part}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// brief says what matters of each record, in order of ID.
func brief(l poll.Listing) (out []string) {
	for _, r := range l.Records {
		var ports []string
		for _, p := range r.Ports {
			ports = append(ports, strings.TrimLeft(fmt.Sprintf("%s:%d", p.Name, p.Number), ":"))
		}
		out = append(out, strings.TrimRight(fmt.Sprintf("%s %s %s %s %v %s", lastPart(r.ID), r.State, r.Health, r.Zone, r.Addresses,
			strings.Join(ports, ",")), " "))
	}
	slices.Sort(out)
	return out
}

func want(t *testing.T, l poll.Listing, records ...string) {
	t.Helper()
	if diff := cmp.Diff(records, brief(l)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// wantCalls checks how often each action was used, and forgets it.
func wantCalls(t *testing.T, api *awstest.Server, calls map[string]int) {
	t.Helper()
	if diff := cmp.Diff(calls, api.Counts()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	api.Forget()
}

func vm(id, ip string, change ...func(*awstest.Instance)) awstest.Instance {
	i := awstest.Instance{ID: id, IP: ip, VPC: "vpc-1", Zone: "eu-west-1a", ZoneID: "euw1-az2", Tags: map[string]string{"mesh/service": "web"}}
	for _, c := range change {
		c(&i)
	}
	return i
}

func TestEC2InstancesInAllStatesAndWithAllAddresses(t *testing.T) {
	state := func(s string) func(*awstest.Instance) { return func(i *awstest.Instance) { i.State = s } }
	api, url := serve(t, awstest.Inventory{
		Zones: []awstest.Zone{{Name: "eu-west-1a", ID: "euw1-az2"}, {Name: "eu-west-1b", ID: "euw1-az3"}},
		Instances: []awstest.Instance{
			vm("i-1", "10.1.0.1", func(i *awstest.Instance) {
				i.Secondary, i.IPv6, i.Public = []string{"10.1.0.11"}, []string{"2001:db8::1"}, "192.0.2.1"
			}),
			vm("i-2", "10.1.0.2", func(i *awstest.Instance) { i.Zone, i.ZoneID = "eu-west-1b", "" }),
			vm("i-3", "10.1.0.3", func(i *awstest.Instance) { i.Zone, i.ZoneID = "eu-west-1a", "" }),
			vm("i-4", "10.1.0.4", state("shutting-down")), vm("i-5", "10.1.0.5", state("stopped")), vm("i-6", "", state("pending")),
			vm("i-7", "10.1.0.7", state("pending")), vm("i-8", ""),
			vm("i-9", "10.1.0.9", func(i *awstest.Instance) { i.Tags = map[string]string{"mesh/service": "other"} }),
		}})
	cfg := Config{Kinds: []string{KindEC2}, Endpoint: url, Tags: map[string]string{"mesh/service": "web"}, NoTargetHealth: true}
	l := open(t, cfg)
	got := list(t, l, KindEC2, "")
	want(t, got,
		"i-1 running unknown euw1-az2 [10.1.0.1 10.1.0.11 2001:db8::1 192.0.2.1]",
		"i-2 running unknown euw1-az3 [10.1.0.2]",
		"i-3 running unknown euw1-az2 [10.1.0.3]",
		"i-4 draining unknown euw1-az2 [10.1.0.4]",
		"i-7 pending unknown euw1-az2 [10.1.0.7]")
	if len(got.Bad) != 1 || got.Bad[0].ID != "arn:aws:ec2:eu-west-1:111122223333:instance/i-8" {
		t.Errorf("what could not be read is %v, want the running instance without an address", got.Bad)
	}
	if r := got.Records[0]; r.Account != awstest.Account || r.Network != "vpc-1" || r.Region != awstest.Region || r.Kind != KindEC2 {
		t.Errorf("the record is %+v", r)
	}
	wantCalls(t, api, map[string]int{"ec2:DescribeInstances": 1, "ec2:DescribeAvailabilityZones": 1})
	list(t, l, KindEC2, "") // the zones are known
	wantCalls(t, api, map[string]int{"ec2:DescribeInstances": 1})

	cfg.AddressType, cfg.Tags = PublicV4, map[string]string{"mesh/service": ""} // any value
	l = open(t, cfg)
	if first := list(t, l, KindEC2, "").Records[0].Addresses[0]; first != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("the first address is %v, want the public one", first)
	}
}

func TestOnlySixteenAddressesOfANode(t *testing.T) {
	_, url := serve(t, awstest.Inventory{Instances: []awstest.Instance{vm("i-1", "10.1.0.1", func(i *awstest.Instance) {
		for n := range 60 {
			i.Secondary = append(i.Secondary, fmt.Sprintf("10.1.1.%d", n))
		}
	})}})
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: url, NoTargetHealth: true})
	if got := list(t, l, KindEC2, "").Records[0].Addresses; len(got) != poll.MaxAddresses || got[0] != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("addresses are %v, want %d with the primary one first", got, poll.MaxAddresses)
	}
}

func TestTheCallsOfAThousandInstances(t *testing.T) {
	var inv awstest.Inventory
	for n := range 2500 {
		inv.Instances = append(inv.Instances, vm(fmt.Sprintf("i-%04d", n), fmt.Sprintf("10.%d.%d.1", n/250, n%250)))
	}
	for n := range 3 {
		inv.TargetGroups = append(inv.TargetGroups, awstest.TargetGroup{Name: fmt.Sprint("tg", n), VPC: "vpc-1"})
	}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: url})
	if got := list(t, l, KindEC2, ""); len(got.Records) != 2500 || got.Calls != 7 {
		t.Errorf("%d records in %d calls, want 2500 in 7", len(got.Records), got.Calls)
	}
	wantCalls(t, api, map[string]int{"ec2:DescribeInstances": 3, "elasticloadbalancing:DescribeTargetGroups": 1,
		"elasticloadbalancing:DescribeTargetHealth": 3})
}

func TestLoadBalancersMakeHealthWorse(t *testing.T) {
	port := func(p string) func(*awstest.Instance) { return func(i *awstest.Instance) { i.Tags["mesh/port"] = p } }
	inv := awstest.Inventory{
		Instances: []awstest.Instance{
			vm("i-1", "10.1.0.1", port("8080")), vm("i-2", "10.1.0.2", port("8080")), vm("i-3", "10.1.0.3"), vm("i-4", "10.1.0.4", port("http")),
			vm("i-5", "10.1.0.5", port("8080")), vm("i-6", "10.1.0.6", func(i *awstest.Instance) { i.VPC = "vpc-2" }), vm("i-7", "10.1.0.7"),
		},
		TargetGroups: []awstest.TargetGroup{
			{Name: "a", VPC: "vpc-1", Targets: []awstest.Target{{ID: "i-1", Port: 8080}, {ID: "i-2", Port: 8080, State: "unhealthy"},
				{ID: "i-4", Port: 80, State: "initial"}, {ID: "i-3", Port: 80}, {ID: "i-7", Port: 80, State: "unused"}}},
			{Name: "b", VPC: "vpc-1", Targets: []awstest.Target{{ID: "i-1", Port: 9090, State: "unhealthy"}, {ID: "i-2", Port: 8080},
				{ID: "i-3", Port: 81, State: "draining"}}},
			{Name: "c", VPC: "vpc-1", Type: "ip", Targets: []awstest.Target{{ID: "10.1.0.5", Port: 8080},
				{ID: "10.1.0.6", Port: 80, State: "unhealthy"}}},
			{Name: "d", VPC: "vpc-1", Type: "lambda", Targets: []awstest.Target{{ID: "f"}}}, {Name: "e", VPC: "vpc-3"},
			{Name: "f", VPC: "vpc-1", Unused: true},
		}}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: url})
	health := func(l poll.Listing) string {
		var out []string
		for _, r := range l.Records {
			out = append(out, lastPart(r.ID)+" "+r.Health.String())
		}
		return strings.Join(out, ", ")
	}
	const worst = "i-1 passing, i-2 failing, i-3 draining, i-4 unknown, i-5 passing, i-6 unknown, i-7 unknown"
	if got := health(list(t, l, KindEC2, "")); got != worst {
		t.Errorf("health is\n%s, want\n%s", got, worst)
	}
	// One call for the groups and one for each that can say something.
	wantCalls(t, api, map[string]int{"ec2:DescribeInstances": 1, "elasticloadbalancing:DescribeTargetGroups": 1,
		"elasticloadbalancing:DescribeTargetHealth": 3})

	// While they cannot be asked, what they said last counts, and the listing says so.
	inv.Instances = append(inv.Instances, vm("i-8", "10.1.0.8"))
	api.Set(inv)
	api.Change(func(s *awstest.Server, _ *awstest.Inventory) {
		s.Fail = func(r awstest.Request) *awstest.Failure {
			if r.Operation == "DescribeTargetHealth" {
				return &awstest.Failure{Fault: awstest.Deny}
			}
			return nil
		}
	})
	got := list(t, l, KindEC2, "")
	var denied *poll.DeniedError
	if !errors.As(got.Partial, &denied) || denied.Action != "elasticloadbalancing:DescribeTargetHealth" {
		t.Errorf("the listing is partial because of %v, want the missing permission", got.Partial)
	}
	if got := health(got); got != worst+", i-8 unknown" {
		t.Errorf("health is\n%s, want what was said last:\n%s", got, worst)
	}
}

func TestEC2AndECSShareTheAnswersOfLoadBalancers(t *testing.T) {
	inv := shop()
	inv.Instances = append(inv.Instances, vm("i-9", "10.1.0.9"))
	inv.TargetGroups = []awstest.TargetGroup{{Name: "a", VPC: "vpc-1", Type: "ip"}}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindEC2, KindECS}, Endpoint: url})
	l.targetsFor = targetsFor
	list(t, l, KindEC2, "")
	list(t, l, KindECS, "shop")
	if n := api.Counts()["elasticloadbalancing:DescribeTargetHealth"]; n != 1 {
		t.Errorf("the target group was asked %d times, want once", n)
	}
}

func TestAutoScalingGroupsTakeInstancesOut(t *testing.T) {
	member := func(group, lifecycle string, sick bool) func(*awstest.Instance) {
		return func(i *awstest.Instance) { i.Group, i.Lifecycle, i.Sick = group, lifecycle, sick }
	}
	api, url := serve(t, awstest.Inventory{Instances: []awstest.Instance{
		vm("i-1", "10.1.0.1", member("a", "", false)), vm("i-2", "10.1.0.2", member("a", "Terminating:Wait", false)),
		vm("i-3", "10.1.0.3", member("b", "Standby", false)), vm("i-4", "10.1.0.4", member("b", "Pending:Wait", false)),
		vm("i-5", "10.1.0.5", member("b", "InService", true)), vm("i-6", "10.1.0.6"),
	}})
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: url, NoTargetHealth: true})
	want(t, list(t, l, KindEC2, ""),
		"i-1 running unknown euw1-az2 [10.1.0.1]", "i-2 draining unknown euw1-az2 [10.1.0.2]", "i-3 draining unknown euw1-az2 [10.1.0.3]",
		"i-4 pending unknown euw1-az2 [10.1.0.4]", "i-5 running failing euw1-az2 [10.1.0.5]", "i-6 running unknown euw1-az2 [10.1.0.6]")
	wantCalls(t, api, map[string]int{"ec2:DescribeInstances": 1, "autoscaling:DescribeAutoScalingGroups": 1})

	api.Change(func(s *awstest.Server, _ *awstest.Inventory) {
		s.Fail = func(r awstest.Request) *awstest.Failure {
			if r.Service == "autoscaling" {
				return &awstest.Failure{Fault: awstest.Deny}
			}
			return nil
		}
	})
	got := list(t, l, KindEC2, "")
	var denied *poll.DeniedError
	if !errors.As(got.Partial, &denied) || denied.Action != "autoscaling:DescribeAutoScalingGroups" || len(got.Records) != 6 {
		t.Errorf("%d records, partial because of %v, want 6 and the missing permission", len(got.Records), got.Partial)
	}
}

func TestAddressesToJoin(t *testing.T) {
	api, url := serve(t, awstest.Inventory{Self: awstest.Self{Instance: "i-2"}, Instances: []awstest.Instance{
		vm("i-2", "10.1.0.2", func(i *awstest.Instance) { i.Public = "192.0.2.2" }),
		vm("i-1", "10.1.0.1", func(i *awstest.Instance) { i.IPv6 = []string{"2001:db8::1"} }),
		vm("i-3", "10.1.0.3", func(i *awstest.Instance) { i.State = "stopping" }),
		vm("i-4", "10.1.0.4", func(i *awstest.Instance) { i.Tags = nil }),
		vm("i-5", "10.1.0.5"), vm("i-6", "10.1.0.6"), vm("i-7", "10.1.0.7"), vm("i-8", "10.1.0.8"),
	}})
	api.PageSize = 5
	for addressType, want := range map[string]string{
		"": "[10.1.0.1 10.1.0.2 10.1.0.5 10.1.0.6 10.1.0.7 10.1.0.8]", PublicV4: "[192.0.2.2]", PrivateV6: "[2001:db8::1]",
	} {
		got, err := Addresses(t.Context(), Filter{TagKey: "mesh/service", TagValue: "web", AddressType: addressType, Endpoint: url})
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("addresses of type %q are %v, %v, want %s", addressType, got, err, want)
		}
	}
	if _, err := Addresses(t.Context(), Filter{Region: awstest.Region, Endpoint: url}); err == nil {
		t.Error("without a tag all instances are joined")
	}
}

func TestPermissionsAreTheCallsThatAreMade(t *testing.T) {
	inv := shop()
	inv.Zones = []awstest.Zone{{Name: "eu-west-1a", ID: "euw1-az2"}}
	inv.TargetGroups = []awstest.TargetGroup{{Name: "a", VPC: "vpc-1", Type: "ip"}}
	for i := range inv.Instances {
		inv.Instances[i].ZoneID, inv.Instances[i].Group = "", "g"
	}
	many := awstest.Service{Name: "many", Checked: true}
	for n := range 1001 {
		many.Instances = append(many.Instances, awstest.Registered{ID: fmt.Sprint(n), Attributes: map[string]string{
			"AWS_INSTANCE_IPV4": "10.1.0.1", "AVAILABILITY_ZONE": "eu-west-1a", "ECS_CLUSTER_NAME": "shop"}})
	}
	inv.Namespaces = []awstest.Namespace{{Name: "n", Services: []awstest.Service{many, {Name: "few", Revision: 1}}}}
	inv.Kubernetes = []awstest.Kubernetes{{Name: "k"}}
	for _, kind := range []string{KindEC2, KindECS, KindCloudMap, KindEKS} {
		api, url := serve(t, inv)
		cfg, want := Config{Kinds: []string{kind}, Endpoint: url}, Permissions(kind)
		switch kind {
		case KindEC2, KindECS:
			want = Permissions(kind, SignalELB)
		case KindEKS:
			cfg.Kinds = []string{KindEC2}
		}
		l := open(t, cfg)
		if kind == KindEKS {
			if _, err := Clusters(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		} else {
			for range 2 {
				scopes, err := l.Scopes(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range scopes {
					list(t, l, s.Kind, s.Part)
				}
			}
		}
		got := slices.Sorted(maps.Keys(api.Counts()))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("permissions for %s (-named +used):\n%s", kind, diff)
		}
	}
}
