package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/when"
)

// permission is one http block of an intention.
type permission struct {
	*match.Matcher
	when     *when.Expression // nil: none
	provider string           // whose token it asks for
}

// Check returns what is wrong with the expressions of i, which is valid in all else.
func Check(i *federation.Intention) error {
	var errs []error
	for n, p := range i.HTTP {
		_, err := compileWhen(p)
		if wrong := (*federation.Diagnostic)(nil); errors.As(err, &wrong) {
			err = &federation.Diagnostic{Code: wrong.Code, What: fmt.Sprintf("when of http block %d", n+1), Why: wrong.Why, Fix: wrong.Fix, Err: err}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func compilePermission(p federation.Permission, lean match.Lean) (permission, error) {
	m, err := match.CompilePermission(p, lean)
	if err != nil {
		return permission{}, err
	}
	w, err := compileWhen(p)
	return permission{m, w, p.Token}, err
}

func compileWhen(p federation.Permission) (*when.Expression, error) {
	if p.When == "" {
		return nil, nil
	}
	e, err := when.Compile(p.When)
	switch {
	case err != nil:
		return nil, err
	case e.Tokens() && p.Token == "":
		return nil, &federation.Diagnostic{Code: when.CodeExpression, What: "when", Why: "it asks for a token, and the block does not say whose",
			Fix: `name the jwt resource beside it: token = "NAME"`}
	case !e.Tokens() && p.Token != "":
		return nil, &federation.Diagnostic{Code: when.CodeExpression, What: "when",
			Why: fmt.Sprintf("it asks for nothing of the token of %q that the block names", p.Token),
			Fix: "leave token out; that there is one is asked for with a claim block"}
	}
	return e, nil
}

// passes reports whether p means the request of what. With an expression that says neither yes nor no, an allow does not, a deny does.
func (p *permission) passes(what *question, action federation.Action) bool {
	if !p.Matches(what.request) {
		return false
	}
	if p.when == nil {
		return true
	}
	held, err := p.when.Holds(p.call(what))
	return held || err != nil && action == federation.Deny
}

func (p *permission) call(what *question) *when.Call {
	return &when.Call{Request: what.request, Source: what.src, From: what.caller.region, Caller: what.caller.service,
		To: what.callee.region, Destination: what.callee.service, Provider: p.provider}
}

// conditions says what came of the expressions that were asked about the request of what, up to the first that lets r apply; "" when r does
// not depend on any.
func (r *rule) conditions(what *question) string {
	if what.request == nil {
		return ""
	}
	var words string
	for i := range r.requests {
		p := &r.requests[i]
		if !p.Matches(what.request) {
			continue
		}
		if p.when == nil {
			return "" // it is enough by itself
		}
		held, err := p.when.Holds(p.call(what))
		if words != "" {
			words += "; "
		}
		words += fmt.Sprintf("when %q ", p.when)
		switch {
		case err == nil:
			words += fmt.Sprintf("is %v", held)
		case r.Action == federation.Deny:
			words += fmt.Sprintf("cannot be evaluated and so denies: %v", err)
		default:
			words += fmt.Sprintf("cannot be evaluated and so allows nothing: %v", err)
		}
		if p.provider != "" && !slices.ContainsFunc(what.request.Tokens, func(t match.Token) bool { return t.Provider == p.provider }) {
			words += fmt.Sprintf(" (there is no token of %q)", p.provider)
		}
		if held || err != nil && r.Action == federation.Deny {
			break
		}
	}
	return words
}
