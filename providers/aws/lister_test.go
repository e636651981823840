package aws

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

func TestConfigNamesAllMistakesAtOnce(t *testing.T) {
	_, err := New(Config{
		Regions: []string{"eu-west-1", "Ireland", "eu-west-1"}, Kinds: []string{"ec2", "lambda"}, AddressType: "public",
		Accounts: []Account{{ExternalID: "x"}, {RoleARN: "arn:aws:iam::1:role/a"}, {RoleARN: "arn:aws:iam::111122223333:role/a"},
			{RoleARN: "arn:aws:iam::111122223333:role/b", Name: "prod"}},
		Clusters: []string{""}, Tags: map[string]string{"": "x"}, Endpoint: "example.com",
	})
	if err == nil {
		t.Fatal("the configuration was accepted")
	}
	for _, part := range []string{`"Ireland"`, `"eu-west-1" is there twice`, `"lambda"`, `"public"`, "external_id", `"arn:aws:iam::1:role/a"`,
		"prod is there twice", "clusters: an entry is empty", "a tag has no name", `"example.com"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not mention %s:\n%v", part, err)
		}
	}
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("an empty configuration gives %v, want that regions and kinds are missing", err)
	}
}

const other = "444455556666"

// TestManyAccountsAndRegions: the process's own account and one by a role, in two regions.
func TestManyAccountsAndRegions(t *testing.T) {
	inv := awstest.Inventory{Roles: []awstest.Role{{ARN: "arn:aws:iam::" + other + ":role/mesh", ExternalID: "secret"}}}
	for _, w := range []awstest.Where{{}, {Region: "us-east-1"}, {Account: other}, {Account: other, Region: "us-east-1"}} {
		id := fmt.Sprintf("i-%s-%s", w.Account, w.Region)
		inv.Instances = append(inv.Instances, awstest.Instance{Where: w, ID: id, IP: "10.1.0.1", VPC: "vpc-1", Zone: "z", ZoneID: "z1"})
		inv.Clusters = append(inv.Clusters, awstest.Cluster{Where: w, Name: "c" + w.Account})
	}
	api, u := serve(t, inv)
	cfg := Config{Kinds: []string{KindEC2, KindECS}, Regions: []string{"eu-west-1", "us-east-1"}, Endpoint: u, NoTargetHealth: true,
		Accounts: []Account{{}, {RoleARN: "arn:aws:iam::" + other + ":role/mesh", ExternalID: "secret", Name: "payments"}}}
	l := open(t, cfg)
	scopes, err := l.Scopes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range scopes {
		if s.Kind == KindECS {
			got = append(got, s.String())
			continue
		}
		listing, err := l.List(t.Context(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s.String()+" "+listing.Records[0].ID)
	}
	if diff := cmp.Diff([]string{
		"aws/eu-west-1/ec2 arn:aws:ec2:eu-west-1:111122223333:instance/i--", "aws/eu-west-1/ecs/c",
		"aws/us-east-1/ec2 arn:aws:ec2:us-east-1:111122223333:instance/i--us-east-1", "aws/us-east-1/ecs/c",
		"aws/444455556666/eu-west-1/ec2 arn:aws:ec2:eu-west-1:444455556666:instance/i-444455556666-",
		"aws/444455556666/eu-west-1/ecs/c444455556666",
		"aws/444455556666/us-east-1/ec2 arn:aws:ec2:us-east-1:444455556666:instance/i-444455556666-us-east-1",
		"aws/444455556666/us-east-1/ecs/c444455556666"}, got); diff != "" {
		t.Errorf("scopes (-want +got):\n%s", diff)
	}
	if n := api.Counts()["sts:AssumeRole"]; n != 1 {
		t.Errorf("the role was assumed %d times, want once for all regions", n)
	}

	cfg.Accounts[1].ExternalID = "wrong"
	l = open(t, cfg)
	_, err = l.List(t.Context(), poll.Scope{Provider: "aws", Account: other, Region: "eu-west-1", Kind: KindEC2}, nil)
	var denied *poll.DeniedError
	if !errors.As(err, &denied) || denied.Action != "sts:AssumeRole" || denied.Who != "arn:aws:iam::111122223333:user/tradewind" ||
		!errors.Is(err, poll.ErrCredentials) || !strings.Contains(err.Error(), "payments") {
		t.Errorf("List returned %v, want that sts:AssumeRole is denied to us, for the account of that name", err)
	}
	if scopes, err := l.Scopes(t.Context()); err != nil || len(scopes) != 8 { // one stands for the other account's clusters
		t.Errorf("scopes are %v, %v, want those of both accounts", scopes, err)
	}
}

// TestCredentialsThatEnd: the SDK renews a role five minutes before its end; what the API calls expired is dropped.
func TestCredentialsThatEnd(t *testing.T) {
	api, u := serve(t, awstest.Inventory{Instances: []awstest.Instance{{Where: awstest.Where{Account: other}, ID: "i-1", IP: "10.1.0.1"}},
		Roles: []awstest.Role{{ARN: "arn:aws:iam::" + other + ":role/mesh"}}})
	api.CredentialsLast = 4 * time.Minute
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: u, NoTargetHealth: true,
		Accounts: []Account{{RoleARN: "arn:aws:iam::" + other + ":role/mesh"}}})
	scope := poll.Scope{Provider: "aws", Account: other, Region: awstest.Region, Kind: KindEC2}
	for range 2 {
		if _, err := l.List(t.Context(), scope, nil); err != nil {
			t.Fatal(err)
		}
	}
	wantCalls(t, api, map[string]int{"sts:AssumeRole": 2, "ec2:DescribeInstances": 2})

	api.Change(func(s *awstest.Server, _ *awstest.Inventory) { s.CredentialsLast = time.Hour })
	ended := true
	api.Change(func(s *awstest.Server, _ *awstest.Inventory) {
		s.Fail = func(r awstest.Request) *awstest.Failure {
			if ended && r.Service == "ec2" {
				ended = false
				return &awstest.Failure{Fault: awstest.Expired}
			}
			return nil
		}
	})
	if _, err := l.List(t.Context(), scope, nil); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("List returned %v, want that the credentials are of no use", err)
	}
	if _, err := l.List(t.Context(), scope, nil); err != nil {
		t.Errorf("List with new credentials returned %v", err)
	}
	wantCalls(t, api, map[string]int{"sts:AssumeRole": 2, "ec2:DescribeInstances": 2})
}

// TestOwnCredentialsThatEnd are read anew, from wherever they come.
func TestOwnCredentialsThatEnd(t *testing.T) {
	api, u := serve(t, awstest.Inventory{Instances: []awstest.Instance{{Where: awstest.Where{Account: other}, ID: "i-1", IP: "10.1.0.1"}}})
	api.Fail = func(r awstest.Request) *awstest.Failure {
		if r.Account == awstest.Account {
			return &awstest.Failure{Fault: awstest.Expired}
		}
		return nil
	}
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: u, NoTargetHealth: true})
	scope := poll.Scope{Provider: "aws", Region: awstest.Region, Kind: KindEC2}
	if _, err := l.List(t.Context(), scope, nil); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("List returned %v, want that the credentials are of no use", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "ASIA"+other)
	if got := list(t, l, KindEC2, ""); len(got.Records) != 1 {
		t.Errorf("with new credentials records are %v, want one", got.Records)
	}
}

func TestNoCredentialsAtAll(t *testing.T) {
	_, u := serve(t, awstest.Inventory{})
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: u})
	_, err := l.List(t.Context(), poll.Scope{Provider: "aws", Region: awstest.Region, Kind: KindEC2}, nil)
	if !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("List returned %v, want that there are no credentials", err)
	}
}

// TestCredentialsOfTheInstance come from the metadata service, in version 2.
func TestCredentialsOfTheInstance(t *testing.T) {
	api, u := serve(t, awstest.Inventory{Self: awstest.Self{Instance: "i-1"}, Instances: []awstest.Instance{
		{Where: awstest.Where{Account: other}, ID: "i-1", IP: "10.1.0.1"}}})
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	l := open(t, Config{Kinds: []string{KindEC2}, Endpoint: u, NoTargetHealth: true})
	if got := list(t, l, KindEC2, ""); len(got.Records) != 1 || got.Records[0].Account != other || got.Calls != 1 {
		t.Errorf("the listing is %+v, want the instance's own account, in one call", got)
	}
	if api.Counts()["imds:PUT /latest/api/token"] != 1 {
		t.Errorf("requests are %v, want one for a token of the metadata service", api.Counts())
	}
}

// TestEachAPIsErrors: throttled, denied and expired are said in other words by each API.
func TestEachAPIsErrors(t *testing.T) {
	inv := shop()
	inv.Namespaces = []awstest.Namespace{{Name: "n", Services: []awstest.Service{
		{Name: "s", Instances: []awstest.Registered{registered("a", "AWS_INSTANCE_IPV4", "10.1.0.1")}}}}}
	inv.TargetGroups = []awstest.TargetGroup{{Name: "a", VPC: "vpc-1"}}
	inv.Kubernetes = []awstest.Kubernetes{{Name: "k"}}
	parts := map[string]string{KindECS: "shop", KindCloudMap: "n"}
	for _, c := range []struct{ kind, action string }{
		{KindEC2, "ec2:DescribeInstances"}, {KindEC2, "elasticloadbalancing:DescribeTargetGroups"}, {KindECS, "ecs:DescribeTasks"},
		{KindECS, "ec2:DescribeSubnets"}, {KindECS, "ecs:DescribeTaskDefinition"}, {KindCloudMap, "servicediscovery:DiscoverInstances"},
		{KindEKS, "eks:DescribeCluster"},
	} {
		for _, fault := range []awstest.Fault{awstest.Throttle, awstest.Deny, awstest.Expired} {
			api, u := serve(t, inv)
			api.Fail = func(r awstest.Request) *awstest.Failure {
				if r.Action() != c.action {
					return nil
				}
				return &awstest.Failure{Fault: fault, RetryAfter: 7 * time.Second}
			}
			l := open(t, Config{Kinds: []string{KindEC2, KindECS, KindCloudMap}, Endpoint: u})
			var err error
			if c.kind == KindEKS {
				_, err = Clusters(t.Context(), l)
			} else {
				var got poll.Listing
				got, err = l.List(t.Context(), poll.Scope{Provider: "aws", Region: awstest.Region, Kind: c.kind, Part: parts[c.kind]}, nil)
				err = errors.Join(err, got.Partial)
			}
			var throttled *poll.ThrottledError
			var denied *poll.DeniedError
			switch fault {
			case awstest.Throttle:
				if !errors.As(err, &throttled) || throttled.RetryAfter != 7*time.Second {
					t.Errorf("%s throttled: %v", c.action, err)
				}
			case awstest.Deny:
				if !errors.As(err, &denied) || denied.Action != c.action || denied.Who != "arn:aws:sts::111122223333:assumed-role/tradewind/tradewind" {
					t.Errorf("%s denied: %v", c.action, err)
				}
			default:
				if !errors.Is(err, poll.ErrCredentials) {
					t.Errorf("%s with credentials that have ended: %v", c.action, err)
				}
			}
		}
	}
}

// TestScopesOutliveAFailure: what was listed once stays, and a place that was never listed hides no other.
func TestScopesOutliveAFailure(t *testing.T) {
	inv := awstest.Inventory{Clusters: []awstest.Cluster{{Name: "a"}, {Name: "b"}, {Where: awstest.Where{Region: "us-east-1"}, Name: "c"}}}
	api, u := serve(t, inv)
	fail := func(region string) {
		api.Change(func(s *awstest.Server, _ *awstest.Inventory) {
			s.Fail = func(r awstest.Request) *awstest.Failure {
				if r.Region == region {
					return &awstest.Failure{Fault: awstest.Unavailable}
				}
				return nil
			}
		})
	}
	l := open(t, Config{Kinds: []string{KindECS}, Regions: []string{"eu-west-1", "us-east-1"}, Endpoint: u})
	for _, step := range []struct{ broken, scopes string }{
		{"us-east-1", "[aws/eu-west-1/ecs/a aws/eu-west-1/ecs/b aws/us-east-1/ecs]"},
		{"", "[aws/eu-west-1/ecs/a aws/eu-west-1/ecs/b aws/us-east-1/ecs/c]"},
		{"eu-west-1", "[aws/eu-west-1/ecs/a aws/eu-west-1/ecs/b aws/us-east-1/ecs/c]"},
	} {
		fail(step.broken)
		if scopes, err := l.Scopes(t.Context()); err != nil || fmt.Sprint(scopes) != step.scopes {
			t.Errorf("with %q broken scopes are %v, %v, want %s", step.broken, scopes, err, step.scopes)
		}
	}
	if _, err := l.List(t.Context(), poll.Scope{Provider: "aws", Region: "eu-west-1", Kind: KindECS}, nil); err == nil {
		t.Error("the scope that stands for unknown clusters lists them although it cannot")
	}
	fail("")
	if _, err := l.List(t.Context(), poll.Scope{Provider: "aws", Region: "eu-west-1", Kind: KindECS}, nil); err != nil {
		t.Errorf("List of all clusters: %v", err)
	}
	if _, err := l.List(t.Context(), poll.Scope{Provider: "aws", Region: "eu-central-1", Kind: KindECS}, nil); err == nil {
		t.Error("a scope that is not configured was listed")
	}
}

func TestEKSClustersAndTheirTokens(t *testing.T) {
	api, u := serve(t, awstest.Inventory{Kubernetes: []awstest.Kubernetes{
		{Name: "prod", Endpoint: "https://k.example.com", CA: "PEM"}, {Name: "new", Status: "CREATING"},
		{Name: "moving", Status: "UPDATING", Endpoint: "https://m.example.com", CA: "PEM"},
		{Where: awstest.Where{Region: "us-east-1"}, Name: "far", Endpoint: "https://f.example.com", CA: "PEM"}}})
	api.PageSize = 1
	l := open(t, Config{Kinds: []string{KindEC2}, Regions: []string{"eu-west-1", "us-east-1"}, Endpoint: u})
	clusters, err := Clusters(t.Context(), l)
	if err != nil || len(clusters) != 3 {
		t.Fatalf("clusters are %v, %v, want three", clusters, err)
	}
	c := clusters[1]
	if c.Name != "prod" || c.Account != awstest.Account || c.Region != "eu-west-1" || c.Endpoint != "https://k.example.com" || string(c.CA) != "PEM" {
		t.Errorf("the cluster is %+v", c)
	}
	token, until, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "k8s-aws-v1."))
	if err != nil || !strings.HasPrefix(token, "k8s-aws-v1.") {
		t.Fatalf("the token is %q, %v", token, err)
	}
	signed, err := url.Parse(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	// As the authenticator in the cluster checks it (aws-iam-authenticator, pkg/token/token.go, Verify).
	q := signed.Query()
	if signed.Scheme != "https" || signed.Host != "sts.eu-west-1.amazonaws.com" || signed.Path != "/" ||
		!strings.Contains(";"+q.Get("X-Amz-SignedHeaders")+";", ";x-k8s-aws-id;") ||
		q.Get("Action") != "GetCallerIdentity" || q.Get("X-Amz-Expires") != "60" || q.Get("X-Amz-Signature") == "" {
		t.Errorf("the token is for %s", signed)
	}
	if left := time.Until(until); left > 14*time.Minute || left < 13*time.Minute {
		t.Errorf("the token lasts %v, want 14 minutes", left)
	}

	api.Change(func(s *awstest.Server, _ *awstest.Inventory) {
		s.Fail = func(r awstest.Request) *awstest.Failure {
			if r.Region == "us-east-1" {
				return &awstest.Failure{Fault: awstest.Deny}
			}
			return nil
		}
	})
	clusters, err = Clusters(t.Context(), l)
	if len(clusters) != 2 || err == nil || !strings.Contains(err.Error(), "us-east-1") {
		t.Errorf("clusters are %v, %v, want those of the region that could be listed, and an error for the other", clusters, err)
	}
}

func TestLocate(t *testing.T) {
	inv := shop()
	inv.Self.Instance = "i-1"
	api, u := serve(t, inv)
	for _, c := range []struct {
		name, task string
		self       awstest.Self
		want       poll.Location
		fails      string
	}{
		{name: "instance", self: awstest.Self{Instance: "i-1"},
			want: poll.Location{Provider: "aws", Region: "eu-west-1", ZoneID: "euw1-az2", Zone: "eu-west-1a", InstanceID: "i-1", Account: awstest.Account}},
		{name: "Fargate", task: "shop/fargate", self: awstest.Self{Task: "shop/fargate"},
			want: poll.Location{Provider: "aws", Region: "eu-west-1", Zone: "eu-west-1a", Account: awstest.Account}},
		{name: "task on an instance", task: "shop/host", self: awstest.Self{Task: "shop/host", Instance: "i-2"},
			want: poll.Location{Provider: "aws", Region: "eu-west-1", ZoneID: "euw1-az3", Zone: "eu-west-1a", InstanceID: "i-2", Account: awstest.Account}},
		{name: "task that may not ask the instance's", task: "shop/awsvpc-on-ec2", self: awstest.Self{Task: "shop/awsvpc-on-ec2", Off: true},
			want: poll.Location{Provider: "aws", Region: "eu-west-1", Zone: "eu-west-1a", Account: awstest.Account}},
		{name: "hop limit", self: awstest.Self{Instance: "i-1", OutOfReach: true}, fails: "--http-put-response-hop-limit 2"},
		{name: "version 1 only", self: awstest.Self{Instance: "i-1", V1: true}, fails: "StatusCode: 405"},
		{name: "off", self: awstest.Self{Instance: "i-1", Off: true}, fails: "switched off"},
		{name: "elsewhere", fails: "ask EC2"},
		{name: "no such task", task: "shop/none", self: awstest.Self{Task: "shop/none"}, fails: "ask ECS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			api.Change(func(_ *awstest.Server, i *awstest.Inventory) { i.Self = c.self })
			t.Setenv("ECS_CONTAINER_METADATA_URI_V4", "")
			if c.task != "" {
				t.Setenv("ECS_CONTAINER_METADATA_URI_V4", u+"/v4/x")
			}
			before := time.Now()
			got, err := Locate(t.Context())
			if took := time.Since(before); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			switch {
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("Locate returned %v, %v, want an error with %q", got, err, c.fails)
			case c.fails == "" && (err != nil || got != c.want):
				t.Errorf("Locate returned %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
	for _, r := range api.Requests() {
		if r.Service == "imds" && strings.HasPrefix(r.Operation, "GET") {
			return
		}
	}
	t.Error("the metadata service was never asked")
}

func FuzzReadTask(f *testing.F) {
	f.Add(`{"TaskARN":"arn:aws:ecs:eu-west-1:111122223333:task/shop/1","AvailabilityZone":"eu-west-1a","LaunchType":"FARGATE"}`)
	f.Add(`{"TaskARN":"arn:aws:ecs::"}`)
	f.Fuzz(func(t *testing.T, body string) {
		here, _, err := readTask(strings.NewReader(body))
		if err == nil && (!accountForm.MatchString(here.Account) || !regionForm.MatchString(here.Region)) {
			t.Errorf("accepted %+v", here)
		}
	})
}

func FuzzPrincipal(f *testing.F) {
	f.Add("User: arn:aws:sts::111122223333:assumed-role/a/b is not authorized to perform: ecs:ListTasks")
	f.Fuzz(func(t *testing.T, message string) {
		if who := principal(message); len(who) > 512+4 || strings.ContainsAny(who, " \n") {
			t.Errorf("the principal is %q", who)
		}
	})
}
