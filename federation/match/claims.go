package match

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Ask names a provider whose tokens a decision may depend on.
type Ask struct {
	Provider string
	Enforced bool // a token that cannot be verified is refused; otherwise only intentions in shadow mode ask, and it counts as absent
}

// CompilePermission prepares p, which is valid, for requests that lean as given.
func CompilePermission(p federation.Permission, lean Lean) (*Matcher, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("compile permission: %w", err)
	}
	c, err := Compile(p.HTTPMatch, lean)
	if err == nil {
		c.claims = p.Claims
	}
	return c, err
}

// claimed reports whether one of tokens passes c.
func claimed(c *federation.ClaimMatch, tokens []Token) bool {
	for i := range tokens {
		if tokens[i].Provider == c.Provider && (len(c.Path) == 0 || claims(tokens[i].Claims, c.Path, c.Any)) {
			return true
		}
	}
	return false
}

// claims reports whether the claim at path is there and passes. A name is that of a member of an object, octet by octet.
func claims(object map[string]any, path, wanted []string) bool {
	for _, name := range path[:len(path)-1] {
		object, _ = object[name].(map[string]any)
	}
	last := path[len(path)-1]
	value, found := object[last]
	if !found || value == nil {
		return false
	}
	if len(wanted) == 0 {
		return true
	}
	if list, ok := value.([]any); ok {
		for _, element := range list {
			if equals(element, wanted) {
				return true
			}
		}
		return false
	}
	if text, ok := value.(string); ok && (last == "scope" || last == "scp") { // RFC 8693 4.2: a list with spaces between
		for element := range strings.SplitSeq(text, " ") {
			if slices.Contains(wanted, element) {
				return true
			}
		}
		return false
	}
	return equals(value, wanted)
}

// equals compares what is no object and no list: a number as it is written in the token, a truth value as "true" or "false".
func equals(value any, wanted []string) bool {
	switch v := value.(type) {
	case string:
		return slices.Contains(wanted, v)
	case bool:
		if v {
			return slices.Contains(wanted, "true")
		}
		return slices.Contains(wanted, "false")
	case fmt.Stringer: // a number
		return slices.Contains(wanted, v.String())
	}
	return false
}

// Claim is one claim that a permission asks for, and what a request's tokens say to it.
type Claim struct {
	federation.ClaimMatch
	Token  bool   `json:"token"`         // a verified token of the provider is there
	Has    string `json:"has,omitempty"` // what is at the path, as far as it fits a line; empty: nothing
	Passed bool   `json:"passed"`
}

// Claims returns the claims that c asks for as r has them, for people; apart says that r passes all of c but for those. There are none of
// what asks for no claim.
func (c *Matcher) Claims(r *Request) (claims []Claim, apart bool) {
	if len(c.claims) == 0 {
		return nil, false
	}
	others := *c
	others.claims = nil
	for i := range c.claims {
		ask := &c.claims[i]
		one := Claim{ClaimMatch: *ask, Passed: claimed(ask, r.Tokens)}
		for _, t := range r.Tokens {
			if t.Provider == ask.Provider {
				one.Token, one.Has = true, written(t.Claims, ask.Path)
			}
		}
		claims = append(claims, one)
	}
	return claims, others.Matches(r)
}

// String is the claim as an intention wants it: "idp realm.roles=admin|owner".
func (c Claim) String() string {
	word := c.Provider
	if len(c.Path) > 0 {
		word += " " + strings.Join(c.Path, ".")
	}
	if len(c.Any) > 0 {
		word += "=" + strings.Join(c.Any, "|")
	}
	return word
}

// maxWritten is how much is shown of a claim.
const maxWritten = 200

// written is the claim at path, as JSON has it.
func written(object map[string]any, path []string) string {
	if len(path) == 0 {
		return ""
	}
	for _, name := range path[:len(path)-1] {
		object, _ = object[name].(map[string]any)
	}
	value, found := object[path[len(path)-1]]
	if !found || value == nil {
		return ""
	}
	b, err := json.Marshal(value)
	if err != nil {
		return "?"
	}
	if len(b) > maxWritten {
		return strings.ToValidUTF8(string(b[:maxWritten]), "") + "..."
	}
	return string(b)
}
