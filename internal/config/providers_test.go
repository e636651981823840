package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

func TestProviders(t *testing.T) {
	g, err := Load(write(t, t.TempDir(), "gateway.hcl", `region = "a"
provider "dns" "corp" {
  servers  = ["192.0.2.53:53"]
  interval = "30s"
  ttl      = "0s"
  rate     = "90/m"
  name "web.example.com" {
    port    = 80
    service = "web"
  }
  discover {
    service        = "web"
    namespace      = "shop"
    accounts       = ["1*"]
    regions        = ["eu-*"]
    networks       = ["vpc-1"]
    unknown_health = "failing"
    export         = ["b"]
  }
  discover {
    service = "*"
  }
}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Provider{{Kind: "dns", Name: "corp", Interval: 30 * time.Second, TTL: -1, Rate: poll.Limit{Rate: 1.5, Burst: 3},
		Config: &DNSProvider{Servers: []string{"192.0.2.53:53"}, Names: []DNSName{{Name: "web.example.com", Port: 80, Service: "web"}}},
		Discover: []federation.Discover{
			{Service: "web", Namespace: "shop", Accounts: []string{"1*"}, Regions: []string{"eu-*"}, Networks: []string{"vpc-1"},
				UnknownHealth: federation.HealthFailing, Export: []string{"b"}},
			{Service: "*"}}}}
	if diff := cmp.Diff(want, g.Providers); diff != "" {
		t.Errorf("providers (-want +got):\n%s", diff)
	}
	next := *g
	next.Providers = []Provider{want[0]}
	if got := Reloadable(g, &next); len(got) != 0 {
		t.Errorf("equal providers differ: %v", got)
	}
	next.Providers[0].Interval = time.Minute
	if got := Reloadable(g, &next); len(got) != 1 || got[0] != "provider" || Merge(g, &next).Providers[0].Interval != time.Minute {
		t.Errorf("changed: %v", got)
	}
}

func TestProvidersThatAreRefused(t *testing.T) {
	const name, discover = "name \"a.example.com\" {\n port = 1\n service = \"web\"\n}\n", "discover {\n service = \"web\"\n}\n"
	for _, c := range []struct{ body, want string }{
		{name, "Without a discover block nothing that it lists is used"},
		{name + discover + "intervall = \"1s\"\n", "Did you mean \"interval\"?"},
		{name + discover + "rates = \"1/s\"\n", "Did you mean \"rate\"?"},
		{name + "discovr {\n service = \"*\"\n}\n", "Did you mean \"discover\"?"},
		{discover + "nam \"a.example.com\" {\n port = 1\n service = \"web\"\n}\n", "Did you mean \"name\"?"},
		{discover + "name \"a.example.com\" {\n prot = 1\n service = \"web\"\n}\n", "Did you mean \"port\"?"},
		{name + "discover {\n servce = \"*\"\n}\n", "Did you mean \"service\"?"},
		{name + "discover {\n service = \"*\"\n acounts = [\"1\"]\n}\n", "Did you mean \"accounts\"?"},
		{name + "discover {\n service = \"*\"\n unknown_healt = \"failing\"\n}\n", "Did you mean \"unknown_health\"?"},
		{name + discover + "rate = \"fast\"\n", "such as \"10/s\""},
		{name + discover + "rate = \"0/s\"\n", "from one an hour"},
		{name + discover + "serverss = []\n", "Did you mean \"servers\"?"},
		{name + discover + "interval = \"1ms\"\n", "at least 1s"},
		{name + discover + "ttl = \"-1s\"\n", "is negative"},
		{name + "discover {\n service = \"a*b\"\n}\n", "may only be the last character"},
		{name + "discover {\n service = \"Web\"\n}\n", "only lower case letters"},
		{name + "discover {\n}\n", "The argument \"service\" is required"},
		{name + "discover {\n service = \"\"\n}\n", "Service is empty"},
		{name + "discover {\n service = \"*\"\n unknown_health = \"good\"\n}\n", "use healthy or failing"},
		{name + "discover {\n service = \"*\"\n export = [\"B\"]\n}\n", "only lower case letters"},
		{name + "discover {\n service = \"*\"\n accounts = [\"\"]\n}\n", "Accounts has an empty entry"},
		{discover + "name \"a\" {\n port = 70000\n service = \"web\"\n}\n", "port"},
	} {
		_, err := Load(write(t, t.TempDir(), "gateway.hcl", "region = \"a\"\nprovider \"dns\" \"p\" {\n"+c.body+"}\n"))
		if federation.CodeOf(err) != "TW-1001" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngives %v\nwant %q", c.body, err, c.want)
		}
	}
	block := "provider \"dns\" \"p\" {\n" + name + discover + "}\n"
	for text, want := range map[string]string{
		"provider \"cloud\" \"p\" {\n" + discover + "}\n": "this release knows",
		block + block: "another provider is called \"p\""[1:],
		"provider \"dns\" \"a/b\" {\n" + name + discover + "}\n": "use 1-63 letters",
	} {
		_, err := Load(write(t, t.TempDir(), "gateway.hcl", "region = \"a\"\n"+text))
		if federation.CodeOf(err) != "TW-1001" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v\nwant %q", text, err, want)
		}
	}
}

func TestSyncToConsul(t *testing.T) {
	load := func(block string) (*Gateway, error) {
		return Load(write(t, t.TempDir(), "gateway.hcl", "region = \"a\"\nprovider \"consul\" \"p\" {\n discover {\n  service = \"*\"\n }\n"+block+"\n}\n"))
	}
	g, err := load("sync_to_consul {\n services = [\"shop/*\", \"web\"]\n prefix = \"tw-\"\n ttl = \"5s\"\n}")
	if err != nil {
		t.Fatal(err)
	}
	sync := g.Providers[0].Config.(*ConsulProvider).Sync
	if sync.TTLOf() != 5*time.Second || sync.Prefix != "tw-" {
		t.Errorf("read as %+v", sync)
	}
	for name, want := range map[string]bool{"shop/cart": true, "web": true, "webs": false, "other/web": false} {
		service, err := federation.ParseServiceName(name)
		if err != nil {
			t.Fatal(err)
		}
		if sync.Wants(service) != want || !new(SyncToConsul).Wants(service) {
			t.Errorf("%s is wanted: %v", name, !want)
		}
	}
	for block, want := range map[string]string{
		"sync_to_consul {\n ttl = \"1s\"\n}":             "at least 2s",
		"sync_to_consul {\n ttl = \"soon\"\n}":           "at least 2s",
		"sync_to_consul {\n address = \"0.0.0.0\"\n}":    "other hosts can reach",
		"sync_to_consul {\n services = [\"web@gcp\"]\n}": "leave out the region",
		"sync_to_consul {\n prefx = \"tw-\"\n}":          "Did you mean \"prefix\"?",
		"sync_to_consul {\n}\nsync_to_consul {\n}":       "Only one sync_to_consul block",
	} {
		if _, err := load(block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v\nwant %q", block, err, want)
		}
	}
}
