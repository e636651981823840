package aws

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
)

// shop is a cluster with a task of each kind.
func shop() awstest.Inventory {
	port := func(name string, container, host int) awstest.Port {
		return awstest.Port{Name: name, Container: container, Host: host}
	}
	return awstest.Inventory{
		Subnets:   []awstest.Subnet{{ID: "subnet-1", VPC: "vpc-1", Zone: "eu-west-1a", ZoneID: "euw1-az2"}},
		Instances: []awstest.Instance{vm("i-1", "10.1.0.1"), vm("i-2", "10.1.0.2", func(i *awstest.Instance) { i.ZoneID = "euw1-az3" })},
		Definitions: []awstest.Definition{
			{Name: "web:3", Tags: map[string]string{"team": "shop"}, Containers: []awstest.Container{
				{Name: "web", Ports: []awstest.Port{{Name: "http", Container: 8080, App: "http"}, {Container: 9000}, {Container: 53, Protocol: "udp"}},
					Labels: map[string]string{"mesh/port": "http", "mesh/service": "ignored"}},
				{Name: "sidecar", Labels: map[string]string{"mesh/port": "admin"}}}},
			{Name: "old:1", Mode: "bridge", Containers: []awstest.Container{
				{Name: "old", Ports: []awstest.Port{port("", 80, 0)}}, {Name: "admin", Ports: []awstest.Port{port("", 81, 0)}}}},
			{Name: "agent:1", Mode: "host", Containers: []awstest.Container{{Name: "agent", Ports: []awstest.Port{port("", 7000, 7000)}}}},
		},
		Clusters: []awstest.Cluster{{Name: "shop", Hosts: map[string]string{"h1": "i-1", "h2": "i-2", "h3": "mi-outside"}, Tasks: []awstest.Task{
			{ID: "fargate", Service: "web", Definition: "web:3", IP: "10.1.0.20", IPv6: "2001:db8::20", Subnet: "subnet-1", Health: "HEALTHY",
				Tags: map[string]string{"mesh/service": "web"}},
			{ID: "awsvpc-on-ec2", Service: "web", Definition: "web:3", IP: "10.1.0.21", Subnet: "subnet-1", Host: "h1", LaunchType: "EC2",
				Health: "UNHEALTHY"},
			{ID: "bridge", Service: "old", Definition: "old:1", Host: "h1", Bindings: []awstest.Binding{
				{Container: "old", ContainerPort: 80, HostPort: 32768}, {Container: "admin", ContainerPort: 81, HostPort: 32769}}},
			{ID: "host", Definition: "agent:1", Host: "h2"},
			{ID: "outside", Definition: "agent:1", Host: "h3", LaunchType: "EXTERNAL"},
			{ID: "pending", Service: "web", Definition: "web:3", Last: "PENDING"},
			{ID: "stopped", Definition: "web:3", Last: "STOPPED", Desired: "STOPPED"},
		}}},
	}
}

func TestECSTasksOfAllKinds(t *testing.T) {
	api, url := serve(t, shop())
	l := open(t, Config{Kinds: []string{KindECS}, Endpoint: url, NoTargetHealth: true})
	got := list(t, l, KindECS, "shop")
	want(t, got,
		"awsvpc-on-ec2 running failing euw1-az2 [10.1.0.21] http:8080,9000:9000",
		"bridge running unknown euw1-az2 [10.1.0.1] 80:32768,81:32769",
		"fargate running passing euw1-az2 [10.1.0.20 2001:db8::20] http:8080,9000:9000",
		"host running unknown euw1-az3 [10.1.0.2] 7000")
	if len(got.Bad) != 1 || !strings.HasSuffix(got.Bad[0].ID, "/outside") {
		t.Errorf("what could not be read is %v, want the task outside AWS", got.Bad)
	}
	for _, r := range got.Records {
		if !strings.HasSuffix(r.ID, "/fargate") {
			continue
		}
		if r.Labels["mesh/service"] != "web" || r.Labels["mesh/port"] != "http" || r.Labels["team"] != "shop" || r.Network != "vpc-1" ||
			r.Service != "web" || r.Account != awstest.Account || r.Ports[0].Protocol != "http" {
			t.Errorf("the record is %+v", r)
		}
	}
	wantCalls(t, api, map[string]int{"ecs:ListTasks": 1, "ecs:DescribeTasks": 1, "ecs:DescribeTaskDefinition": 3,
		"ecs:DescribeContainerInstances": 1, "ec2:DescribeInstances": 1, "ec2:DescribeSubnets": 1})
}

func TestARedeploymentCostsOneTaskDefinition(t *testing.T) {
	inv := awstest.Inventory{Subnets: shop().Subnets, Definitions: shop().Definitions, Clusters: []awstest.Cluster{{Name: "shop"}}}
	for n := range 250 {
		inv.Clusters[0].Tasks = append(inv.Clusters[0].Tasks, awstest.Task{ID: fmt.Sprint("a", n), Definition: "web:3", Subnet: "subnet-1",
			IP: fmt.Sprintf("10.1.1.%d", n)})
	}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindECS}, Endpoint: url, NoTargetHealth: true})
	list(t, l, KindECS, "shop")
	wantCalls(t, api, map[string]int{"ecs:ListTasks": 3, "ecs:DescribeTasks": 3, "ecs:DescribeTaskDefinition": 1, "ec2:DescribeSubnets": 1})
	list(t, l, KindECS, "shop")
	wantCalls(t, api, map[string]int{"ecs:ListTasks": 3, "ecs:DescribeTasks": 3})

	next := inv.Definitions[0]
	next.Name = "web:4"
	inv.Definitions = append(inv.Definitions, next)
	inv.Clusters[0].Tasks = nil
	for n := range 250 {
		inv.Clusters[0].Tasks = append(inv.Clusters[0].Tasks, awstest.Task{ID: fmt.Sprint("b", n), Definition: "web:4", Subnet: "subnet-1",
			IP: fmt.Sprintf("10.1.2.%d", n)})
	}
	api.Set(inv)
	list(t, l, KindECS, "shop") // the 250 that went are looked at once more: they may be draining
	wantCalls(t, api, map[string]int{"ecs:ListTasks": 3, "ecs:DescribeTasks": 5, "ecs:DescribeTaskDefinition": 1})
	list(t, l, KindECS, "shop")
	wantCalls(t, api, map[string]int{"ecs:ListTasks": 3, "ecs:DescribeTasks": 3})
}

// TestATaskThatEndsDrains follows a task through its life. ECS stops listing it as soon as it should stop.
func TestATaskThatEndsDrains(t *testing.T) {
	api, url := serve(t, shop())
	l := open(t, Config{Kinds: []string{KindECS}, Endpoint: url, NoTargetHealth: true})
	for _, step := range []struct{ last, desired, state string }{
		{"PROVISIONING", "RUNNING", "pending"}, {"ACTIVATING", "RUNNING", "pending"}, {"RUNNING", "RUNNING", "running"},
		{"RUNNING", "STOPPED", "draining"}, {"DEACTIVATING", "STOPPED", "draining"}, {"STOPPING", "STOPPED", "draining"},
		{"STOPPED", "STOPPED", ""}, {"STOPPED", "STOPPED", ""},
	} {
		api.Change(func(_ *awstest.Server, inv *awstest.Inventory) {
			task := inv.Clusters[0].Tasks[0]
			task.Last, task.Desired = step.last, step.desired
			inv.Clusters = []awstest.Cluster{{Name: "shop", Tasks: []awstest.Task{task}}}
		})
		state := ""
		for _, r := range list(t, l, KindECS, "shop").Records {
			state = string(r.State)
		}
		if state != step.state {
			t.Errorf("with status %s, wanted %s, the task is %q, want %q", step.last, step.desired, state, step.state)
		}
	}
	api.Forget()
	list(t, l, KindECS, "shop")
	wantCalls(t, api, map[string]int{"ecs:ListTasks": 1}) // and is forgotten
}

func TestWhatECSCannotDescribe(t *testing.T) {
	inv := shop()
	inv.Clusters[0].Tasks = append(inv.Clusters[0].Tasks, awstest.Task{ID: "hidden", Failure: "ACCESS_DENIED"},
		awstest.Task{ID: "deleted", Definition: "gone:1", IP: "10.1.0.30", Subnet: "subnet-1"})
	_, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindECS}, Endpoint: url, NoTargetHealth: true})
	got := list(t, l, KindECS, "shop")
	if got.Partial == nil || !strings.Contains(got.Partial.Error(), "task/shop/hidden: ACCESS_DENIED") {
		t.Errorf("the listing is partial because of %v, want the task that could not be described", got.Partial)
	}
	if len(got.Records) != 4 || len(got.Bad) != 2 || !strings.HasSuffix(got.Bad[0].ID, "/deleted") {
		t.Errorf("%d records and %v, want 4, and the task whose definition was deleted", len(got.Records), got.Bad)
	}
}

func TestHostTasksAndTheirLoadBalancers(t *testing.T) {
	inv := shop()
	inv.TargetGroups = []awstest.TargetGroup{
		{Name: "old", VPC: "vpc-1", Targets: []awstest.Target{{ID: "i-1", Port: 32768, State: "unhealthy"}}},
		{Name: "agent", VPC: "vpc-1", Targets: []awstest.Target{{ID: "i-2", Port: 9999, State: "unhealthy"}}}, // somebody else's port
		{Name: "web", VPC: "vpc-1", Type: "ip", Targets: []awstest.Target{{ID: "10.1.0.20", Port: 8080, State: "draining"},
			{ID: "10.1.0.21", Port: 8080}}},
	}
	_, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindECS}, Endpoint: url})
	want(t, list(t, l, KindECS, "shop"),
		"awsvpc-on-ec2 running failing euw1-az2 [10.1.0.21] http:8080,9000:9000", // its own check fails
		"bridge running failing euw1-az2 [10.1.0.1] 80:32768,81:32769",
		"fargate running draining euw1-az2 [10.1.0.20 2001:db8::20] http:8080,9000:9000",
		"host running unknown euw1-az3 [10.1.0.2] 7000")
}
