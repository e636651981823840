package controlplane

import (
	"slices"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestWarningsAboutRequests(t *testing.T) {
	r := newRegion(t, nil, "db")
	r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
	r.SetImport(gcp, imported(gcp, federation.FreshnessLive, "reports"))
	web := resource(federation.KindService, "web", &federation.Service{Protocol: federation.ProtocolHTTP})
	api := resource(federation.KindService, "api", &federation.Service{Protocol: federation.ProtocolHTTP})
	resolver := resource(federation.KindResolver, "web", &federation.Resolver{Subsets: map[string]federation.Subset{
		"v2": {Labels: map[string]string{"version": "2"}}}})
	route := func(service string, rule federation.RouteRule) federation.Resource {
		rule.Name = "r"
		return resource(federation.KindRoute, service, &federation.Route{Rules: []federation.RouteRule{rule}})
	}
	limited := func(named, destination string, action federation.Action) federation.Resource {
		return resource(federation.KindIntention, named, &federation.Intention{Source: "client", Destination: destination, Action: action,
			HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/x"}}}})
	}
	claiming := func(named, provider string) federation.Resource {
		return resource(federation.KindIntention, named, &federation.Intention{Source: "client", Destination: "web", Action: federation.Allow,
			HTTP: []federation.Permission{{Claims: []federation.ClaimMatch{{Provider: provider}, {Provider: provider}}}}})
	}
	idp := resource(federation.KindJWT, "idp", &federation.JWT{Issuer: "https://idp.example.com", Audiences: []string{"web"},
		JWKSURL: "https://idp.example.com/keys"})
	plain := federation.RouteRule{Respond: &federation.Respond{Status: 204}}
	for _, test := range []struct {
		put  federation.Resource
		want []federation.Code
		says string
	}{
		{route("web", federation.RouteRule{Split: []federation.Split{{Subset: "v2", Weight: 1}, {Service: name("db"), Weight: 1}},
			Mirror: &federation.Mirror{Service: name("reports")}}), nil, ""},
		{route("db", plain), []federation.Code{WarnProtocol}, `route "db" has no effect: the service is carried as tcp`},
		{route("reports", plain), []federation.Code{WarnProtocol}, "carried as tcp"},
		{route("wbe", plain), []federation.Code{WarnService}, `leads to the service "wbe", which nobody shows`},
		{route("web", federation.RouteRule{Split: []federation.Split{{Subset: "v3", Weight: 1}}}), []federation.Code{WarnSubset},
			`by rule "r" to the subset "v3" of "web", which does not exist`},
		{route("web", federation.RouteRule{Split: []federation.Split{{Service: name("db"), Subset: "v2", Weight: 1}}}),
			[]federation.Code{WarnSubset}, `of "db"`},
		{route("web", federation.RouteRule{Split: []federation.Split{{Service: name("next"), Region: "dc-berlin", Weight: 1}},
			Mirror: &federation.Mirror{Service: name("copy")}}), []federation.Code{WarnRegion, WarnService, WarnService}, "dc-berlin"},
		{resource(federation.KindResolver, "api", &federation.Resolver{ProxyProtocol: federation.ProxyV2}), []federation.Code{WarnProtocol},
			"proxy_protocol of resolver \"api\" has no effect: the service speaks http"},
		{resource(federation.KindResolver, "db", &federation.Resolver{ProxyProtocol: federation.ProxyV2}), nil, ""},
		{limited("fine", "web", federation.Allow), nil, ""},
		{limited("many", "*@*", federation.Allow), nil, ""},
		{claiming("admins", "idp"), nil, ""},
		{resource(federation.KindIngress, "public", &federation.Ingress{Listen: "127.0.0.1:80", Identity: name("in"), Hosts: []federation.IngressHost{
			{Name: "a.example.com", Service: federation.ServiceRef{Service: name("web")}, RequireToken: []string{"idp", "gone"}}}}),
			[]federation.Code{WarnTokens}, `requires a token of the provider "gone" for host "a.example.com"`},
		{claiming("nobodys", "gone"), []federation.Code{WarnTokens}, `token provider "gone", which does not exist`},
		{limited("unseen", "unseen", federation.Allow), nil, ""},
		{limited("allows", "db", federation.Allow), []federation.Code{WarnProtocol}, `intention "allows" is for certain requests and so allows nothing`},
		{limited("denies", "reports@gcp-europe-west1", federation.Deny), []federation.Code{WarnProtocol}, "denies every connection"},
		{limited("anywhere", "reports@*", federation.Deny), []federation.Code{WarnProtocol}, "denies every connection"},
		{limited("elsewhere", "reports", federation.Deny), nil, ""}, // this region has none
	} {
		plan, err := r.Plan(t.Context(), put("cli", web, api, resolver, idp, test.put))
		if err != nil {
			t.Fatal(err)
		}
		var got []federation.Code
		text := ""
		for _, w := range plan.Warnings {
			got = append(got, w.Code)
			text += w.What + "\n"
		}
		if !slices.Equal(got, test.want) || !strings.Contains(text, test.says) {
			t.Errorf("%s: warnings %v, want %v\n%s", test.put.Key, got, test.want, text)
		}
	}
}
