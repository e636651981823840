package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the commands print to testdata instead of comparing")

// commands are the command lines of TestGolden by the name of their file; DIR is the directory of the test.
var commands = map[string]string{
	"status": "status", "status-wide": "status -o wide", "status-json": "status -o json", "status-strict": "status --strict",
	"status-color": "status --color always",
	"check":        "check", "check-short": "check --short", "check-wide": "check -o wide --peer gcp-europe-west1",
	"check-name":    "check -o name",
	"services-list": "services list", "services-jsonl": "services list -o jsonl", "services-name": "services list -o name",
	"services-show": "services show checkout", "services-show-none": "services show nothing",
	"services-export":        "services export checkout --to azure-westeurope --allow web",
	"services-export-again":  "services export checkout --to gcp-europe-west1",
	"services-export-nobody": "services export checkout", "services-unexport": "services unexport checkout",
	"services-unexport-other": "services unexport checkout --from azure-westeurope",
	"get":                     "get", "get-wide": "get -o wide", "get-kind": "get intentions", "get-one": "get intention web-to-checkout",
	"get-hcl": "get -o hcl", "get-json": "get export -o json",
	"get-none": "get export nothing", "get-kind-unknown": "get exprot",
	"plan": "plan -f DIR/shop.hcl", "plan-none": "plan -f DIR/same.hcl", "plan-bad": "plan -f DIR/bad.hcl",
	"plan-prune": "plan -f DIR/shop.hcl --prune --force", "plan-missing": "plan -f /nonexistent/x.hcl", "plan-nothing": "plan",
	"apply": "apply -f DIR/shop.hcl", "apply-json": "apply -f DIR/shop.hcl -o json", "apply-dry": "apply --dry-run -f DIR/shop.hcl",
	"delete": "delete export checkout", "delete-none": "delete export nothing", "delete-usage": "delete export",
	"intention-list": "intention list", "intention-allow": "intention allow shop/web@gcp-europe-west1 checkout --require mtls",
	"intention-deny": "intention deny web checkout",
	"intention-bad":  "intention allow web UPPER", "intention-test": "intention test web search",
	"intention-test-denied": "intention test web@gcp-europe-west1 checkout",
	"explain":               "explain web search", "explain-denied": "explain web@gcp-europe-west1 checkout",
	"explain-json":        "explain web@gcp-europe-west1 checkout -o json",
	"explain-conditional": "explain web api", "explain-request": "explain web api --path /x --header x-canary:1 --host api.example.com",
	"explain-request-wide": "explain web api --method POST -o wide", "explain-answered": "explain web api --path /old",
	"explain-refused": "explain web api --path /../x", "explain-header-bad": "explain web api --header nonsense",
	"intention-test-request": "intention test web api --method PUT", "intention-test-conditional": "intention test web api",
	"intention-test-answered": "intention test web api --path /old",
	"route-list":              "route list", "route-list-name": "route list -o name", "route-show": "route show api", "route-show-none": "route show nothing",
	"route-show-json": "route show api -o json", "route-test": "route test GET http://api/old --from web",
	"route-test-json": "route test GET http://api@azure-westeurope/old?x=1 -o json --from web", "route-test-service": "route test POST /x --service shop/api",
	"route-test-none": "route test GET /x", "route-test-scheme": "route test GET ftp://api/x",
	"explain-token": "explain web api --path /admin --token DIR/jwt", "explain-token-expired": "explain web api --token DIR/expired",
	"explain-token-claims": "explain web api --token DIR/user", "explain-token-json": "explain web api --token DIR/user -o json",
	"explain-token-missing": "explain web api --token DIR/nothing", "explain-token-inline": "explain web api --token eyJhbGciOiJFUzI1NiJ9.e30.x",
	"explain-token-stdin": "explain web api --token -", "intention-test-token": "intention test web api --token DIR/expired",
	"route-test-token": "route test GET http://api/admin --from web --token DIR/jwt",
	"explain-limits":   "explain web busy", "explain-limits-json": "explain web busy -o json",
	"explain-sick": "explain web sick", "explain-sick-json": "explain web sick -o json",
	"explain-unreachable": "explain web ghost", "explain-bad": "explain web @x",
	"ping": "ping gcp-europe-west1", "ping-none": "ping nowhere", "ping-dead": "ping azure-westeurope",
	"ping-json":  "ping gcp-europe-west1 -o json",
	"peer-token": "peer generate-token gcp-europe-west1", "peer-establish": "peer establish gcp-europe-west1 --token DIR/token",
	"peer-establish-used": "peer establish --token DIR/used", "peer-establish-no-file": "peer establish --token /nonexistent/token",
	"peer-list": "peer list", "peer-wide": "peer list -o wide", "peer-show": "peer show azure-westeurope",
	"peer-show-none": "peer show nowhere",
	"peer-pause":     "peer pause gcp-europe-west1", "peer-resume": "peer resume gcp-europe-west1",
	"peer-remove": "peer remove gcp-europe-west1", "peer-remove-untold": "peer remove azure-westeurope",
	"peer-wait": "peer wait gcp-europe-west1", "peer-wait-timeout": "peer wait azure-westeurope --timeout 200ms",
	"peer-wait-bad": "peer wait gcp-europe-west1 --for Happy",
	"cert-list":     "cert list", "cert-issue": "cert issue shop/web --out DIR/tls",
	"cert-revoke":          "cert revoke 3a --reason lost",
	"peer-establish-empty": "peer establish", "cert-rotate-ca": "cert rotate-ca", "cert-rotate-ca-json": "cert rotate-ca -o json",
	"instance-register":   "instance register checkout --address 192.0.2.12:8080 --check http:/healthz --zone a --label tier=gold",
	"instance-bad":        "instance register checkout --address checkout.example.com:80",
	"instance-deregister": "instance deregister checkout checkout-2", "instance-heartbeat": "instance heartbeat checkout checkout-2",
	"instance-register-owned": "instance register checkout --address 192.0.2.12:8080 --check https:/healthz --check ttl --ttl 30s " +
		"--deregister-after 1h --owner-token-file DIR/token",
	"instance-deregister-force": "instance deregister checkout checkout-2 --force",
	"instance-heartbeat-health": "instance heartbeat checkout checkout-2 --health failing --note full --owner-token-file DIR/token",
	"instance-heartbeat-none":   "instance heartbeat checkout checkout-1",
	"instance-heartbeat-bad":    "instance heartbeat checkout checkout-1 --health sick",
	"instance-token-missing":    "instance deregister checkout checkout-2 --owner-token-file DIR/none",
	"instance-list":             "instance list", "source-list": "source list",
	"provider-list": "provider list", "provider-json": "provider list -o json", "provider-name": "provider list -o name",
	"provider-show": "provider show prod", "provider-show-json": "provider show prod -o json", "provider-show-none": "provider show nothing",
	"provider-show-consul": "provider show registry", "provider-sync": "provider sync corp", "provider-test": "provider test corp", "provider-test-denied": "provider test prod",
	"complete-providers": "__complete provider show ''",
	"ingress-list":       "ingress list", "ingress-name": "ingress list -o name", "ingress-show": "ingress show public",
	"ingress-show-problem": "ingress show database", "ingress-show-json": "ingress show database -o json", "ingress-show-none": "ingress show nothing",
	"reload": "reload", "log-level": "log-level", "log-level-set": "log-level debug", "log-level-bad": "log-level loud",
	"help-code": "help TW-8001", "help-code-short": "help 8001", "help-unknown": "help TW-9999",
	"help-command": "help peer establish", "help-nothing": "help frobnicate",
	"root": "", "peer": "peer", "unknown": "statsu", "unknown-sub": "peer lst", "unknown-flag": "status --nope",
	"unknown-output": "status -o xml", "missing-argument": "ping",
	"unreachable":    "status --socket /nonexistent/admin.sock",
	"no-token":       "status --address 127.0.0.1:1 --token-file /nonexistent/token",
	"complete-peers": "__complete ping ''", "complete-services": "__complete explain che",
	"complete-resources": "__complete get intention ''",
}

// TestGolden runs each command line against the fake gateway and compares all that a user sees with a file in testdata.
func TestGolden(t *testing.T) {
	w := newWorld(t)
	w.file(t, "shop.hcl", `export "checkout" {
  to = ["gcp-europe-west1", "azure-westeurope"]
}
intention "web-to-checkout" {
  source      = "web"
  destination = "checkout"
  action      = "deny"
}
service "search" {
  protocol = "http"
  check "tcp" {
    interval = "1s"
  }
}
`)
	w.file(t, "same.hcl", "export \"checkout\" {\n  to = [\"gcp-europe-west1\"]\n}\n")
	w.file(t, "bad.hcl", "export \"checkout\" {\n  too = [\"gcp-europe-west1\"]\n}\n")
	w.file(t, "token", "tw1.c2VjcmV0\n")
	w.file(t, "used", "tw1.b2xk\n")
	w.file(t, "jwt", "good\n")
	w.file(t, "expired", "expired\n")
	w.file(t, "user", "user\n")
	for name, line := range commands {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, a := range strings.Fields(line) {
				args = append(args, strings.NewReplacer("''", "", "DIR", w.dir).Replace(a))
			}
			stdout, stderr, code := w.run(t, args...)
			got := fmt.Sprintf("$ tradewind %s\n--- stdout\n%s--- stderr\n%s--- exit code %d\n", line, stdout, stderr, code)
			golden(t, name, strings.ReplaceAll(got, w.dir, "DIR"))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with: go test -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("output changed (-want +got); if that is meant: go test -update\n%s", diff)
	}
}

func (w *world) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
