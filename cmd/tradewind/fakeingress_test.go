package main

import (
	"context"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (g *fakeGateway) ListIngresses(context.Context, *admin.ListIngressesRequest) (*admin.ListIngressesResponse, error) {
	if g.lonely {
		return &admin.ListIngressesResponse{}, nil
	}
	to := func(name string) federation.ServiceRef { return federation.ServiceRef{Service: service(name)} }
	return &admin.ListIngressesResponse{Ingresses: []admin.IngressStatus{
		{Name: "database", Spec: federation.Ingress{Listen: "0.0.0.0:5432", Identity: service("ingress"), TCP: to("db")},
			Problems: []admin.Problem{{Severity: admin.SeverityError, Code: federation.CodeIngressListen,
				What: "ingress \"database\" does not listen on 0.0.0.0:5432 (TCP)", Why: "another process listens there", Fix: "give it another address"}}},
		{Name: "public", Listening: "[::]:443", Connections: 12, Spec: federation.Ingress{Listen: "[::]:443", Identity: service("ingress"), HTTP3: true,
			TLS:        []federation.IngressTLS{{Certificate: "/etc/tradewind/tls/*.crt", Key: "/etc/tradewind/tls/*.key"}},
			RateLimits: []federation.RateLimit{{Per: federation.PerClient, Rate: federation.Rate{Count: 1000, Per: time.Second}, Burst: 2000}},
			Hosts: []federation.IngressHost{{Name: "shop.example.com", Service: to("web"), RequireToken: []string{"idp", "partners"},
				CORS: &federation.CORS{Origins: []string{"https://app.example.com"}}, Compress: []string{federation.CompressGzip},
				RateLimits: []federation.RateLimit{{Per: federation.PerClient, Rate: federation.Rate{Count: 100, Per: time.Second}}},
				ErrorPages: []federation.ErrorPage{{Status: []int{502, 503}, Body: "sorry"}},
				Paths:      []federation.IngressPath{{Prefix: "/api", Service: to("shop/api")}}},
				{Name: "*.example.com", Service: to("web")}, {Name: "www.example.com", Service: to("web")}},
			Passthrough: []federation.IngressPassthrough{{Name: "db.example.com", Service: to("db")}}},
			Certificates: []admin.IngressCertificate{
				{Source: "file", From: "/etc/tradewind/tls/example.crt", Names: []string{"example.com", "*.example.com"}, Expires: after(20 * 24 * time.Hour)},
				{Source: "acme", From: federation.DefaultACMEDirectory, Names: []string{"shop.example.com"}, Expires: after(60 * 24 * time.Hour),
					Renews: after(30 * 24 * time.Hour)},
				{Source: "acme", From: federation.DefaultACMEDirectory, Names: []string{"www.example.com"}, Failure: "the authority says: no A record (dns)",
					Since: before(3 * time.Minute), Next: after(time.Minute)}}},
	}}, nil
}
