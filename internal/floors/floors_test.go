package floors

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tradewind-mesh/tradewind/"

// house lists every room with its floor. A room may import rooms on lower floors of its own wing and of the wings that its
// wing may know (see mayKnow); nothing sideways, nothing up.
var house = map[string]int{
	"federation":                 0, // the nouns and their rules of value
	"federation/match":           1, // requests held against the conditions of routes and intentions
	"federation/when":            2, // requests held against expressions
	"federation/policy":          3, // intentions and exports as pure decisions
	"federation/exchange":        1, // catalog exchange: pure machine and codec
	"federation/trust":           2, // region CA, SVIDs, bundles, tls.Config builders
	"federation/trust/trusttest": 3, // authorities and forged certificates for tests
	"federation/health":          1, // active checks
	"federation/registry":        1, // merges the sources into the local catalog
	"federation/store":           1, // the region's durable state
	"federation/store/storetest": 2, // the suite every store must pass
	"federation/peering":         3, // one owner per peering
	"federation/controlplane":    4, // resources in, views out

	"gateways/splice":  0, // bytes both ways
	"gateways/flow":    0, // the flow protocol: pure machine and codec
	"gateways/l7":      1, // HTTP on connections that others have made
	"gateways/http1":   0, // HTTP/1.1 messages, read strictly and written anew
	"gateways/jwt":     1, // JSON Web Tokens and the keys of those who issue them
	"gateways/limit":   1, // rates, retries and requests at once are bounded
	"gateways/route":   2, // Compile(View) to an immutable Snapshot
	"gateways/tunnel":  2, // sessions with peers; the only importer of quic-go's transport
	"gateways/balance": 3, // picks an endpoint; the mutable load state
	"gateways/mesh":    4, // the east-west data path
	"gateways/ingress": 5, // north-south listeners

	"providers/poll":            1, // listings of an outside API become a source
	"providers/file":            2, // instances from watched files
	"providers/dns":             2, // addresses that names have in the DNS
	"providers/consul":          2, // Consul's services as instances, and imports in Consul
	"providers/aws":             2, // EC2, ECS, Cloud Map, and what load balancers say of them
	"providers/aws/awstest":     3, // a small AWS for tests and the demo
	"providers/gcp":             2, // Compute Engine, Cloud Run, Service Directory, GKE clusters
	"providers/gcp/gcptest":     3, // a small Google Cloud for tests and the demo
	"providers/azure":           2, // virtual machines, scale sets, Container Apps, AKS clusters
	"providers/azure/azuretest": 3, // a small Azure for tests and the demo
	"providers/kubernetes":      2, // the endpoints of Services in Kubernetes clusters
	"providers/providertest":    2, // the contract every provider must pass
	"providers/double":          1, // what the doubles of the clouds have in common

	"internal/floors": 0, // this test
	"internal/config": 5, // gateway.hcl and resource files
	"internal/admin":  5, // the admin API: server and client
	"internal/agent":  6, // the composition root
	"internal/demo":   6, // three regions on one machine, measured while they run

	"cmd/tradewind":         7,
	"cmd/tradewind-gateway": 7,

	"e2e/link":     6, // a network of chosen quality between two namespaces
	"e2e/link/run": 7, // the same as a command
	"e2e/world":    7, // clouds made of namespaces, for the tests of e2e
	"e2e/bench":    8, // comparable runs against other software
}

// mayKnow says which other wings a wing may import.
var mayKnow = map[string][]string{
	"federation": nil,
	"gateways":   {"federation"},
	"providers":  {"federation"},
	"internal":   {"federation", "gateways", "providers"},
	"cmd":        {"federation", "gateways", "providers", "internal"},
	"e2e":        {"federation", "gateways", "providers", "internal"},
}

// only names the rooms that alone may import a library from outside, with the reason.
var only = []struct{ library, room, why string }{
	{"github.com/quic-go/quic-go", "gateways/tunnel", "the transport must stay replaceable, and its traps are known in one room"},
	{"go.etcd.io/bbolt", "federation/store", "everything durable goes through the store's seam"},
	{"github.com/hashicorp/hcl/v2", "internal/config", "HCL is a skin over resources; no room below may depend on it"},
	{"github.com/spf13/cobra", "cmd/tradewind", "flags are read in main, nowhere else"},
	{"connectrpc.com/connect", "internal/admin", "the admin protocol is one room's business"},
	{"google.golang.org/grpc", "federation/health", "only the gRPC health check speaks gRPC"},
	{"github.com/miekg/dns", "providers/dns", "names are asked for in one room"},
	{"github.com/fsnotify/fsnotify", "providers/file", "files are watched in one room"},
	{"github.com/aws/aws-sdk-go-v2", "providers/aws", "its clients must not reach an interface, or the gateway doubles; one room watches that"},
	{"github.com/aws/smithy-go", "providers/aws", "what an error of AWS means is known in one room"},
	{"cloud.google.com/go", "providers/gcp", "credentials and metadata, and none of its clients: they double the gateway"},
	{"github.com/Azure/azure-sdk-for-go", "providers/azure", "its clients must not reach an interface, and what its errors mean is known in one room"},
	{"k8s.io", "providers/kubernetes", "client-go adds 8 MB for a list and a watch; even that room does without"},
	{"github.com/caddyserver/certmagic", "gateways/ingress", "it binds addresses and starts goroutines by itself where it is not held back, in acme_order.go"},
	{"github.com/mholt/acmez/v3", "gateways/ingress", "what an authority means by an answer is known in one room"},
	{"go.uber.org/zap", "gateways/ingress", "certmagic wants one of its loggers; everything else logs by slog"},
	{"github.com/go-jose/go-jose/v4", "gateways/jwt", "what a token may say of its own verification is known in one room"},
	{"cel.dev/cel-go", "federation/when", "what bounds an expression is known in one room"},
	{"github.com/hashicorp/consul/api", "providers/consul", "what Consul means by an answer is known in one room"},
}

// yardstick are uses of such a library that are there to be compared with its room, and never to carry what the product carries.
var yardstick = map[string]bool{
	"e2e/bench github.com/quic-go/quic-go": true, // the naive tunnel; the transport's room must not hold a worse one for it
}

// besides are uses of such a library in a second room.
var besides = map[string]bool{
	// HTTP/3 is spoken with strangers, over a socket of its own: it shares no connection, limit or trap with the transport of the mesh.
	"gateways/ingress github.com/quic-go/quic-go":       true,
	"gateways/ingress github.com/quic-go/quic-go/http3": true,
}

// pure lists rooms that may not import these packages of the standard library: they are machines without socket or clock.
var pure = map[string][]string{
	"federation":          {"net", "net/http", "os", "context"},
	"federation/match":    {"net", "net/http", "os", "context", "time", "sync"},
	"federation/policy":   {"net", "net/http", "os", "context", "time", "sync"},
	"federation/when":     {"net", "net/http", "os", "context", "time"},
	"federation/exchange": {"net", "net/http", "os", "context", "sync"},
	"gateways/limit":      {"net", "net/http", "os"},
	"gateways/flow":       {"net", "net/http", "os", "context", "sync", "time"},
}

func TestImportsFollowThePlan(t *testing.T) {
	root := filepath.Join("..", "..")
	rooms := map[string]bool{}
	walk(t, root, func(room, file, imported string) {
		rooms[room] = true
		if _, listed := house[room]; !listed {
			t.Errorf("%s: room %q is not in the plan of the house: add it to the table with its floor and owner", file, room)
			return
		}
		checkOutside(t, room, file, imported)
		target, inside := strings.CutPrefix(imported, module)
		if !inside {
			return
		}
		if _, listed := house[target]; !listed {
			t.Errorf("%s imports %q, which is not in the plan", file, target)
			return
		}
		checkInside(t, room, file, target)
	})
	for room := range house {
		if !rooms[room] {
			t.Errorf("room %q is in the plan but holds no code: rooms are not opened empty", room)
		}
	}
}

func checkInside(t *testing.T, room, file, target string) {
	t.Helper()
	from, to := wing(room), wing(target)
	if from != to {
		for _, known := range mayKnow[from] {
			if known == to {
				return
			}
		}
		t.Errorf("%s: wing %q may not know wing %q (imports %s)", file, from, to, target)
		return
	}
	if house[target] >= house[room] {
		t.Errorf("%s: %s (floor %d) imports %s (floor %d): only lower floors may be imported", file, room, house[room], target, house[target])
	}
}

func checkOutside(t *testing.T, room, file, imported string) {
	t.Helper()
	for _, rule := range only {
		inside := imported == rule.library || strings.HasPrefix(imported, rule.library+"/")
		if inside && room != rule.room && !yardstick[room+" "+imported] && !besides[room+" "+imported] {
			t.Errorf("%s: only %s may import %s: %s", file, rule.room, rule.library, rule.why)
		}
	}
	for _, banned := range pure[room] {
		if imported == banned && !allowedPure[room+" "+imported] {
			t.Errorf("%s: %s is pure and may not import %q", file, room, imported)
		}
	}
}

// allowedPure are uses of a banned package that do no I/O.
var allowedPure = map[string]bool{
	"federation net": true, // net.SplitHostPort, to validate an address
}

func wing(room string) string { w, _, _ := strings.Cut(room, "/"); return w }

// walk calls see for every import of every non-test Go file below root. It parses in process, so that a cached test result
// is invalidated by the files it opened.
func walk(t *testing.T, root string, see func(room, file, imported string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || name == "testdata" || hasGoMod(p)) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room := path.Dir(filepath.ToSlash(rel))
		see(room, rel, "") // a file without imports is still in a room
		for _, imp := range f.Imports {
			value, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			see(room, rel, value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// hasGoMod reports whether dir is a module of its own.
func hasGoMod(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}
