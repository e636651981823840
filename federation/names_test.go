package federation_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestNamesThatAreRefused(t *testing.T) {
	for _, s := range []string{"", "A", "a_b", "-a", "a-", "a.b", "ä", strings.Repeat("a", 64), "local", "a b", "a/b", "*"} {
		if r, err := federation.ParseRegion(s); err == nil {
			t.Errorf("region %q was accepted as %q", s, r)
		}
	}
	for _, s := range []string{"", "/", "a/", "/b", "a/b/c", "A/b", "a/B", "a@b", "*", "a/*"} {
		if n, err := federation.ParseServiceName(s); err == nil {
			t.Errorf("service name %q was accepted as %v", s, n)
		}
	}
	for _, s := range []string{"@", "a@", "@b", "a@b@c", "a@local", "a@*"} {
		if r, err := federation.ParseServiceRef(s); err == nil {
			t.Errorf("service reference %q was accepted as %v", s, r)
		}
	}
	for _, s := range []string{"", "@", "a/", "*/a", "a*", "a@", "a/b/c", "a@B", "*@"} {
		if p, err := federation.ParsePattern(s); err == nil {
			t.Errorf("pattern %q was accepted as %v", s, p)
		}
	}
}

var label = rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`).Filter(func(s string) bool { return s != "local" })

func TestNamesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ref := federation.ServiceRef{
			Service: federation.ServiceName{Namespace: label.Draw(t, "namespace"), Name: label.Draw(t, "name")},
			Region:  federation.Region(rapid.OneOf(label, rapid.Just("")).Draw(t, "region")),
		}
		if back, err := federation.ParseServiceRef(ref.String()); err != nil || back != ref {
			t.Fatalf("%v came back as %v, %v", ref, back, err)
		}
		p := federation.Pattern{Region: string(ref.Region), Namespace: ref.Service.Namespace, Name: rapid.SampledFrom([]string{ref.Service.Name, "*"}).Draw(t, "which")}
		if back, err := federation.ParsePattern(p.String()); err != nil || back != p {
			t.Fatalf("pattern %v came back as %v, %v", p, back, err)
		}
	})
}

func TestPatternsMeanWhatTheySay(t *testing.T) {
	web := federation.ServiceName{Namespace: "default", Name: "web"}
	shop := federation.ServiceName{Namespace: "shop", Name: "web"}
	for _, c := range []struct {
		pattern string
		region  federation.Region
		service federation.ServiceName
		want    bool
	}{
		{"web", "here", web, true}, {"web", "there", web, false}, {"web", "here", shop, false},
		{"web@there", "there", web, true}, {"web@there", "here", web, false}, {"web@*", "there", web, true}, {"web@*", "here", web, true},
		{"shop/web", "here", shop, true}, {"shop/*", "here", shop, true}, {"shop/*", "here", web, false},
		{"*", "here", shop, true}, {"*", "there", web, false}, {"*@there", "there", shop, true}, {"*@*", "there", shop, true},
	} {
		p, err := federation.ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Matches("here", c.region, c.service); got != c.want {
			t.Errorf("%q matches %v in %q: %v, want %v", c.pattern, c.service, c.region, got, c.want)
		}
	}
}

func TestLaneKeepsCountsAndGenerationsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slot := rapid.Custom(func(t *rapid.T) federation.SlotHealth {
			return federation.SlotHealth{Generation: rapid.Uint16().Draw(t, "generation"),
				Healthy: rapid.Uint32Max(federation.MaxSlotCount).Draw(t, "healthy"), Total: rapid.Uint32Max(federation.MaxSlotCount).Draw(t, "total")}
		})
		slots := rapid.SliceOfN(slot, 1, 8).Draw(t, "slots")
		lane := federation.NewHealthLane(slots)
		i, news := rapid.IntRange(-1, len(slots)).Draw(t, "i"), slot.Draw(t, "news")
		if rapid.Bool().Draw(t, "same tenant") && i >= 0 && i < len(slots) {
			news.Generation = slots[i].Generation
		}
		stored := lane.Store(i, news)
		if want := i >= 0 && i < len(slots) && slots[i].Generation == news.Generation; stored != want {
			t.Fatalf("Store(%d, %+v) into %+v is %v", i, news, slots, stored)
		}
		if stored {
			slots[i] = news
		}
		var healthy, total uint32
		for j, s := range slots {
			if got := lane.Load(j); got != s {
				t.Fatalf("slot %d holds %+v, want %+v", j, got, s)
			}
			healthy, total = healthy+s.Healthy, total+s.Total
		}
		if h, n := lane.Sum(); h != healthy || n != total {
			t.Fatalf("sum is %d of %d, want %d of %d", h, n, healthy, total)
		}
	})
}

func TestResourcesAreReadStrictly(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"kind":"exprt","name":"x","spec":{}}`, "unknown"},
		{`{"kind":"export","name":"x"}`, "no spec"},
		{`{"kind":"export","name":"x","spec":{"too":[]}}`, "too"},
		{`{"kind":"export","name":"x","extra":1,"spec":{"to":["*"]}}`, "extra"},
		{`{"kind":"resolver","name":"x","spec":{"connect_timeout":"5"}}`, "duration"},
		{`{"kind":"resolver","name":"x","spec":{"connect_timeout":"-5s"}}`, "negative"},
	} {
		var r federation.Resource
		if err := json.Unmarshal([]byte(c.text), &r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s gave %v, want %q", c.text, err, c.want)
		}
	}
}

func TestInvalidSpecsSayWhichRuleTheyBreak(t *testing.T) {
	for _, c := range []struct {
		name string
		spec federation.Spec
		want string
	}{
		{"x", &federation.Export{}, "names no peer"},
		{"x", &federation.Export{To: []string{"A"}}, "lower case"},
		{"x", &federation.Export{To: []string{"*"}, Detail: "all"}, "summary or endpoints"},
		{"x", &federation.Intention{Source: "a", Destination: "b", Action: "permit"}, "allow or deny"},
		{"x", &federation.Intention{Source: "a", Destination: "b", Action: federation.Deny, Require: federation.AssuranceMTLS}, "belongs to an allow"},
		{"x", &federation.Resolver{Failover: []string{"a", "a"}}, "twice"},
		{"x", &federation.Resolver{IdleTimeout: 1, NoIdleTimeout: true}, "exclude"},
		{"x", &federation.Resolver{Outlier: federation.Outlier{MaxEjectedPercent: 101}}, "between 0 and 100"},
		{"x", &federation.Upstream{Listen: "0.0.0.0:80"}, "loopback"},
		{"x", &federation.Upstream{Listen: "0.0.0.0:80"}, "allow_from"},
		{"x", &federation.Upstream{Listen: "unix:/run/x", AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "IP:PORT"},
		{"x", &federation.Upstream{Listen: "0.0.0.0:80", AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}, "no network"},
		{"x", &federation.Upstream{Listen: "unix:relative"}, "absolute"},
		{"a/b/c", &federation.Service{}, "service"},
		{"x", &federation.Service{Instances: []federation.StaticInstance{{ID: "i"}}}, "no valid address"},
		{"x", &federation.Service{Checks: []federation.CheckSpec{{Kind: "ping"}}}, "tcp, http, grpc or ttl"},
		{strings.Repeat("x", 200), &federation.Service{}, "at most"},
	} {
		err := federation.Resource{Key: federation.Key{Kind: c.spec.Kind(), Name: c.name}, Spec: c.spec}.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%T %+v gave %v, want %q", c.spec, c.spec, err, c.want)
		}
	}
}

func FuzzParsePattern(f *testing.F) {
	f.Add("shop/*@aws-us-east-1")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := federation.ParsePattern(s)
		if err != nil {
			return
		}
		if again, err := federation.ParsePattern(p.String()); err != nil || again != p {
			t.Fatalf("%q is %+v, which is written %q and read as %+v, %v", s, p, p.String(), again, err)
		}
	})
}

func FuzzResourceJSON(f *testing.F) {
	f.Add([]byte(`{"kind":"intention","name":"a","spec":{"source":"*","destination":"b","action":"allow","require":"mtls"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r federation.Resource
		if json.Unmarshal(b, &r) != nil || r.Validate() != nil {
			return
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again federation.Resource
		if err := json.Unmarshal(out, &again); err != nil || again.Validate() != nil {
			t.Fatalf("%s is not read back: %v", out, err)
		}
	})
}
