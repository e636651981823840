package config

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

type jwtBlock struct {
	Name       string    `hcl:"name,label"`
	At         hcl.Range `hcl:",def_range"`
	Issuer     string    `hcl:"issuer"`
	Audiences  []string  `hcl:"audiences"`
	JWKSURL    string    `hcl:"jwks_url,optional"`
	JWKS       string    `hcl:"jwks,optional"`
	Algorithms []string  `hcl:"algorithms,optional"`
	Header     string    `hcl:"header,optional"`
	Cookie     string    `hcl:"cookie,optional"`
	Forward    bool      `hcl:"forward,optional"`
	Leeway     string    `hcl:"leeway,optional"`
}

// permissionBlock is a federation.Permission as HCL writes it: a match with claims. gohcl does not look into embedded structs.
type permissionBlock struct {
	Methods      []string     `hcl:"methods,optional"`
	Hosts        []string     `hcl:"hosts,optional"`
	Path         string       `hcl:"path,optional"`
	PathPrefix   string       `hcl:"path_prefix,optional"`
	PathTemplate string       `hcl:"path_template,optional"`
	GRPC         string       `hcl:"grpc,optional"`
	Headers      []fieldBlock `hcl:"header,block"`
	Query        []fieldBlock `hcl:"query,block"`
	Claims       []claimBlock `hcl:"claim,block"`
	When         string       `hcl:"when,optional"`
	Token        string       `hcl:"token,optional"`
}

type claimBlock struct {
	Provider string   `hcl:"provider,label"`
	Path     []string `hcl:"path,optional"`
	Any      []string `hcl:"any,optional"`
}

func permissions(blocks []permissionBlock) []federation.Permission {
	var out []federation.Permission
	for _, b := range blocks {
		m := matchBlock{Methods: b.Methods, Hosts: b.Hosts, Path: b.Path, PathPrefix: b.PathPrefix, PathTemplate: b.PathTemplate,
			GRPC: b.GRPC, Headers: b.Headers, Query: b.Query}
		p := federation.Permission{HTTPMatch: m.match(), When: b.When, Token: b.Token}
		for _, c := range b.Claims {
			p.Claims = append(p.Claims, federation.ClaimMatch(c))
		}
		out = append(out, p)
	}
	return out
}

func (c converter) jwt(b jwtBlock) {
	spec := &federation.JWT{Issuer: b.Issuer, Audiences: b.Audiences, JWKSURL: b.JWKSURL, JWKS: b.JWKS, Algorithms: b.Algorithms,
		Header: b.Header, Cookie: b.Cookie, Forward: b.Forward}
	c.text("leeway", b.Leeway, &spec.Leeway, b.At)
	c.put(federation.KindJWT, b.Name, b.At, spec)
}
