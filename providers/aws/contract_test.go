package aws

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

// serve starts an AWS that holds inv, and makes this process one of its users.
func serve(t *testing.T, inv awstest.Inventory) (*awstest.Server, string) {
	t.Helper()
	api := awstest.New(inv)
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.URL,
		"ECS_CONTAINER_METADATA_URI_V4": "", "AWS_PROFILE": "", "AWS_CA_BUNDLE": ""} {
		t.Setenv(k, v)
	}
	return api, server.URL
}

// open makes a lister, with the answers of load balancers as fresh as can be.
func open(t *testing.T, cfg Config) *Lister {
	t.Helper()
	if cfg.Regions == nil {
		cfg.Regions = []string{awstest.Region}
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.targetsFor = 0
	t.Cleanup(l.Close)
	return l
}

// stage puts worlds of the contract into a fake AWS.
type stage struct {
	providertest.Player
	api  *awstest.Server
	list string // the action whose pages are the world's
}

func (s *stage) serve(w providertest.World, inv awstest.Inventory) {
	s.Serve(w)
	s.api.Change(func(api *awstest.Server, i *awstest.Inventory) { *i, api.Fail = inv, s.fail })
	s.api.Forget()
}

// fail says which failure a request meets. Partial is not one of the listed page, but of what is asked after it.
func (s *stage) fail(r awstest.Request) *awstest.Failure {
	partial := s.Has(providertest.Partial)
	switch {
	case partial && r.Operation == "DescribeTargetGroups":
		return &awstest.Failure{Fault: awstest.Deny}
	case partial && r.Operation == "DescribeTasks":
		return &awstest.Failure{Fault: awstest.Failures}
	case partial || r.Action() != s.list:
		return nil
	}
	return s.Failure(r.Page)
}

// pages returns the sizes of the pages of the world. ECS lists what is gone.
func (s *stage) pages(r awstest.Request, _ int) []int {
	if r.Action() != s.list {
		return nil
	}
	return s.Sizes(s.list == "ecs:ListTasks")
}

func (s *stage) requests() int {
	return len(slices.DeleteFunc(s.api.Requests(), func(r awstest.Request) bool { return r.Service == "sts" }))
}

var webTags = map[string]string{"mesh/service": "web", "mesh/port": "8080"}

func TestEC2Contract(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		api, url := serve(t, awstest.Inventory{})
		s := &stage{api: api, list: "ec2:DescribeInstances"}
		api.Pages = s.pages
		l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: url})
		return providertest.ListerRig{
			Lister: l, Scope: poll.Scope{Provider: "aws", Region: awstest.Region, Kind: KindEC2}, Action: "ec2:DescribeInstances",
			Requests: s.requests, Close: l.Close,
			Cost: func(w providertest.World) int { return len(w.Pages) + min(len(w.Present()), 1) }, // and the target groups, once
			Serve: func(_ *testing.T, w providertest.World) {
				var inv awstest.Inventory
				for _, i := range w.Present() {
					inv.Instances = append(inv.Instances, awstest.Instance{ID: fmt.Sprintf("i-%04d", i.N), VPC: "vpc-1", Zone: "eu-west-1a",
						ZoneID: "euw1-az1", IP: i.Address(), Tags: webTags})
				}
				s.serve(w, inv)
			},
		}
	})
}

func TestECSContract(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		inventory := func(w providertest.World) awstest.Inventory {
			inv := awstest.Inventory{Subnets: []awstest.Subnet{{ID: "subnet-1", VPC: "vpc-1", Zone: "eu-west-1a", ZoneID: "euw1-az1"}},
				Definitions: []awstest.Definition{{Name: "web:1", Containers: []awstest.Container{
					{Name: "web", Ports: []awstest.Port{{Container: 8080}}}}}}}
			c := awstest.Cluster{Name: "shop"}
			for _, i := range w.All() {
				c.Tasks = append(c.Tasks, awstest.Task{ID: fmt.Sprintf("%032d", i.N), Service: "web", Definition: "web:1", Subnet: "subnet-1",
					Health: "HEALTHY", IP: i.Address(), Tags: webTags, Gone: i.Gone})
			}
			inv.Clusters = []awstest.Cluster{c}
			return inv
		}
		warm := providertest.World{Pages: []providertest.Page{{Items: providertest.Items(1, 1)}}}
		api, url := serve(t, inventory(warm))
		s := &stage{api: api, list: "ecs:ListTasks"}
		l := open(t, Config{Kinds: []string{KindECS}, Endpoint: url})
		scope := poll.Scope{Provider: "aws", Region: awstest.Region, Kind: KindECS, Part: "shop"}
		if _, err := l.List(t.Context(), scope, nil); err != nil { // subnet and task definition are known from then on
			t.Fatal(err)
		}
		api.Change(func(api *awstest.Server, _ *awstest.Inventory) { api.Pages = s.pages })
		return providertest.ListerRig{
			Lister: l, Scope: scope, Action: "ecs:ListTasks", Requests: s.requests, Close: l.Close,
			Cost: func(w providertest.World) int {
				listed := map[int]bool{}
				for _, i := range w.All() {
					listed[i.N] = true
				}
				return len(w.Pages) + (len(listed)+99)/100 + min(len(w.Present()), 1)
			},
			Serve: func(_ *testing.T, w providertest.World) {
				l.places[placeKey{"", awstest.Region}].tasks = map[string]map[string]bool{} // a new world has no past
				s.serve(w, inventory(w))
			},
		}
	})
}

func TestCloudMapContract(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		api, url := serve(t, awstest.Inventory{Namespaces: []awstest.Namespace{{Name: "prod.local"}}})
		s := &stage{api: api, list: "servicediscovery:ListServices"}
		l := open(t, Config{Kinds: []string{KindCloudMap}, Endpoint: url})
		if _, err := l.Scopes(t.Context()); err != nil { // the namespaces are known from then on
			t.Fatal(err)
		}
		api.Change(func(api *awstest.Server, _ *awstest.Inventory) {
			api.Pages = func(r awstest.Request, n int) []int {
				if r.Action() != s.list {
					return nil
				}
				sizes := make([]int, len(s.Sizes(true))) // one service, on the first page
				sizes[0] = n
				return sizes
			}
		})
		return providertest.ListerRig{
			Lister: l, Scope: poll.Scope{Provider: "aws", Region: awstest.Region, Kind: KindCloudMap, Part: "prod.local"},
			Action: "servicediscovery:ListServices", Requests: s.requests, Close: l.Close,
			Lacks: map[string]string{"partial": "Cloud Map answers or fails", "gone": "an instance is listed with its details"},
			Cost:  func(w providertest.World) int { return len(w.Pages) + 1 },
			Serve: func(_ *testing.T, w providertest.World) {
				service := awstest.Service{Name: "web", Checked: true}
				for _, i := range w.All() {
					service.Instances = append(service.Instances, awstest.Registered{ID: fmt.Sprint(i.N), Attributes: map[string]string{
						"AWS_INSTANCE_IPV4": i.Address(), "AWS_INSTANCE_PORT": "8080", "mesh/service": "web"}})
				}
				s.serve(w, awstest.Inventory{Namespaces: []awstest.Namespace{{Name: "prod.local", Services: []awstest.Service{service}}}})
			},
		}
	})
}
