package aws

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

func registered(id string, attributes ...string) awstest.Registered {
	r := awstest.Registered{ID: id, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		r.Attributes[attributes[i]] = attributes[i+1]
	}
	return r
}

func TestCloudMapInstances(t *testing.T) {
	sick := registered("b", "AWS_INSTANCE_IPV4", "10.1.0.31", "AWS_INSTANCE_PORT", "80")
	sick.Health = "UNHEALTHY"
	_, url := serve(t, awstest.Inventory{Zones: []awstest.Zone{{Name: "eu-west-1a", ID: "euw1-az2"}},
		Namespaces: []awstest.Namespace{{Name: "prod.local", HTTPName: "prod.local-x1", Services: []awstest.Service{
			{Name: "cart", Checked: true, Instances: []awstest.Registered{
				registered("a", "AWS_INSTANCE_IPV4", "10.1.0.30", "AWS_INSTANCE_IPV6", "2001:db8::30", "AWS_INSTANCE_PORT", "80",
					"AVAILABILITY_ZONE", "eu-west-1a"),
				sick}},
			{Name: "other", Instances: []awstest.Registered{registered("c", "AWS_INSTANCE_CNAME", "db.example.com"),
				registered("d", "url", "https://queue.example.com"), registered("e", "AWS_INSTANCE_IPV4", "10.1.0.32", "AWS_INSTANCE_PORT", "http")}},
		}}, {Name: "test.local"}}})
	l := open(t, Config{Kinds: []string{KindCloudMap}, Endpoint: url})
	scopes, err := l.Scopes(t.Context())
	if err != nil || fmt.Sprint(scopes) != "[aws/eu-west-1/cloudmap/prod.local aws/eu-west-1/cloudmap/test.local]" {
		t.Fatalf("scopes are %v, %v", scopes, err)
	}
	got := list(t, l, KindCloudMap, "prod.local")
	want(t, got, "a running passing euw1-az2 [10.1.0.30 2001:db8::30] 80", "b running failing  [10.1.0.31] 80", "c running unknown  []")
	if r := got.Records[2]; r.Host != "db.example.com" || r.Service != "other" || r.Account != awstest.Account ||
		r.ID != "arn:aws:servicediscovery:eu-west-1:111122223333:service/srv-prod.local-other/c" {
		t.Errorf("the record is %+v", r)
	}
	if len(got.Bad) != 1 || !strings.HasSuffix(got.Bad[0].ID, "/e") {
		t.Errorf("what could not be read is %v, want the one with a port that is no number", got.Bad)
	}
}

func TestAServiceWithoutHealthIsReadWhenItChanges(t *testing.T) {
	service := awstest.Service{Name: "cart", Revision: 1, Instances: []awstest.Registered{registered("a", "AWS_INSTANCE_IPV4", "10.1.0.30")}}
	inv := func() awstest.Inventory {
		return awstest.Inventory{Namespaces: []awstest.Namespace{{Name: "n", Services: []awstest.Service{service}}}}
	}
	api, url := serve(t, inv())
	l := open(t, Config{Kinds: []string{KindCloudMap}, Namespaces: []string{"n"}, Endpoint: url})
	const prefix = "servicediscovery:"
	list(t, l, KindCloudMap, "n")
	wantCalls(t, api, map[string]int{prefix + "ListNamespaces": 1, prefix + "ListServices": 1, prefix + "DiscoverInstances": 1})
	if got := list(t, l, KindCloudMap, "n"); len(got.Records) != 1 {
		t.Errorf("records are %v", got.Records)
	}
	wantCalls(t, api, map[string]int{prefix + "ListServices": 1, prefix + "DiscoverInstancesRevision": 1})
	service.Revision, service.Instances = 2, append(service.Instances, registered("b", "AWS_INSTANCE_IPV4", "10.1.0.31"))
	api.Set(inv())
	if got := list(t, l, KindCloudMap, "n"); len(got.Records) != 2 {
		t.Errorf("records are %v", got.Records)
	}
	wantCalls(t, api, map[string]int{prefix + "ListServices": 1, prefix + "DiscoverInstancesRevision": 1, prefix + "DiscoverInstances": 1})
}

// TestMoreInstancesThanDiscoverInstancesReturns: that call ends at 1000, without saying so.
func TestMoreInstancesThanDiscoverInstancesReturns(t *testing.T) {
	service := awstest.Service{Name: "cart", Checked: true}
	for n := range 1500 {
		service.Instances = append(service.Instances, registered(fmt.Sprint(n), "AWS_INSTANCE_IPV4", fmt.Sprintf("10.1.%d.%d", n/250, n%250)))
	}
	service.Instances[1400].Health = "UNHEALTHY"
	api, url := serve(t, awstest.Inventory{Namespaces: []awstest.Namespace{{Name: "n", Services: []awstest.Service{service}}}})
	l := open(t, Config{Kinds: []string{KindCloudMap}, Namespaces: []string{"n"}, Endpoint: url})
	got := list(t, l, KindCloudMap, "n")
	failing := 0
	for _, r := range got.Records {
		if r.Health.String() == "failing" {
			failing++
		}
	}
	if len(got.Records) != 1500 || failing != 1 || got.Calls != 33 {
		t.Errorf("%d records, %d failing, in %d calls, want 1500, 1 and 33", len(got.Records), failing, got.Calls)
	}
	if n := api.Counts()["servicediscovery:ListInstances"]; n != 15 {
		t.Errorf("ListInstances was called %d times, want 15", n)
	}
}

// TestATaskThatDrainsIsStillInCloudMap: Cloud Map keeps a task until it has ended.
func TestATaskThatDrainsIsStillInCloudMap(t *testing.T) {
	inv := shop()
	inv.Clusters[0].Tasks = []awstest.Task{{ID: "t1", Last: "STOPPING", Desired: "STOPPED"}, {ID: "t2", Last: "RUNNING", Health: "UNHEALTHY"}}
	var all []awstest.Registered
	for n, id := range []string{"t1", "t2", "t3"} {
		all = append(all, registered(id, "AWS_INSTANCE_IPV4", fmt.Sprintf("10.1.0.%d", n+1), "ECS_CLUSTER_NAME", "shop"))
	}
	inv.Namespaces = []awstest.Namespace{{Name: "n", Services: []awstest.Service{{Name: "cart", Instances: all}}}}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindCloudMap}, Namespaces: []string{"n"}, Endpoint: url})
	want(t, list(t, l, KindCloudMap, "n"), "t1 draining unknown  [10.1.0.1]", "t2 running failing  [10.1.0.2]",
		"t3 stopped unknown  [10.1.0.3]")

	api.Change(func(s *awstest.Server, _ *awstest.Inventory) {
		s.Fail = func(r awstest.Request) *awstest.Failure {
			if r.Operation == "DescribeTasks" {
				return &awstest.Failure{Fault: awstest.Throttle}
			}
			return nil
		}
	})
	got := list(t, l, KindCloudMap, "n")
	var throttled *poll.ThrottledError
	if !errors.As(got.Partial, &throttled) || len(got.Records) != 3 {
		t.Errorf("%d records, partial because of %v, want 3 and the throttling", len(got.Records), got.Partial)
	}
}
