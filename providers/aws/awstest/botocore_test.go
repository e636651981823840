package awstest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
)

var update = flag.Bool("update", false, "write what botocore understands to testdata/understood.json, to be read by a human")

// TestAmazonsOwnLibraryUnderstandsTheAnswers lets botocore, Amazon's client library for Python, ask everything there is, and
// compares what it understood with the inventory. botocore brings the models of the APIs: no member, list or value of an answer
// may be unknown to them.
func TestAmazonsOwnLibraryUnderstandsTheAnswers(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import botocore").Run(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("botocore is missing: install the Debian package python3-botocore")
		}
		t.Skip("botocore is missing: install the Debian package python3-botocore to have the answers checked")
	}
	api := awstest.New(library)
	api.PageSize = 5 // of one page and a bit
	api.Fail = func(r awstest.Request) *awstest.Failure {
		if fault := strings.TrimSuffix(strings.TrimPrefix(r.Region, "eu-"), "-1"); fault != "west" {
			return &awstest.Failure{Fault: awstest.Fault(fault)}
		}
		return nil
	}
	server := httptest.NewServer(api)
	defer server.Close()
	cmd := exec.CommandContext(t.Context(), python, "testdata/botocore_check.py", server.URL)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent",
		"AWS_EC2_METADATA_DISABLED=false")
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Answers json.RawMessage
		Strange []string
		Errors  map[string]string
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	for _, s := range got.Strange {
		t.Error(s)
	}
	checkAnswers(t, got.Answers)
	if diff := cmp.Diff(errors, got.Errors); diff != "" {
		t.Errorf("errors (-want +understood):\n%s", diff)
	}
}

// checkAnswers compares what was understood with the file that was written from it, and read.
func checkAnswers(t *testing.T, answers json.RawMessage) {
	t.Helper()
	const file = "testdata/understood.json"
	var got bytes.Buffer
	if err := json.Indent(&got, answers, "", " "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("answers (-want +understood):\n%s", diff)
	}
}

// errors are how botocore understood the failures of each service.
var errors = map[string]string{
	"ec2 throttle": "503 RequestLimitExceeded", "ecs throttle": "400 ThrottlingException", "elbv2 throttle": "400 Throttling",
	"servicediscovery throttle": "400 RequestLimitExceeded", "eks throttle": "429 ThrottlingException", "sts throttle": "400 Throttling",
	"ec2 deny": "403 UnauthorizedOperation", "ecs deny": "400 AccessDeniedException", "elbv2 deny": "403 AccessDenied",
	"servicediscovery deny": "400 AccessDeniedException", "eks deny": "403 AccessDeniedException", "sts deny": "403 AccessDenied",
	"ec2 expired": "400 RequestExpired", "ecs expired": "400 ExpiredTokenException", "elbv2 expired": "403 ExpiredToken",
	"servicediscovery expired": "400 ExpiredTokenException", "eks expired": "400 ExpiredTokenException", "sts expired": "403 ExpiredToken",
	"ec2 unavailable": "500 InternalError", "ecs unavailable": "500 ServerException", "elbv2 unavailable": "500 InternalFailure",
	"autoscaling throttle": "400 Throttling", "autoscaling deny": "403 AccessDenied", "autoscaling expired": "403 ExpiredToken",
	"autoscaling unavailable":      "500 InternalFailure",
	"servicediscovery unavailable": "500 ServerException", "eks unavailable": "500 ServerException", "sts unavailable": "500 InternalFailure",
}

// library has one of everything.
var library = awstest.Inventory{
	Instances: []awstest.Instance{
		{ID: "i-1", VPC: "vpc-1", Subnet: "subnet-1", Zone: "eu-west-1a", ZoneID: "euw1-az2", IP: "10.1.0.1", Secondary: []string{"10.1.0.9"},
			IPv6: []string{"2001:db8::1"}, Public: "192.0.2.1",
			Group: "web", Lifecycle: "Terminating:Wait", Sick: true, Tags: map[string]string{"team": "shop", "mesh/service": "cart"}},
		{ID: "i-2", IP: "10.1.0.2", State: "stopping", Tags: map[string]string{"team": "shop"}},
		{ID: "i-3", IP: "10.1.0.3", Zone: "eu-west-1b", Group: "other", Tags: map[string]string{"team": "<other & more>"}},
		{ID: "i-4", IP: "10.1.0.4", Tags: map[string]string{"team": "shop"}},
		{ID: "i-5", IP: "10.1.0.5", Tags: map[string]string{"team": "shop"}},
		{ID: "i-6", IP: "10.1.0.6", Tags: map[string]string{"team": "shop"}},
		{ID: "i-7", IP: "10.1.0.7", Tags: map[string]string{"team": "shop"}},
		{ID: "i-8", IP: "10.1.0.8", Where: awstest.Where{Account: "444455556666"}},
	},
	Zones:   []awstest.Zone{{Name: "eu-west-1a", ID: "euw1-az2"}},
	Subnets: []awstest.Subnet{{ID: "subnet-1", VPC: "vpc-1", Zone: "eu-west-1a", ZoneID: "euw1-az2"}},
	Clusters: []awstest.Cluster{{Name: "shop", Hosts: map[string]string{"h1": "i-1"}, Tasks: []awstest.Task{
		{ID: "t1", Service: "web", Definition: "web:3", IP: "10.1.0.20", IPv6: "2001:db8::20", Subnet: "subnet-1", Health: "HEALTHY",
			Tags: map[string]string{"mesh/service": "web"}},
		{ID: "t2", Definition: "old:1", Host: "h1", Last: "PENDING", Bindings: []awstest.Binding{
			{Container: "old", ContainerPort: 80, HostPort: 32768}}},
		{ID: "t3", Gone: true}, {ID: "t4", Failure: "ACCESS_DENIED"},
	}}},
	Definitions: []awstest.Definition{{Name: "web:3", Tags: map[string]string{"team": "shop"}, Containers: []awstest.Container{
		{Name: "web", Labels: map[string]string{"mesh/port": "http"}, Ports: []awstest.Port{
			{Name: "http", Container: 8080, Host: 8080, App: "http"}}}}}},
	Namespaces: []awstest.Namespace{{Name: "prod.local", HTTPName: "prod.http", Services: []awstest.Service{
		{Name: "cart", Checked: true, Revision: 7, Instances: []awstest.Registered{
			{ID: "a", Attributes: map[string]string{"AWS_INSTANCE_IPV4": "10.1.0.30", "AWS_INSTANCE_PORT": "80"}},
			{ID: "b", Attributes: map[string]string{"AWS_INSTANCE_IPV4": "10.1.0.31"}, Health: "UNHEALTHY"}}},
		{Name: "queue", Instances: []awstest.Registered{{ID: "q", Attributes: map[string]string{"url": "https://queue.example.com"}}}},
	}}},
	TargetGroups: []awstest.TargetGroup{
		{Name: "web", VPC: "vpc-1", Type: "ip", Port: 8080, Targets: []awstest.Target{{ID: "10.1.0.20", Port: 8080}, {ID: "10.1.0.21", Port: 8080,
			State: "draining"}}},
		{Name: "spare", Unused: true},
	},
	Kubernetes: []awstest.Kubernetes{{Name: "k1", Endpoint: "https://k1.example.com", CA: "-----BEGIN CERTIFICATE-----"},
		{Name: "k2", Status: "CREATING"}},
	Roles: []awstest.Role{{ARN: "arn:aws:iam::444455556666:role/mesh", ExternalID: "secret"}},
	Self:  awstest.Self{Instance: "i-1"},
}
