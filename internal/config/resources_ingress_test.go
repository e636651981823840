package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

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

  rate_limit {
    per   = "client"
    rate  = "100/s"
    burst = 200
  }
  error_page {
    status    = [502, 503, 504]
    body_file = "/etc/tradewind/sorry.html"
  }
  tls {
    certificate = "/etc/tradewind/tls/*.crt"
    key         = "/etc/tradewind/tls/*.key"
  }
  tls {
    certificate = "/etc/tradewind/other.pem"
    key         = "/etc/tradewind/other.pem"
  }
  tls {
    acme {
      email        = "ops@example.com"
      directory    = "https://acme.example.com/directory"
      ca_file      = "/etc/tradewind/acme.pem"
      names        = ["shop.example.com", "a.example.com"]
      terms_agreed = true
    }
  }
  host "shop.example.com" {
    service       = "web@aws-us-east-1"
    require_token = ["idp", "partners"]
    compress      = ["gzip"]
    rate_limit {
      per  = "client"
      rate = "10/m"
    }
    cors {
      origins     = ["https://app.example.com", "http://localhost:3000"]
      methods     = ["PUT"]
      headers     = ["authorization"]
      expose      = ["x-request-id"]
      credentials = true
      max_age     = "10m0s"
    }
    error_page {
      status       = [404]
      body         = "{\"error\": \"$${none}\"}\n"
      content_type = "application/json"
    }
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
		g.Hosts[0].Service.Region != "aws-us-east-1" || g.Hosts[0].Paths[0].Service.Service.Namespace != "shop" || len(g.TLS) != 3 || g.TLS[2].ACME.Names[1] != "a.example.com" {
		t.Errorf("read %+v", first[1].Spec)
	}
	h := g.Hosts[0]
	if len(g.RateLimits) != 1 || g.RateLimits[0].Burst != 200 || h.RateLimits[0].Rate.Count != 10 || h.RequireToken[1] != "partners" ||
		h.CORS == nil || !h.CORS.Credentials || h.CORS.MaxAge.D() != 10*time.Minute || h.Compress[0] != "gzip" ||
		g.ErrorPages[0].Status[2] != 504 || h.ErrorPages[0].Body != "{\"error\": \"${none}\"}\n" {
		t.Errorf("read %+v", g)
	}
	b, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var back federation.Ingress
	if err := json.Unmarshal(b, &back); err != nil || back.Validate("public") != nil || !reflect.DeepEqual(&back, g) {
		t.Errorf("%s\ncame back as %+v, %v", b, back, err)
	}
}

func TestMistakesInIngresses(t *testing.T) {
	const tls = "tls {\n certificate = \"/a.crt\"\n key = \"/a.key\"\n}\n"
	const host = "host \"a.example.com\" {\n service = \"web\"\n}\n"
	inHost := func(says string) string { return "host \"a.example.com\" {\n service = \"web\"\n" + says + "\n}\n" }
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
		{host + "tls {\n certificate = \"/a.crt\"\n}", "write certificate and key, or an acme block"},
		{host + acme("names = [\"*.example.com\"]"), "DNS-01"},
		{host + acme("names = [\"192.0.2.1\"]"), "is an address"},
		{host + acme("names = [\"b.example.com\"]"), "no host of the ingress"},
		{host + acme("names = [\"a.example.com\", \"a.example.com\"]"), "there twice"},
		{host + acme("directory = \"http://acme.example.com/\""), "no URL such as"},
		{host + acme("ca_file = \"acme.pem\""), "no absolute path"},
		{host + acme("") + acme(""), "acme is there 2 times"},
		{host + strings.Replace(acme(""), "true", "false", 1), "terms of service"},
		{host + strings.Replace(acme(""), "tls {", "tls {\ncertificate = \"/a.crt\"", 1), "acme excludes certificate"},
		{host + strings.Replace(acme(""), "ops@example.com", "ops", 1), "is no address"},
		{"host \"*.example.com\" { service = \"web\" }\n" + acme(""), "no names to order"},
		{host + `max_body = "10MB"`, "such as \"512KiB\""},
		{host + `max_header = "2MiB"`, "not between"},
		{host + `max_connections = -1`, "negative"},
		{host + "rate_limit {\n per = \"caller\"\n rate = \"1/s\"\n}", "counts per client"},
		{host + "rate_limit {\n per = \"client\"\n rate = \"0/s\"\n}", "allows nothing"},
		{"tcp = \"db\"\nrate_limit {\n per = \"client\"\n rate = \"1/s\"\n}", "need host"},
		{inHost("cors { origins = [] }"), "0 origins"},
		{inHost("cors { origins = [\"*\", \"https://a.example.com\"] }"), "as browsers send it"},
		{inHost("cors { origins = [\"https://*.example.com\"] }"), "as browsers send it"},
		{inHost("cors { origins = [\"https://a.example.com/\"] }"), "as browsers send it"},
		{inHost("cors { origins = [\"https://A.example.com\"] }"), "as browsers send it"},
		{inHost("cors { origins = [\"https://a.example.com:443\"] }"), "as browsers send it"},
		{inHost("cors { origins = [\"null\"] }"), "as browsers send it"},
		{inHost("cors {\n origins = [\"*\"]\n credentials = true\n}"), "credentials exclude"},
		{inHost("cors {\n origins = [\"https://a.example.com\"]\n headers = [\"*\"]\n credentials = true\n}"), "credentials exclude"},
		{inHost("cors {\n origins = [\"*\"]\n methods = [\"GET, PUT\"]\n}"), "no name"},
		{inHost("cors {\n origins = [\"*\"]\n max_age = \"25h\"\n}"), "max_age"},
		{inHost(`compress = ["br"]`), `write ["gzip"]`},
		{inHost(`require_token = ["A b"]`), "require_token"},
		{inHost("error_page {\n status = [200]\n body = \"x\"\n}"), "no error"},
		{inHost("error_page {\n status = [502, 502]\n body = \"x\"\n}"), "there twice"},
		{inHost("error_page {\n status = []\n body = \"x\"\n}"), "names no status"},
		{inHost("error_page { status = [502] }"), "either body or body_file"},
		{inHost("error_page {\n status = [502]\n body_file = \"a.html\"\n}"), "no absolute path"},
		{inHost("error_page {\n status = [502]\n body = \"x\"\n content_type = \"a\\r\\nb\"\n}"), "content_type"},
		{inHost("error_page {\n status = [502]\n body = \"" + strings.Repeat("x", 64<<10+1) + "\"\n}"), "at most 64KiB"},
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

// acme is a tls block whose certificates are ordered, with more in it.
func acme(more string) string {
	return "tls {\n acme {\n email = \"ops@example.com\"\n terms_agreed = true\n " + more + "\n}\n}\n"
}
