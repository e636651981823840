package aws

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
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
	api  *awstest.Server
	list string // the action whose pages are the world's

	mu    sync.Mutex
	world providertest.World
	met   map[int]int
}

func (s *stage) serve(w providertest.World, inv awstest.Inventory) {
	s.mu.Lock()
	s.world, s.met = w, map[int]int{}
	s.mu.Unlock()
	s.api.Change(func(api *awstest.Server, i *awstest.Inventory) {
		*i = inv
		api.Fail = s.fail
	})
	s.api.Forget()
}

// fail says which failure a request meets. Partial is not one of the listed page, but of what is asked after it.
func (s *stage) fail(r awstest.Request) *awstest.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	partial := slices.ContainsFunc(s.world.Pages, func(p providertest.Page) bool { return p.Fault == providertest.Partial })
	switch {
	case partial && r.Operation == "DescribeTargetGroups":
		return &awstest.Failure{Fault: awstest.Deny}
	case partial && r.Operation == "DescribeTasks":
		return &awstest.Failure{Fault: awstest.Failures}
	case r.Action() != s.list || r.Page >= len(s.world.Pages):
		return nil
	}
	p := s.world.Pages[r.Page]
	if p.Fault == "" || p.Fault == providertest.Partial || p.Times > 0 && s.met[r.Page] >= p.Times {
		return nil
	}
	s.met[r.Page]++
	if p.Fault == providertest.Hang && s.world.Reached != nil {
		s.world.Reached()
	}
	return &awstest.Failure{Fault: awstest.Fault(p.Fault), RetryAfter: providertest.RetryAfter}
}

// pages returns the sizes of the pages of the world.
func (s *stage) pages(r awstest.Request, _ int) (sizes []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Action() != s.list {
		return nil
	}
	for _, p := range s.world.Pages {
		n := 0
		for _, item := range p.Items {
			if !item.Gone || s.list != "ec2:DescribeInstances" {
				n++
			}
		}
		sizes = append(sizes, n)
	}
	return sizes
}

func (s *stage) requests() int {
	n := 0
	for _, r := range s.api.Requests() {
		if r.Service != "sts" {
			n++
		}
	}
	return n
}

// each calls see for each item of a world that its page shows.
func each(w providertest.World, see func(providertest.Item)) {
	for _, p := range w.Pages {
		for _, item := range p.Items {
			see(item)
		}
	}
}

func items(w providertest.World) (n int) {
	each(w, func(i providertest.Item) {
		if !i.Gone {
			n++
		}
	})
	return n
}

func address(i providertest.Item) string {
	if i.Malformed {
		return "not-an-address"
	}
	return providertest.Address(i.N).String()
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
			Cost: func(w providertest.World) int { return len(w.Pages) + min(items(w), 1) }, // and the target groups, once
			Serve: func(_ *testing.T, w providertest.World) {
				var inv awstest.Inventory
				each(w, func(i providertest.Item) {
					if !i.Gone {
						inv.Instances = append(inv.Instances, awstest.Instance{ID: fmt.Sprintf("i-%04d", i.N), VPC: "vpc-1", Zone: "eu-west-1a",
							ZoneID: "euw1-az1", IP: address(i), Tags: webTags})
					}
				})
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
			each(w, func(i providertest.Item) {
				c.Tasks = append(c.Tasks, awstest.Task{ID: fmt.Sprintf("%032d", i.N), Service: "web", Definition: "web:1", Subnet: "subnet-1",
					Health: "HEALTHY", IP: address(i), Tags: webTags, Gone: i.Gone})
			})
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
				each(w, func(i providertest.Item) { listed[i.N] = true })
				return len(w.Pages) + (len(listed)+99)/100 + min(items(w), 1)
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
				sizes := make([]int, len(s.world.Pages)) // one service, on the first page
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
				each(w, func(i providertest.Item) {
					service.Instances = append(service.Instances, awstest.Registered{ID: fmt.Sprint(i.N), Attributes: map[string]string{
						"AWS_INSTANCE_IPV4": address(i), "AWS_INSTANCE_PORT": "8080", "mesh/service": "web"}})
				})
				s.serve(w, awstest.Inventory{Namespaces: []awstest.Namespace{{Name: "prod.local", Services: []awstest.Service{service}}}})
			},
		}
	})
}
