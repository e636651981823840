package policy

import (
	"cmp"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// Asks returns the providers of whose tokens the answer of DecideRequest for dst may depend, in any region, sorted by name: what
// DecideRequest does not find in a request's tokens counts as absent. It allocates nothing; the result is read only.
func (p *Intentions) Asks(dst federation.ServiceName) []match.Ask {
	if p == nil || len(p.asks) == 0 {
		return nil
	}
	for _, name := range []federation.ServiceName{dst, {Namespace: dst.Namespace, Name: "*"}} {
		if asks, found := p.asks[name]; found {
			return asks
		}
	}
	return p.asks[federation.ServiceName{Namespace: "*", Name: "*"}]
}

// gatherAsks fills asks: under each name that a destination has, what intentions ask of that name and of the wider ones.
func (p *Intentions) gatherAsks() {
	for i := range p.rules {
		r := &p.rules[i]
		for _, permission := range r.HTTP {
			if permission.Token != "" {
				p.addAsk(namedBy(r.destination), match.Ask{Provider: permission.Token, Enforced: !r.shadow})
			}
			for _, c := range permission.Claims {
				p.addAsk(namedBy(r.destination), match.Ask{Provider: c.Provider, Enforced: !r.shadow})
			}
		}
	}
	all := p.asks[federation.ServiceName{Namespace: "*", Name: "*"}]
	for name := range p.asks { // namespaces first: single names take from them
		if name.Name == "*" && name.Namespace != "*" {
			p.addAsk(name, all...)
		}
	}
	for name := range p.asks {
		if name.Name != "*" {
			wider := all
			if space, found := p.asks[federation.ServiceName{Namespace: name.Namespace, Name: "*"}]; found {
				wider = space
			}
			p.addAsk(name, wider...)
		}
	}
}

func namedBy(p federation.Pattern) federation.ServiceName {
	return federation.ServiceName{Namespace: p.Namespace, Name: p.Name}
}

// addAsk adds asks to those under name, each provider once.
func (p *Intentions) addAsk(name federation.ServiceName, asks ...match.Ask) {
	list := slices.Clone(p.asks[name])
	for _, ask := range asks {
		i, found := slices.BinarySearchFunc(list, ask, func(a, b match.Ask) int { return cmp.Compare(a.Provider, b.Provider) })
		if found {
			list[i].Enforced = list[i].Enforced || ask.Enforced
			continue
		}
		list = slices.Insert(list, i, ask)
	}
	if p.asks == nil {
		p.asks = map[federation.ServiceName][]match.Ask{}
	}
	p.asks[name] = list
}
