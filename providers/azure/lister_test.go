package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const second = "00000000-0000-0000-0000-000000000002"

func TestConfigNamesAllMistakesAtOnce(t *testing.T) {
	_, err := New(Config{Subscriptions: []string{"prod", second, second}, ManagementGroup: "all", ResourceGroups: []string{"a'b"},
		Kinds: []string{"vm", "aci", "vmss"}, AddressType: PublicV4, Tags: map[string]string{"": "x"}, Cloud: "germany", Endpoint: "example.com"})
	if err == nil {
		t.Fatal("the configuration was accepted")
	}
	for _, part := range []string{"there are subscriptions too", `"prod"`, second + `" is there twice`, `"a'b"`, `"aci"`, "public_v4",
		"a tag has no name", `"germany"`, `"example.com"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not mention %s:\n%v", part, err)
		}
	}
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("an empty configuration gives %v, want that subscriptions and kinds are missing", err)
	}
}

// list lists one kind and checks the exact number of requests, by action.
func list(t *testing.T, l *Lister, api *azuretest.Server, kind string, calls map[string]int) poll.Listing {
	t.Helper()
	api.Forget()
	got, err := l.List(t.Context(), l.scope(kind), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(calls, api.Counts()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	return got
}

var oneQuery = map[string]int{azuretest.ActionGraph: 1}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

const subscriptionPath = "/subscriptions/" + azuretest.Subscription + "/resourcegroups/shop/providers/"

func TestMachines(t *testing.T) {
	api, url := serve(t, azuretest.Inventory{
		Machines: []azuretest.Machine{
			{Name: "Web-1", IP: "10.0.0.1", IPv6: "fd00::1", Secondary: []string{"10.0.9.1"}, Public: "198.51.100.1", Zone: "2", Health: "healthy",
				Tags: map[string]string{"mesh-service": "web"}},
			{Name: "web-2", IP: "10.0.0.2", Power: "starting", Health: "unhealthy"},
			{Name: "web-3", IP: "10.0.0.3", Power: "deallocating"},
			{Name: "web-4", IP: "10.0.0.4", Power: "deallocated"},
			{Name: "web-5", IP: "10.0.0.5", Provisioned: "Deleting"},
			{Name: "web-6", IP: "10.0.0.6", Power: "-"},
			{Name: "web-7"},
			{Name: "web-8", Power: "creating"},
			{Name: "web-9", IP: "10.0.0.9", Set: "front", Tags: map[string]string{"tier": "canary"}},
		},
		ScaleSets: []azuretest.ScaleSet{{Name: "front", Tags: map[string]string{"mesh-service": "front", "tier": "stable"}}},
	})
	l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url})
	got := list(t, l, api, KindVM, oneQuery)
	record := func(name string, ip string, state poll.State) poll.Record {
		return poll.Record{ID: subscriptionPath + "microsoft.compute/virtualmachines/" + name, Account: azuretest.Subscription,
			Region: "westeurope", Network: subscriptionPath + "microsoft.network/virtualnetworks/vnet", Kind: KindVM,
			Addresses: addrs(ip), State: state, Health: federation.HealthUnknown}
	}
	one, two := record("web-1", "10.0.0.1", poll.StateRunning), record("web-2", "10.0.0.2", poll.StatePending)
	one.Addresses, one.Zone, one.Health = addrs("10.0.0.1", "10.0.9.1", "fd00::1"), "westeurope-2", federation.HealthPassing
	one.Labels, two.Health = map[string]string{"mesh-service": "web"}, federation.HealthFailing
	nine := record("web-9", "10.0.0.9", poll.StateRunning)
	nine.Labels = map[string]string{"mesh-service": "front", "tier": "canary"} // its own tag counts
	want := []poll.Record{one, two, record("web-3", "10.0.0.3", poll.StateDraining), record("web-5", "10.0.0.5", poll.StateDraining), nine}
	if diff := cmp.Diff(want, got.Records, compare); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	var bad []string
	for _, b := range got.Bad {
		bad = append(bad, b.ID[strings.LastIndexByte(b.ID, '/')+1:]+": "+b.Err.Error())
	}
	wantBad := []string{`web-6: power state "" says nothing`, "web-7: it runs and has no address that can be seen"}
	if diff := cmp.Diff(wantBad, bad); diff != "" {
		t.Errorf("items that could not be read (-want +got):\n%s", diff)
	}

	l = open(t, Config{Kinds: []string{KindVM}, Endpoint: url, AddressType: PublicV4})
	public := addrs("198.51.100.1", "10.0.0.1", "10.0.9.1", "fd00::1")
	if got := list(t, l, api, KindVM, oneQuery); !slices.Equal(got.Records[0].Addresses, public) {
		t.Errorf("with public ones first the addresses are %v", got.Records[0].Addresses)
	}
	l = open(t, Config{Kinds: []string{KindVM}, Endpoint: url, ResourceGroups: []string{"SHOP"}, AddressType: PrivateV6})
	if got := list(t, l, api, KindVM, oneQuery); got.Records[0].Addresses[0] != netip.MustParseAddr("fd00::1") || len(got.Records) != 5 {
		t.Errorf("with IPv6 first and by group the records are %v", got.Records)
	}
	l = open(t, Config{Kinds: []string{KindVM}, Endpoint: url, ResourceGroups: []string{"other"}})
	if got := list(t, l, api, KindVM, oneQuery); len(got.Records) != 0 {
		t.Errorf("in another group there are %v", got.Records)
	}
}

// TestTags: names do not mind the case, values do; and a value that JSON may write in several ways is found too.
func TestTags(t *testing.T) {
	api, url := serve(t, azuretest.Inventory{
		Machines: []azuretest.Machine{
			{Name: "a", IP: "10.0.0.1", Tags: map[string]string{"Env": "prod"}}, {Name: "b", IP: "10.0.0.2", Tags: map[string]string{"env": "PROD"}},
			{Name: "c", IP: "10.0.0.3", Tags: map[string]string{"env": "prod", "owner": `"R&D" <é>`}}, {Name: "d", IP: "10.0.0.4"},
			{Name: "e", IP: "10.0.0.5", Set: "s"}, {Name: "f", IP: "10.0.0.6", Tags: map[string]string{"note": "env prod"}},
		}, ScaleSets: []azuretest.ScaleSet{{Name: "s", Tags: map[string]string{"env": "prod"}}}})
	for want, tags := range map[string]map[string]string{
		"a c e": {"env": "prod"}, "a b c e": {"ENV": ""}, "c": {"owner": `"R&D" <é>`, "env": "prod"}, "": {"env": "test"},
	} {
		l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url, Tags: tags})
		var got []string
		for _, r := range list(t, l, api, KindVM, oneQuery).Records {
			got = append(got, r.ID[strings.LastIndexByte(r.ID, '/')+1:])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("tags %v choose %v, want %s", tags, got, want)
		}
	}
}

// TestScaleSets: one request, or one more for each scale set whose interfaces the graph does not show. Never one for an instance.
func TestScaleSets(t *testing.T) {
	inv := azuretest.Inventory{ScaleSets: []azuretest.ScaleSet{{Name: "Web", Tags: webTags}, {Name: "idle"}, {Name: "job"}}}
	for i := range 40 {
		m := azuretest.Machine{Name: fmt.Sprint(i), IP: fmt.Sprint("10.0.1.", i+1), Zone: "1"}
		inv.ScaleSets[0].Instances = append(inv.ScaleSets[0].Instances, m)
	}
	inv.ScaleSets[1].Instances = []azuretest.Machine{{Name: "0", IP: "10.0.2.1", Power: "stopping"}}
	inv.ScaleSets[2].Instances = []azuretest.Machine{{Name: "0", IP: "10.0.3.1"}, {Name: "1", IP: "x"}}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindScaleSet}, Endpoint: url})
	at := list(t, l, api, KindScaleSet, oneQuery)
	api.Change(func(s *azuretest.Server, inv *azuretest.Inventory) { inv.LateInterfaces = true })
	late := list(t, l, api, KindScaleSet, map[string]int{azuretest.ActionGraph: 1, azuretest.ActionInterfaces: 2})
	if len(at.Records) != 42 || at.Records[0].Labels["mesh-service"] != "web" || at.Records[0].Zone != "westeurope-1" || len(at.Bad) != 1 {
		t.Errorf("there are %d records, the first is %+v, bad are %v", len(at.Records), at.Records[0], at.Bad)
	}
	at.Records = slices.DeleteFunc(at.Records, func(r poll.Record) bool { return r.State != poll.StateRunning })
	if diff := cmp.Diff(at.Records, late.Records, compare); diff != "" {
		t.Errorf("asked for later, they differ (-graph +later):\n%s", diff)
	}
	if len(late.Bad) != 1 || late.Bad[0].ID != at.Bad[0].ID {
		t.Errorf("bad are %v, and asked for later %v", at.Bad, late.Bad)
	}
	api.Change(func(s *azuretest.Server, _ *azuretest.Inventory) { s.PageSize = 25 })
	list(t, l, api, KindScaleSet, map[string]int{azuretest.ActionGraph: 2, azuretest.ActionInterfaces: 3})

	api.Change(func(s *azuretest.Server, _ *azuretest.Inventory) {
		s.Fail = func(r azuretest.Request) *azuretest.Failure {
			if r.Action != azuretest.ActionInterfaces {
				return nil
			}
			return &azuretest.Failure{Fault: azuretest.Deny}
		}
	})
	var denied *poll.DeniedError
	if _, err := l.List(t.Context(), l.scope(KindScaleSet), nil); !errors.As(err, &denied) || denied.Action != azuretest.ActionInterfaces ||
		denied.Who != "00000000-0000-0000-0000-0000000000aa" {
		t.Errorf("List returned %v, want that %s is denied, and to whom", err, azuretest.ActionInterfaces)
	}
}

func TestContainerApps(t *testing.T) {
	api, url := serve(t, azuretest.Inventory{Apps: []azuretest.App{
		{Name: "api", Address: "10.0.8.4", Tags: map[string]string{"mesh-service": "api"}},
		{Name: "cache", Transport: "Tcp", Port: 6379, Address: "10.0.8.4"},
		{Name: "broken", NotReady: true, Provisioned: "Failed"}, {Name: "off", Running: "Stopped"}, {Name: "worker", Closed: true},
		{Name: "wrong", Transport: "Tcp", Port: 99999},
	}})
	l := open(t, Config{Kinds: []string{KindContainerApp}, Endpoint: url})
	got := list(t, l, api, KindContainerApp, oneQuery)
	record := func(name string, state poll.State, health federation.Health, port poll.Port) poll.Record {
		return poll.Record{ID: subscriptionPath + "microsoft.app/containerapps/" + name, Account: azuretest.Subscription, Region: "westeurope",
			Network: subscriptionPath + "microsoft.network/virtualnetworks/vnet", Kind: KindContainerApp, State: state, Health: health,
			Host: name + ".blue-sea-1.westeurope.azurecontainerapps.io", Ports: []poll.Port{port}}
	}
	one, cache := record("api", poll.StateRunning, federation.HealthPassing, poll.Port{Number: 443}),
		record("cache", poll.StateRunning, federation.HealthPassing, poll.Port{Number: 6379, Protocol: "tcp"})
	one.Labels, cache.Addresses = map[string]string{"mesh-service": "api"}, addrs("10.0.8.4")
	want := []poll.Record{one, record("broken", poll.StateRunning, federation.HealthFailing, poll.Port{Number: 443}), cache,
		record("off", poll.StateStopped, federation.HealthUnknown, poll.Port{Number: 443})}
	if diff := cmp.Diff(want, got.Records, compare); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if len(got.Bad) != 1 || !strings.Contains(got.Bad[0].Err.Error(), `"99999"`) {
		t.Errorf("bad are %v, want the port 99999", got.Bad)
	}
}

// TestManySubscriptions: one query, whatever their number; and what is below a management group without naming it.
func TestManySubscriptions(t *testing.T) {
	api, url := serve(t, azuretest.Inventory{Machines: []azuretest.Machine{{Name: "a", IP: "10.0.0.1"},
		{Where: azuretest.Where{Subscription: second}, Name: "a", IP: "10.0.0.1"}}})
	for _, cfg := range []Config{{Subscriptions: []string{azuretest.Subscription, second}}, {ManagementGroup: "landing-zones"}} {
		cfg.Kinds, cfg.Endpoint = []string{KindVM}, url
		l := open(t, cfg)
		got := list(t, l, api, KindVM, oneQuery)
		if len(got.Records) != 2 || got.Records[1].Account != second {
			t.Errorf("%+v lists %v", cfg, got.Records)
		}
		if partial := api.Requests()[0].Options["allowPartialScopes"]; (partial == true) != (cfg.ManagementGroup != "") {
			t.Errorf("allowPartialScopes is %v", partial)
		}
	}
	l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url})
	if got := list(t, l, api, KindVM, oneQuery); len(got.Records) != 1 {
		t.Errorf("of one subscription there are %v", got.Records)
	}
	if _, err := l.List(t.Context(), poll.Scope{Provider: "azure", Kind: KindVM, Part: second}, nil); err == nil {
		t.Error("a scope that is not configured was listed")
	}
}

// TestLostSubscription: a role that is taken away looks like the end of all workloads. One more request, only then, tells them apart.
func TestLostSubscription(t *testing.T) {
	inv := azuretest.Inventory{Machines: []azuretest.Machine{{Name: "a", IP: "10.0.0.1"},
		{Where: azuretest.Where{Subscription: second}, Name: "b", IP: "10.0.0.2"}}}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url, Subscriptions: []string{azuretest.Subscription, second}})
	list(t, l, api, KindVM, oneQuery)
	twoQueries := map[string]int{azuretest.ActionGraph: 2}

	api.Change(func(_ *azuretest.Server, inv *azuretest.Inventory) { inv.Hidden = []string{second} })
	for range 2 {
		got := list(t, l, api, KindVM, twoQueries)
		if got.Partial == nil || !strings.Contains(got.Partial.Error(), second) || got.Calls != 2 {
			t.Errorf("the subscription is hidden and the listing says %v after %d calls", got.Partial, got.Calls)
		}
	}
	l.known[KindVM][second] = time.Now().Add(-lostFor - time.Second)
	if got := list(t, l, api, KindVM, oneQuery); got.Partial != nil {
		t.Errorf("after %v the listing still waits: %v", lostFor, got.Partial)
	}

	api.Change(func(_ *azuretest.Server, inv *azuretest.Inventory) { inv.Hidden = nil })
	list(t, l, api, KindVM, oneQuery)
	api.Change(func(_ *azuretest.Server, inv *azuretest.Inventory) { inv.Machines = inv.Machines[:1] })
	if got := list(t, l, api, KindVM, twoQueries); got.Partial != nil {
		t.Errorf("the subscription is empty and the listing says %v", got.Partial)
	}
	list(t, l, api, KindVM, oneQuery) // and that was that
}

// TestWhatIsMissingIsSaid: each way in which Resource Graph gives less than there is.
func TestWhatIsMissingIsSaid(t *testing.T) {
	inv := azuretest.Inventory{Machines: []azuretest.Machine{{Name: "a", IP: "10.0.0.1"}, {Name: "b", IP: "10.0.0.2"},
		{Name: "c", IP: "10.0.0.3"}}}
	api, url := serve(t, inv)
	l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url})
	fault := func(f azuretest.Fault) {
		api.Change(func(s *azuretest.Server, _ *azuretest.Inventory) {
			s.Fail = func(azuretest.Request) *azuretest.Failure {
				return &azuretest.Failure{Fault: f, RetryAfter: 7 * time.Second}
			}
		})
	}
	less := map[azuretest.Fault]string{azuretest.Partial: "more subscriptions", azuretest.Truncated: "cut the answer after 3 rows"}
	for f, part := range less {
		fault(f)
		if got := list(t, l, api, KindVM, oneQuery); got.Partial == nil || !strings.Contains(got.Partial.Error(), part) || len(got.Records) != 3 {
			t.Errorf("%s: the listing says %v", f, got.Partial)
		}
	}
	fault(azuretest.Nothing)
	var denied *poll.DeniedError
	_, err := l.List(t.Context(), l.scope(KindVM), nil)
	if !errors.As(err, &denied) || denied.Action != "Microsoft.Resources/subscriptions/read" {
		t.Errorf("no subscription may be read, and List returned %v", err)
	}
	fault(azuretest.Throttle)
	var throttled *poll.ThrottledError
	if _, err := l.List(t.Context(), l.scope(KindVM), nil); !errors.As(err, &throttled) || throttled.RetryAfter != 7*time.Second ||
		!strings.Contains(err.Error(), "RateLimiting (429): Client application has been throttled") || strings.Contains(err.Error(), "\n") {
		t.Errorf("throttled, List returned %v", err)
	}
	// A machine goes away between two pages: one of the second moves to the first, unseen.
	api.Change(func(s *azuretest.Server, _ *azuretest.Inventory) {
		s.PageSize = 2
		s.Fail = func(r azuretest.Request) *azuretest.Failure {
			if r.Page == 1 {
				api.Change(func(_ *azuretest.Server, inv *azuretest.Inventory) { inv.Machines = inv.Machines[1:] })
			}
			return nil
		}
	})
	if got := list(t, l, api, KindVM, map[string]int{azuretest.ActionGraph: 2}); got.Partial == nil || len(got.Records) != 2 {
		t.Errorf("the world changed between two pages: %v, %v", got.Partial, got.Records)
	}
}

// TestCredentials: those that are refused are made anew, and those that there are not are named as such.
func TestCredentials(t *testing.T) {
	api, url := serve(t, azuretest.Inventory{Machines: []azuretest.Machine{{Name: "a", IP: "10.0.0.1"}}})
	l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url})
	list(t, l, api, KindVM, oneQuery)
	before := l.clients
	list(t, l, api, KindVM, oneQuery)
	if l.clients != before {
		t.Error("clients that work were made anew")
	}
	api.Change(func(s *azuretest.Server, _ *azuretest.Inventory) {
		s.Fail = func(azuretest.Request) *azuretest.Failure { return &azuretest.Failure{Fault: azuretest.Expired} }
	})
	if _, err := l.List(t.Context(), l.scope(KindVM), nil); !errors.Is(err, poll.ErrCredentials) || l.clients != nil {
		t.Errorf("List returned %v, and the clients are %v", err, l.clients)
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	for _, k := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		t.Setenv(k, "")
	}
	l = open(t, Config{Kinds: []string{KindVM}, Endpoint: url})
	if _, err := l.List(t.Context(), l.scope(KindVM), nil); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("without credentials List returned %v", err)
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "nobody")
	if _, err := l.List(t.Context(), l.scope(KindVM), nil); !errors.Is(err, poll.ErrCredentials) {
		l = open(t, Config{Kinds: []string{KindVM}, Endpoint: url})
		if _, err = l.List(t.Context(), l.scope(KindVM), nil); !errors.Is(err, poll.ErrCredentials) {
			t.Errorf("with an unknown choice List returned %v", err)
		}
	}
}

// TestPermissions: every request that is made needs an action of the list.
func TestPermissions(t *testing.T) {
	for kind, calls := range map[string][]string{KindVM: {azuretest.ActionGraph},
		KindScaleSet: {azuretest.ActionGraph, azuretest.ActionInterfaces}, KindContainerApp: {azuretest.ActionGraph},
		KindAKS: {azuretest.ActionGraph, azuretest.ActionCredentials}} {
		for _, c := range calls {
			if !slices.Contains(Permissions(kind), c) {
				t.Errorf("%s calls %s, which is not in Permissions", kind, c)
			}
		}
	}
}

func TestLocate(t *testing.T) {
	api, url := serve(t, azuretest.Inventory{Self: "Gateway",
		Machines: []azuretest.Machine{{Name: "Gateway", Zone: "1", Physical: "westeurope-az3"}}})
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1") // must not be asked
	here, err := Locate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := poll.Location{Provider: "azure", Region: "westeurope", Zone: "westeurope-1", ZoneID: "westeurope-az3", Account: azuretest.Subscription,
		InstanceID: subscriptionPath + "microsoft.compute/virtualmachines/gateway"}
	if here != want {
		t.Errorf("we are at %+v, want %+v", here, want)
	}
	api.Change(func(_ *azuretest.Server, inv *azuretest.Inventory) { inv.Self = "" })
	if _, err := Locate(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("without a machine Locate returned %v", err)
	}
	t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url+"/elsewhere")
	if _, err := Locate(t.Context()); err == nil {
		t.Error("Locate found itself where nothing is")
	}
	t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
	api.Change(func(s *azuretest.Server, _ *azuretest.Inventory) { s.OutOfReach = true })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := Locate(ctx); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("with a silent metadata service Locate returned %v", err)
	}
}

// TestTokensAreAskedForDirectly: no proxy sees a request for the machine's own token.
func TestTokensAreAskedForDirectly(t *testing.T) {
	proxy := direct(func(*http.Request) (*url.URL, error) { return url.Parse("http://192.0.2.1:3128") })
	for target, proxied := range map[string]bool{"http://169.254.169.254/metadata/identity/oauth2/token": false,
		"https://management.azure.com/providers": true, "http://192.0.2.7/msi/token": true} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := proxy(req); err != nil || (u != nil) != proxied {
			t.Errorf("%s goes through %v, %v", target, u, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	tags := map[string]string{"cluster": "mesh"}
	_, url := serve(t, azuretest.Inventory{Machines: []azuretest.Machine{{Name: "self", IP: "10.0.0.9", Tags: tags, Public: "198.51.100.9"},
		{Name: "starting", IP: "10.0.0.8", Power: "starting", Tags: tags}, {Name: "other", IP: "10.0.0.7"},
		{Name: "far", Where: azuretest.Where{Group: "far"}, IP: "10.0.0.6", Tags: tags}},
		ScaleSets: []azuretest.ScaleSet{{Name: "s", Tags: tags, Instances: []azuretest.Machine{{Name: "0", IP: "10.0.0.1"}}}}, Self: "self"})
	for _, c := range []struct {
		filter Filter
		want   []netip.Addr
	}{
		{Filter{TagName: "cluster", TagValue: "mesh"}, addrs("10.0.0.1", "10.0.0.6", "10.0.0.9")},
		{Filter{TagName: "cluster", Subscription: azuretest.Subscription, ResourceGroup: "shop"}, addrs("10.0.0.1", "10.0.0.9")},
		{Filter{TagName: "cluster", AddressType: PublicV4}, addrs("198.51.100.9")},
		{Filter{TagName: "cluster", Subscription: second}, nil},
	} {
		c.filter.Endpoint = url
		got, err := Addresses(t.Context(), c.filter)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v finds %v, %v; want %v", c.filter, got, err, c.want)
		}
	}
	for _, f := range []Filter{{}, {TagName: "a", AddressType: "public"}, {TagName: "a", Subscription: "x"}} {
		if _, err := Addresses(t.Context(), f); err == nil {
			t.Errorf("%+v was accepted", f)
		}
	}
}
