package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

const public = `
ingress "public" {
  listen          = "0.0.0.0:443"
  identity        = "edge/ingress"
  http3           = true
  trusted_proxies = ["192.0.2.0/24", "2001:db8::/32"]
  max_body        = "10MiB"
  max_header      = "32KiB"
  max_connections = 1000

  max_connections_per_client = 10

  tls {
    certificate = "/etc/tradewind/tls/*.crt"
    key         = "/etc/tradewind/tls/*.key"
  }
  tls {
    certificate = "/etc/tradewind/other.pem"
    key         = "/etc/tradewind/other.pem"
  }
  host "shop.example.com" {
    service = "web@aws-us-east-1"
    path_prefix "/api" { service = "shop/api" }
  }
  host "*.example.com" {
    path_prefix "/" { service = "any" }
  }
  passthrough "db.example.com" { service = "db" }
}
ingress "raw" {
  listen         = "[::]:5432"
  identity       = "ingress"
  tcp            = "db"
  proxy_protocol = true
  trusted_proxies = ["192.0.2.0/24"]
}
ingress "plain" {
  listen         = "0.0.0.0:80"
  identity       = "ingress"
  https_redirect = true
}
`

func TestIngressesRoundTripThroughHCL(t *testing.T) {
	dir := t.TempDir()
	first, err := ParseResources(write(t, dir, "in.hcl", public))
	if err != nil {
		t.Fatal(err)
	}
	second, err := ParseResources(write(t, dir, "again.hcl", string(FormatHCL(first))))
	if err != nil {
		t.Fatalf("%v\n%s", err, FormatHCL(first))
	}
	if len(first) != 3 || len(second) != 3 {
		t.Fatalf("%d and %d ingresses", len(first), len(second))
	}
	for i := range first {
		if !reflect.DeepEqual(first[i].Spec, second[i].Spec) {
			t.Errorf("%s\ncame back as\n%s", FormatHCL(first), FormatHCL(second))
		}
	}
	g, ok := first[1].Spec.(*federation.Ingress)
	if !ok || g.Name != "public" || g.MaxBody != 10<<20 || g.MaxHeader != 32<<10 || g.Identity.Namespace != "edge" ||
		g.Hosts[0].Service.Region != "aws-us-east-1" || g.Hosts[0].Paths[0].Service.Service.Namespace != "shop" || len(g.TLS) != 2 {
		t.Errorf("read %+v", first[1].Spec)
	}
}

func TestMistakesInIngresses(t *testing.T) {
	const tls = "tls {\n certificate = \"/a.crt\"\n key = \"/a.key\"\n}\n"
	const host = "host \"a.example.com\" {\n service = \"web\"\n}\n"
	for _, c := range []struct{ says, want string }{
		{"", "leads nowhere"},
		{`tcp = "db"` + "\n" + host, "excludes host"},
		{host + "passthrough \"b.example.com\" {\n service = \"db\"\n}", "needs tls"},
		{tls + "passthrough \"b.example.com\" {\n service = \"db\"\n}", "serves no host"},
		{host + tls + "https_redirect = true", "clear text"},
		{host + "http3 = true", "needs tls and host"},
		{host + tls + "http3 = true\nproxy_protocol = true\ntrusted_proxies = [\"192.0.2.0/24\"]", "exclude each other"},
		{host + "proxy_protocol = true", "without trusted_proxies"},
		{host + `trusted_proxies = ["192.0.2.1/24"]`, "no network"},
		{host + host, "there twice"},
		{`host "A.example.com" { service = "web" }`, "small letters"},
		{`host "a.example.com" {}`, "no service"},
		{"host \"a.example.com\" {\n path_prefix \"api\" { service = \"web\" }\n}", "slash"},
		{host + "tls {\n certificate = \"a.crt\"\n key = \"/a.key\"\n}", "no absolute path"},
		{host + "tls {\n certificate = \"/a/*.crt\"\n key = \"/a.key\"\n}", "or neither"},
		{host + "tls {\n certificate = \"/*/a.crt\"\n key = \"/*/a.key\"\n}", "name of the file"},
		{host + "tls {\n certificate = \"/a.crt\"\n key = \"-----BEGIN PRIVATE KEY-----\"\n}", "do not belong into resources"},
		{host + `max_body = "10MB"`, "such as \"512KiB\""},
		{host + `max_header = "2MiB"`, "not between"},
		{host + `max_connections = -1`, "negative"},
		{host + `max_conections = 1`, `Did you mean "max_connections"?`},
	} {
		_, err := ParseResources(write(t, t.TempDir(), "r.hcl", "ingress \"x\" {\nlisten = \"127.0.0.1:80\"\nidentity = \"in\"\n"+c.says+"\n}"))
		if federation.CodeOf(err) != "TW-1004" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngave %v, want %q", c.says, err, c.want)
		}
	}
	_, err := ParseResources(write(t, t.TempDir(), "r.hcl", "ingress \"x\" {\nlisten = \"example.com:80\"\nidentity = \"in\"\n"+host+"}"))
	if err == nil || !strings.Contains(err.Error(), "IP:PORT") {
		t.Errorf("a listener by name gave %v", err)
	}
}
