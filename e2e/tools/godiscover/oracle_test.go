// Package godiscover compares retry_join with go-discover, HashiCorp's library that its syntax comes from: both read the same words, and
// both ask the same double of EC2. It is a module of its own because go-discover is no part of the product.
package godiscover

import (
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"slices"
	"testing"

	discover "github.com/hashicorp/go-discover"
	"github.com/hashicorp/go-discover/provider/aws"
	"github.com/tradewind-mesh/tradewind/internal/config"
	ours "github.com/tradewind-mesh/tradewind/providers/aws"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// fleet has gateways and others in every state, with one, several and no addresses of each kind.
func fleet() awstest.Inventory {
	gateway := map[string]string{"role": "mesh gateway"}
	inv := awstest.Inventory{}
	for i, state := range []string{"", "", "stopped", "pending", "shutting-down", "terminated", "stopping", ""} {
		inv.Instances = append(inv.Instances, awstest.Instance{ID: fmt.Sprintf("i-%d", i), State: state, IP: fmt.Sprintf("192.0.2.%d", 10+i),
			Public: fmt.Sprintf("198.51.100.%d", 10+i), IPv6: []string{fmt.Sprintf("2001:db8::%d", 10+i)}, Tags: gateway})
	}
	return awstest.Inventory{Instances: append(inv.Instances,
		awstest.Instance{ID: "i-20", IP: "192.0.2.20", Secondary: []string{"192.0.2.120"}, Tags: gateway},
		awstest.Instance{ID: "i-21", IP: "192.0.2.21", Tags: map[string]string{"role": "web"}},
		awstest.Instance{ID: "i-22", IP: "192.0.2.22", Tags: map[string]string{"mesh gateway": "role"}},
		awstest.Instance{ID: "i-23", IP: "192.0.2.23", Tags: gateway, Where: awstest.Where{Region: "us-east-1"}},
		awstest.Instance{ID: "i-24", IP: "192.0.2.24"})}
}

// TestTheSameAddresses: what one finds the other finds, with nothing but the one permission that go-discover needs.
func TestTheSameAddresses(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "example")
	api := awstest.New(fleet())
	api.Fail = func(r awstest.Request) *awstest.Failure {
		if r.Action() != "ec2:DescribeInstances" {
			return &awstest.Failure{Fault: awstest.Deny}
		}
		return nil
	}
	server := httptest.NewServer(api)
	defer server.Close()
	found := 0
	for _, words := range []string{
		`tag_key=role tag_value="mesh gateway"`,
		`tag_key=role tag_value="mesh gateway" addr_type=private_v4`,
		`tag_key=role tag_value="mesh gateway" addr_type=public_v4`,
		`tag_key=role tag_value="mesh gateway" addr_type=public_v6`,
		`tag_key=role tag_value=web`,
		`tag_key=role tag_value=none`,
		`tag_key="mesh gateway" tag_value=role`,
	} {
		for _, region := range []string{"eu-west-1", "us-east-1"} {
			text := "provider=aws region=" + region + " endpoint=" + server.URL + " " + words
			args, err := discover.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := (&aws.Provider{}).Addrs(args, quiet())
			if err != nil {
				t.Fatalf("%s: go-discover: %v", text, err)
			}
			j, err := config.ParseJoin(text)
			if err != nil {
				t.Fatal(err)
			}
			kind := map[string]string{"public_v6": ours.PrivateV6}[j.Words["addr_type"]] // as internal/agent translates it
			if kind == "" {
				kind = j.Words["addr_type"]
			}
			addresses, err := ours.Addresses(t.Context(), ours.Filter{Region: j.Words["region"], TagKey: j.Words["tag_key"], TagValue: j.Words["tag_value"],
				AddressType: kind, Endpoint: j.Words["endpoint"]})
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			var own []string
			for _, a := range addresses {
				own = append(own, a.String())
			}
			slices.Sort(own)
			slices.Sort(theirs)
			if !slices.Equal(own, theirs) {
				t.Errorf("%s\ngives %v, and go-discover %v", text, own, theirs)
			}
			found += len(own)
		}
	}
	if found == 0 {
		t.Error("nobody was ever found: the comparison says nothing")
	}
}

// TestAllPagesAreRead: go-discover asks once, and leaves out what is on the second page. This is the one difference that is meant.
func TestAllPagesAreRead(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "example")
	api := awstest.New(fleet())
	api.PageSize = 2
	server := httptest.NewServer(api)
	defer server.Close()
	theirs, err := (&aws.Provider{}).Addrs(map[string]string{"provider": "aws", "region": "eu-west-1", "tag_key": "role", "tag_value": "mesh gateway",
		"endpoint": server.URL}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	own, err := ours.Addresses(t.Context(), ours.Filter{Region: "eu-west-1", TagKey: "role", TagValue: "mesh gateway", Endpoint: server.URL})
	if err != nil || len(own) != 4 || len(theirs) >= len(own) {
		t.Errorf("four run; found %v, %v, and by go-discover %v", own, err, theirs)
	}
}

// TestTheSameWords: what both accept they understand alike, and what go-discover refuses is refused.
func TestTheSameWords(t *testing.T) {
	for _, text := range []string{
		`provider=aws tag_key=a tag_value=b`, `  provider=aws   tag_key=a  `, `"provider"="aws" tag_key="a b"`, `provider=aws tag_value="a \"b\" \\ c"`,
		`provider=aws tag_key="a=b"`, `tag_key=a provider=aws`, `provider=aws tag_key=ä`,
		`provider=aws tag_key`, `provider=aws tag_key=`, `provider=aws =a`, `provider=aws tag_key="a`, `provider=aws tag_key=a tag_key=b`,
		`provider=aws tag_key=a=b`, `provider=aws tag_key="a\"`,
	} {
		theirs, err := discover.Parse(text)
		j, ownErr := config.ParseJoin(text)
		switch {
		case err != nil && ownErr == nil:
			t.Errorf("%s is refused by go-discover: %v", text, err)
		case err == nil && ownErr != nil:
			t.Errorf("%s is refused: %v", text, ownErr)
		case err == nil && !maps.Equal(j.Words, map[string]string(theirs)):
			t.Errorf("%s is %v, and to go-discover %v", text, j.Words, theirs)
		}
	}
}
