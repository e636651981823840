package config

import "github.com/tradewind-mesh/tradewind/federation"

func (w writer) permission(name string, p federation.Permission) {
	b := w.block(name)
	b.conditions(p.HTTPMatch)
	for _, c := range p.Claims {
		claim := b.block("claim", c.Provider)
		claim.list("path", c.Path)
		claim.list("any", c.Any)
	}
	b.text("token", p.Token)
	b.text("when", p.When)
}

func (w writer) jwt(j *federation.JWT) {
	w.text("issuer", j.Issuer)
	w.list("audiences", j.Audiences)
	w.text("jwks_url", j.JWKSURL)
	w.text("jwks", j.JWKS)
	w.list("algorithms", j.Algorithms)
	w.text("header", j.Header)
	w.text("cookie", j.Cookie)
	w.flag("forward", j.Forward)
	w.duration("leeway", j.Leeway)
}
