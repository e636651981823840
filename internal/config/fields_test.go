package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

// rest says what the other texts of this room do not.
const rest = `
service "checks" {
  protocol = "grpc"
  instance "a" {
    address = "192.0.2.1:8080"
    zone    = "use1-az1"
    weight  = 50
    labels  = { version = "2" }
  }
  check "http" {
    path            = "/healthz"
    host            = "shop.example.com"
    port            = 9090
    interval        = "5s"
    timeout         = "1s"
    healthy_after   = 2
    unhealthy_after = 3
    tls             = true
    tls_server_name = "shop.internal.example.com"
    tls_ca_file     = "/etc/ssl/shop.pem"
    method          = "POST"
    headers         = { "Authorization" = "Bearer probe", "X-Probe" = "mesh" }
    body            = "ping"
    status          = [200, 401]
  }
  check "grpc" {
    grpc_service    = "shop.Cart"
    tls             = true
    tls_skip_verify = true
  }
  check "ttl" { ttl = "1m" }
}
export "checks" {
  to     = ["*"]
  detail = "endpoints"
}
intention "checks" {
  source      = "web"
  destination = "checks"
  action      = "allow"
  require     = "mtls"
  mode        = "shadow"
  description = "on trial"
  http {
    path  = "/a"
    hosts = ["shop.example.com"]
    header "X-Tier" { prefix = "gold" }
    query "debug" { exact = ["1"] }
  }
  http { grpc = "shop.Cart/Add" }
}
resolver "checks" {
  connect_timeout = "1s"
  no_idle_timeout = true
  outlier {
    eject_for           = "1m"
    max_ejected_percent = 20
  }
  affinity { header = "X-Session" }
}
resolver "web" {
  affinity { source = true }
}
route "checks" {
  rule "rewrite" {
    match {
      path = "/a"
      header "X-Tier" { prefix = "gold" }
    }
    rewrite { path = "/b" }
    response_headers { add = { "X-Served-By" = "mesh" } }
    idle_timeout = "1m"
    retry { all_methods = true }
    fault {
      abort         = 503
      abort_percent = 1
    }
  }
  rule "prefix" {
    match { path_prefix = "/old/" }
    rewrite { path_prefix = "/new/" }
  }
  rule "redirect" {
    match { path_template = "/items/{id}" }
    redirect {
      scheme = "https"
      host   = "shop.example.com"
      path   = "/"
    }
  }
}
drain "aws-us-east-1" {
  since    = "2026-01-02T03:04:05Z"
  by       = "an operator"
  until    = "2026-01-02T04:04:05Z"
  reset_at = "2026-01-02T05:04:05Z"
}
upstream "checks" {
  service    = "checks"
  listen     = "0.0.0.0:9001"
  caller     = "web"
  allow_from = ["192.0.2.0/24"]
}
`

// TestEveryFieldCanBeWritten holds that each field of each resource can be set in HCL and comes back from it: a field that the
// reader or the writer forgets would be lost by "tradewind get -o hcl".
func TestEveryFieldCanBeWritten(t *testing.T) {
	seen := map[string]bool{} // "Type.Field"
	for _, text := range []string{shop, rest, web, public, tokens, choosy} {
		first, err := ParseResources(write(t, t.TempDir(), "first.hcl", text))
		if err != nil {
			t.Fatal(err)
		}
		second, err := ParseResources(write(t, t.TempDir(), "second.hcl", string(FormatHCL(first))))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range first {
			if !reflect.DeepEqual(r.Spec, second[i].Spec) {
				t.Errorf("%v became\n%v", r, second[i])
			}
			note(reflect.ValueOf(r.Spec), seen)
		}
	}
	for _, kind := range federation.Kinds() {
		want := map[string]bool{}
		wordsOf(reflect.TypeOf(federation.NewSpec(kind)), want)
		for f := range want {
			if !seen[f] {
				t.Errorf("%s: no text of this room sets %s", kind, f)
			}
		}
	}
}

// ours reports whether typ is a struct of this project whose fields are words of a resource.
func ours(typ reflect.Type) bool {
	return typ.Kind() == reflect.Struct && strings.Contains(typ.PkgPath(), "tradewind")
}

// words are the fields of typ that stand in its JSON.
func words(typ reflect.Type) []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(typ), func(f reflect.StructField) bool {
		return !f.IsExported() || f.Anonymous || f.Tag.Get("json") == "-"
	})
}

func note(v reflect.Value, seen map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			note(v.Elem(), seen)
		}
	case reflect.Slice:
		for i := range v.Len() {
			note(v.Index(i), seen)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			note(v.MapIndex(k), seen)
		}
	case reflect.Struct:
		if !ours(v.Type()) {
			return
		}
		for _, f := range words(v.Type()) {
			if at := v.FieldByIndex(f.Index); !at.IsZero() {
				seen[v.Type().Name()+"."+f.Name] = true
				note(at, seen)
			}
		}
	}
}

func wordsOf(typ reflect.Type, want map[string]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		wordsOf(typ.Elem(), want)
	case reflect.Struct:
		if !ours(typ) {
			return
		}
		for _, f := range words(typ) {
			if name := typ.Name() + "." + f.Name; !want[name] {
				want[name] = true
				wordsOf(f.Type, want)
			}
		}
	}
}
