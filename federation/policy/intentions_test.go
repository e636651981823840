package policy

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

const (
	aws = federation.Region("aws-us-east-1")
	gcp = federation.Region("gcp-europe-west1")
	dc  = federation.Region("dc-berlin")
)

// domains returns the trust domains of aws, gcp and dc.
func domains() map[spiffeid.TrustDomain]federation.Region {
	m := map[spiffeid.TrustDomain]federation.Region{}
	for _, r := range []federation.Region{aws, gcp, dc} {
		m[federation.DefaultTrustDomain(r)] = r
	}
	return m
}

func name(s string) federation.ServiceName {
	n, _ := federation.ParseServiceName(s) // a misspelt one matches nothing
	return n
}

func workload(region federation.Region, service string) spiffeid.ID {
	id, _ := federation.WorkloadID(federation.DefaultTrustDomain(region), name(service))
	return id
}

func allow(rule, source, destination string) federation.Intention {
	return federation.Intention{Name: rule, Source: source, Destination: destination, Action: federation.Allow}
}

func deny(rule, source, destination string) federation.Intention {
	return federation.Intention{Name: rule, Source: source, Destination: destination, Action: federation.Deny}
}

// ask is one question to the intentions of the region aws.
type ask struct {
	caller  string // in the form of a ServiceRef
	callee  string
	allowed bool
	rule    string
}

func TestWhoMayCallWhom(t *testing.T) {
	for _, test := range []struct {
		what string
		list []federation.Intention
		asks []ask
	}{
		{"nothing is allowed by default", nil, []ask{
			{"web@aws-us-east-1", "checkout@aws-us-east-1", false, "default"},
			{"web@gcp-europe-west1", "checkout@aws-us-east-1", false, "default"},
		}},
		{"a peer's service is let in by the region of the destination", []federation.Intention{allow("in", "web@gcp-europe-west1", "checkout")},
			[]ask{
				{"web@gcp-europe-west1", "checkout@aws-us-east-1", true, "in"},
				{"web@aws-us-east-1", "checkout@aws-us-east-1", false, "default"},
				{"web@dc-berlin", "checkout@aws-us-east-1", false, "default"},
				{"web@gcp-europe-west1", "payments@aws-us-east-1", false, "default"},
				{"web@gcp-europe-west1", "checkout@dc-berlin", false, "default"},
			}},
		{"a call may leave for one named region", []federation.Intention{allow("out", "web", "checkout@gcp-europe-west1")}, []ask{
			{"web@aws-us-east-1", "checkout@gcp-europe-west1", true, "out"},
			{"web@aws-us-east-1", "checkout@dc-berlin", false, "default"},
			{"web@aws-us-east-1", "checkout@aws-us-east-1", false, "default"},
			{"web@gcp-europe-west1", "checkout@gcp-europe-west1", false, "default"},
		}},
		{"failover anywhere needs a destination anywhere", []federation.Intention{allow("anywhere", "web", "checkout@*")}, []ask{
			{"web@aws-us-east-1", "checkout@aws-us-east-1", true, "anywhere"},
			{"web@aws-us-east-1", "checkout@gcp-europe-west1", true, "anywhere"},
			{"web@aws-us-east-1", "checkout@dc-berlin", true, "anywhere"},
			{"web@aws-us-east-1", "checkout@azure-westeurope", false, "default"}, // no such peer
		}},
		{"a bare destination does not let a call leave", []federation.Intention{allow("home", "web", "checkout")}, []ask{
			{"web@aws-us-east-1", "checkout@aws-us-east-1", true, "home"},
			{"web@aws-us-east-1", "checkout@gcp-europe-west1", false, "default"},
		}},
		{"a bare star is this region's own", []federation.Intention{allow("own", "*", "checkout")}, []ask{
			{"web@aws-us-east-1", "checkout@aws-us-east-1", true, "own"},
			{"shop/web@aws-us-east-1", "checkout@aws-us-east-1", true, "own"},
			{"web@gcp-europe-west1", "checkout@aws-us-east-1", false, "default"},
		}},
		{"star at star is every known region", []federation.Intention{allow("all", "*@*", "checkout")}, []ask{
			{"web@aws-us-east-1", "checkout@aws-us-east-1", true, "all"},
			{"shop/web@dc-berlin", "checkout@aws-us-east-1", true, "all"},
			{"web@azure-westeurope", "checkout@aws-us-east-1", false, "default"},
		}},
		{"a namespace is everything in it", []federation.Intention{allow("shop", "shop/*@gcp-europe-west1", "shop/*")}, []ask{
			{"shop/web@gcp-europe-west1", "shop/checkout@aws-us-east-1", true, "shop"},
			{"web@gcp-europe-west1", "shop/checkout@aws-us-east-1", false, "default"},
			{"shop/web@gcp-europe-west1", "checkout@aws-us-east-1", false, "default"},
		}},
	} {
		t.Run(test.what, func(t *testing.T) { asked(t, test.list, test.asks) })
	}
}

func TestWhichIntentionDecides(t *testing.T) {
	for _, test := range []struct {
		what string
		list []federation.Intention
		asks []ask
	}{
		{"the more specific destination wins, whatever the source", []federation.Intention{
			deny("lockdown", "web@gcp-europe-west1", "*"), allow("except", "*@*", "checkout"),
		}, []ask{
			{"web@gcp-europe-west1", "checkout@aws-us-east-1", true, "except"},
			{"web@gcp-europe-west1", "payments@aws-us-east-1", false, "lockdown"},
		}},
		{"then the more specific source", []federation.Intention{
			allow("all", "*@*", "checkout"), deny("gcp", "*@gcp-europe-west1", "checkout"), allow("web", "web@gcp-europe-west1", "checkout"),
		}, []ask{
			{"web@gcp-europe-west1", "checkout@aws-us-east-1", true, "web"},
			{"batch@gcp-europe-west1", "checkout@aws-us-east-1", false, "gcp"},
			{"batch@dc-berlin", "checkout@aws-us-east-1", true, "all"},
		}},
		{"on a tie a deny wins", []federation.Intention{
			allow("a-yes", "web@gcp-europe-west1", "checkout"), deny("b-no", "web@gcp-europe-west1", "checkout@aws-us-east-1"),
		}, []ask{{"web@gcp-europe-west1", "checkout@aws-us-east-1", false, "b-no"}}},
		{"a region that is not known is never allowed", []federation.Intention{
			allow("ghost", "web@azure-westeurope", "checkout"), allow("to-ghost", "web", "checkout@azure-westeurope"),
		}, []ask{
			{"web@azure-westeurope", "checkout@aws-us-east-1", false, "default"},
			{"web@aws-us-east-1", "checkout@azure-westeurope", false, "default"},
		}},
	} {
		t.Run(test.what, func(t *testing.T) { asked(t, test.list, test.asks) })
	}
}

// asked puts asks to the intentions in list.
func asked(t *testing.T, list []federation.Intention, asks []ask) {
	t.Helper()
	p := CompileIntentions(aws, domains(), list)
	for _, a := range asks {
		caller, callee := ref(t, a.caller), ref(t, a.callee)
		got := p.Decide(workload(caller.Region, caller.Service.String()), federation.AssuranceMTLS, callee.Region, callee.Service)
		if got.Allowed != a.allowed || got.Rule != a.rule || got.Reason == "" || got.Allowed != (got.Code == "") {
			t.Errorf("%s calls %s: got %+v, want allowed %v by %q", a.caller, a.callee, got, a.allowed, a.rule)
		}
	}
}

func ref(t *testing.T, s string) federation.ServiceRef {
	t.Helper()
	r, err := federation.ParseServiceRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAssuranceIsRequired(t *testing.T) {
	strict := allow("strict", "web@gcp-europe-west1", "checkout")
	strict.Require = federation.AssuranceMTLS
	p := CompileIntentions(aws, domains(), []federation.Intention{allow("all", "*@*", "*"), strict})
	for _, test := range []struct {
		caller    string
		assurance federation.Assurance
		code      federation.Code
		rule      string
	}{
		{"batch", federation.AssuranceBinding, "", "all"},
		{"batch", federation.AssuranceMTLS, "", "all"},
		{"batch", federation.AssuranceNone, CodeAssurance, "all"},
		{"web", federation.AssuranceMTLS, "", "strict"},
		{"web", federation.AssuranceBinding, CodeAssurance, "strict"}, // the general one is not asked
		{"web", federation.AssuranceNone, CodeAssurance, "strict"},
	} {
		got := p.Decide(workload(gcp, test.caller), test.assurance, aws, name("checkout"))
		if got.Code != test.code || got.Rule != test.rule {
			t.Errorf("%s with %s: got %+v, want code %q by %q", test.caller, test.assurance, got, test.code, test.rule)
		}
	}
	// Of two allows that say the same, the stricter one counts.
	lax := strict
	lax.Name, lax.Require = "lax", federation.AssuranceBinding
	p = CompileIntentions(aws, domains(), []federation.Intention{lax, strict})
	if got := p.Decide(workload(gcp, "web"), federation.AssuranceBinding, aws, name("checkout")); got.Allowed || got.Rule != "strict" {
		t.Errorf("two allows: got %+v, want the stricter one to decide", got)
	}
}

func TestStrangersAreDenied(t *testing.T) {
	everything := CompileIntentions(aws, domains(), []federation.Intention{allow("all", "*@*", "*@*")})
	gateway, err := federation.GatewayID(federation.DefaultTrustDomain(gcp), "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what string
		p    *Intentions
		src  spiffeid.ID
		dst  federation.Region
		code federation.Code
	}{
		{"no policy", nil, workload(gcp, "web"), aws, CodeNoPolicy},
		{"the zero identity", everything, spiffeid.ID{}, aws, CodeUnknownDomain},
		{"a domain nobody knows", everything, spiffeid.RequireFromString("spiffe://evil.example.com/ns/default/svc/web"), aws, CodeUnknownDomain},
		{"a domain below a known one", everything, spiffeid.RequireFromString("spiffe://x.gcp-europe-west1.mesh.internal/ns/default/svc/web"),
			aws, CodeUnknownDomain},
		{"a gateway", everything, gateway, aws, CodeNoWorkload},
		{"a path that only looks like a workload", everything,
			spiffeid.RequireFromString("spiffe://gcp-europe-west1.mesh.internal/ns/default/svc/web/x"), aws, CodeNoWorkload},
		{"a name with other letters", everything, spiffeid.RequireFromString("spiffe://gcp-europe-west1.mesh.internal/ns/default/svc/Web"), aws,
			CodeNoWorkload},
		{"a region nobody knows", everything, workload(gcp, "web"), "azure-westeurope", CodeUnknownRegion},
		{"the word local is no region here", everything, workload(gcp, "web"), federation.Local, CodeUnknownRegion},
	} {
		got := test.p.Decide(test.src, federation.AssuranceMTLS, test.dst, name("checkout"))
		if got.Allowed || got.Code != test.code || got.Rule != DefaultRule || got.Reason == "" {
			t.Errorf("%s: got %+v, want code %s", test.what, got, test.code)
		}
	}
}

func TestWhatIsNotUnderstoodDeniesEverything(t *testing.T) {
	good := allow("good", "*@*", "*")
	for _, broken := range []federation.Intention{
		{Name: "broken"},
		{Name: "broken", Source: "web", Destination: "checkout", Action: "audit"},
		{Name: "broken", Source: "Web", Destination: "checkout", Action: federation.Deny},
		{Name: "broken", Source: "web", Destination: "che ckout", Action: federation.Allow},
	} {
		p := CompileIntentions(aws, domains(), []federation.Intention{good, broken})
		if got := p.Decide(workload(aws, "web"), federation.AssuranceMTLS, aws, name("checkout")); got.Allowed || got.Code != CodeBroken ||
			got.Rule != "broken" {
			t.Errorf("with %+v: got %+v, want a denial that names it", broken, got)
		}
	}
}

func TestExplainNamesWhatStoodInTheWay(t *testing.T) {
	p := CompileIntentions(aws, domains(), []federation.Intention{
		allow("all", "*@*", "*"),
		deny("home-only", "web", "checkout"),
		allow("web", "web@gcp-europe-west1", "checkout"),
		allow("away", "web@gcp-europe-west1", "checkout@dc-berlin"),
		allow("others", "batch@gcp-europe-west1", "checkout"),
		allow("unrelated", "web@gcp-europe-west1", "payments"),
	})
	got := p.Explain(workload(gcp, "web"), federation.AssuranceBinding, aws, name("checkout"))
	want := Decision{Allowed: true, Rule: "web", Reason: `intention "web" allows web@gcp-europe-west1 to call checkout@aws-us-east-1`,
		Matched: []Match{
			{"home-only", "deny", "web", "checkout", false, false,
				`source "web" names no region and so means this one, aws-us-east-1; the call's is gcp-europe-west1: ` +
					`write "web@gcp-europe-west1" or "web@*"`, nil},
			{"away", "allow", "web@gcp-europe-west1", "checkout@dc-berlin", false, false,
				`destination "checkout@dc-berlin" means region dc-berlin; the call's is aws-us-east-1`, nil},
			{"others", "allow", "batch@gcp-europe-west1", "checkout", false, false,
				`source "batch@gcp-europe-west1" does not mean the caller web@gcp-europe-west1`, nil},
			{"web", "allow", "web@gcp-europe-west1", "checkout", true, true,
				`intention "web" allows web@gcp-europe-west1 to call checkout@aws-us-east-1`, nil},
			{"all", "allow", "*@*", "*", true, false, `matches, but the destination "checkout" of intention "web" is more specific`, nil},
		}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
}

func TestExplainSaysWhatATokenIsMissing(t *testing.T) {
	const shop = "shop"
	admins := allow("admins", "web", shop)
	admins.HTTP = []federation.Permission{{HTTPMatch: federation.HTTPMatch{PathPrefix: "/admin"}, Claims: []federation.ClaimMatch{
		{Provider: "idp", Path: []string{"realm", "roles"}, Any: []string{"admin", "owner"}}, {Provider: "idp", Path: []string{"sub"}}}}}
	guests := deny("guests", "web", "*")
	guests.HTTP = []federation.Permission{{Claims: []federation.ClaimMatch{{Provider: "idp", Path: []string{"kind"}, Any: []string{"guest"}}}}}
	p := CompileIntentions(aws, domains(), []federation.Intention{admins, guests})
	token := func(claims map[string]any) []match.Token { return []match.Token{{Provider: "idp", Claims: claims}} }
	roles := func(r ...any) map[string]any { return map[string]any{"roles": r} }
	for _, test := range []struct {
		path   string
		tokens []match.Token
		rule   string
		first  string // what is said of admins
		second string // and of guests
	}{
		{"/admin", nil, DefaultRule, `source, destination and request match: needs a token of "idp"`,
			`denies by what a token of "idp" claims, and there is none`},
		{"/other", token(nil), DefaultRule, "source and destination match, the request does not",
			"source, destination and request match, the token does not: it claims no kind"},
		{"/admin", token(map[string]any{"realm": roles("user", "\u001b[2J"), "kind": "guest"}), "guests",
			"source, destination and request match, the token does not: " +
				"it claims realm.roles=[\"user\",\"\\u001b[2J\"], not admin or owner, it claims no sub",
			`intention "guests" denies web@aws-us-east-1 to call *@aws-us-east-1, as the token claims: idp kind=guest`},
		{"/admin", token(map[string]any{"realm": roles("admin"), "sub": "ann"}), "admins",
			`intention "admins" allows web@aws-us-east-1 to call shop@aws-us-east-1, as the token claims: idp realm.roles=admin|owner, idp sub`,
			"source, destination and request match, the token does not: it claims no kind"},
	} {
		r := &match.Request{Method: "GET", Path: test.path, Tokens: test.tokens}
		d := p.ExplainRequest(workload(aws, "web"), federation.AssuranceBinding, aws, name(shop), r)
		if d.Rule != test.rule || len(d.Matched) != 2 || d.Matched[0].Reason != test.first || d.Matched[1].Reason != test.second {
			t.Errorf("%s with %v: %+v", test.path, test.tokens, d)
		}
	}
}

// oracle decides by reading the rules one by one, as the package documentation words them.
func oracle(here federation.Region, known map[spiffeid.TrustDomain]federation.Region, list []federation.Intention,
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName) (bool, string) {
	region, ok := known[src.TrustDomain()]
	service, err := federation.ServiceOf(src)
	if !ok || err != nil || !slices.Contains(slices.Collect(mapsValues(known)), dstRegion) && dstRegion != here {
		return false, DefaultRule
	}
	type match struct {
		i      federation.Intention
		s, d   int
		denies bool
	}
	var matches []match
	for _, i := range list {
		s, _ := federation.ParsePattern(i.Source)
		d, _ := federation.ParsePattern(i.Destination)
		if s.Matches(here, region, service) && d.Matches(here, dstRegion, dst) {
			matches = append(matches, match{i, s.Specificity(), d.Specificity(), i.Action == federation.Deny})
		}
	}
	if len(matches) == 0 {
		return false, DefaultRule
	}
	best := slices.MinFunc(matches, func(a, b match) int {
		denies := map[bool]int{true: 0, false: 1}
		return cmp.Or(b.d-a.d, b.s-a.s, denies[a.denies]-denies[b.denies],
			int(max(b.i.Require, 1))-int(max(a.i.Require, 1)), cmp.Compare(a.i.Name, b.i.Name))
	})
	return !best.denies && assurance >= max(best.i.Require, federation.AssuranceBinding), best.i.Name
}

func mapsValues(m map[spiffeid.TrustDomain]federation.Region) func(func(federation.Region) bool) {
	return func(yield func(federation.Region) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// TestDecideAgreesWithOracle asks every question of a small world about random policies: more than 100,000 questions.
func TestDecideAgreesWithOracle(t *testing.T) {
	known := domains()
	services := []string{"web", "checkout", "shop/web", "shop/checkout", "shop/cart", "batch"}
	pattern := rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"*", "web", "checkout", "shop/*", "shop/web", "shop/checkout", "default/*", "other/*"}).Draw(t,
			"service") +
			rapid.SampledFrom([]string{"", "", "@*", "@aws-us-east-1", "@gcp-europe-west1", "@azure-westeurope"}).Draw(t, "region")
	})
	intention := rapid.Custom(func(t *rapid.T) federation.Intention {
		i := federation.Intention{Name: fmt.Sprintf("i%d", rapid.IntRange(0, 99).Draw(t, "name")), Source: pattern.Draw(t, "source"),
			Destination: pattern.Draw(t, "destination"), Action: rapid.SampledFrom([]federation.Action{federation.Allow, federation.Deny}).Draw(t,
				"action")}
		if i.Action == federation.Allow {
			i.Require = rapid.SampledFrom([]federation.Assurance{0, 0, federation.AssuranceBinding, federation.AssuranceMTLS}).Draw(t, "require")
		}
		return i
	})
	questions := 0
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(intention, 0, 30).Draw(t, "intentions")
		slices.SortFunc(list, func(a, b federation.Intention) int { return cmp.Compare(a.Name, b.Name) })
		list = slices.CompactFunc(list, func(a, b federation.Intention) bool { return a.Name == b.Name })
		p := CompileIntentions(aws, known, list)
		for _, from := range []federation.Region{aws, gcp, dc, "azure-westeurope"} {
			for _, to := range []federation.Region{aws, gcp, dc, "azure-westeurope"} {
				for _, s := range services {
					for _, d := range services[1:5] {
						for a := range federation.AssuranceMTLS + 1 {
							questions++
							id := workload(from, s)
							allowed, rule := oracle(aws, known, list, id, a, to, name(d))
							got := p.Decide(id, a, to, name(d))
							if got.Allowed != allowed || got.Rule != rule {
								t.Fatalf("%s@%s (%s) calls %s@%s: got %+v, want allowed %v by %q", s, from, a, d, to, got, allowed, rule)
							}
							if a == federation.AssuranceMTLS {
								explained(t, got, p.Explain(id, a, to, name(d)))
							}
						}
					}
				}
			}
		}
	})
	if questions < 20_000 {
		t.Errorf("only %d questions were asked", questions)
	}
}

// explained checks that an explanation tells the decision and one deciding rule at most.
func explained(t *rapid.T, decision, explanation Decision) {
	if diff := gocmp.Diff(decision, explanation, cmpopts.IgnoreFields(Decision{}, "Matched")); diff != "" {
		t.Fatalf("Explain differs from Decide:\n%s", diff)
	}
	var deciders []string
	for _, m := range explanation.Matched {
		if m.Reason == "" || m.Decided && !m.Matches {
			t.Fatalf("match %+v makes no sense", m)
		}
		if m.Decided {
			deciders = append(deciders, m.Rule)
		}
	}
	if want := decision.Rule != DefaultRule; (len(deciders) == 1) != want || want && deciders[0] != decision.Rule {
		t.Fatalf("%q decided, but the explanation says %v", decision.Rule, deciders)
	}
}

// thousand returns intentions as a large region has them: most name both ends, some a namespace, a region or everybody.
func thousand() []federation.Intention {
	list := []federation.Intention{deny("nobody", "*@*", "*@*"), allow("shop", "shop/*", "shop/*"), allow("gcp", "*@gcp-europe-west1",
		"status")}
	for i := len(list); i < 1000; i++ {
		list = append(list, allow(fmt.Sprintf("i%d", i), fmt.Sprintf("web-%d@gcp-europe-west1", i%50), fmt.Sprintf("svc-%d", i%200)))
	}
	return list
}

func TestAllowingAllocatesNothing(t *testing.T) {
	p := CompileIntentions(aws, domains(), thousand())
	for _, caller := range []string{"web-3", "web-49"} {
		id, dst := workload(gcp, caller), name("svc-"+caller[4:])
		if d := p.Decide(id, federation.AssuranceBinding, aws, dst); !d.Allowed {
			t.Fatalf("setup: %+v", d)
		}
		if n := testing.AllocsPerRun(1000, func() { p.Decide(id, federation.AssuranceBinding, aws, dst) }); n != 0 {
			t.Errorf("an allowed call costs %v allocations", n)
		}
	}
}

func BenchmarkDecideAllow(b *testing.B) {
	p := CompileIntentions(aws, domains(), thousand())
	id, dst := workload(gcp, "web-49"), name("svc-49")
	b.ReportAllocs()
	for b.Loop() {
		if d := p.Decide(id, federation.AssuranceBinding, aws, dst); !d.Allowed {
			b.Fatal(d)
		}
	}
}

func BenchmarkDecideDenyByLastRule(b *testing.B) {
	p := CompileIntentions(aws, domains(), thousand())
	id, dst := workload(gcp, "stranger"), name("shop/cart")
	b.ReportAllocs()
	for b.Loop() {
		if d := p.Decide(id, federation.AssuranceBinding, aws, dst); d.Rule != "nobody" {
			b.Fatal(d)
		}
	}
}

func BenchmarkCompile1000(b *testing.B) {
	list := thousand()
	for b.Loop() {
		CompileIntentions(aws, domains(), list)
	}
}
