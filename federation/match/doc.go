// Package match holds requests against the conditions of routes and intentions. Conditions are compiled once; a request is judged
// without a lock, an allocation or a regular expression.
//
// What is judged is what is forwarded: the caller of this package hands over a request that has been read strictly and made
// canonical once, and sends on exactly that.
//
// A condition on something that a request can bring several times, or in a form that two programs read differently, is judged by what
// it is for: see Lean.
package match

import "strings"

// Request is what conditions see of a request. Whoever fills it in must forward what it says.
type Request struct {
	Method string
	Host   string              // in small letters, without port and last dot
	Path   string              // canonical and escaped, without the query
	Query  string              // as sent, without the question mark
	Header map[string][]string // by canonical name, as net/http has it; Host is not among them
	Tokens []Token             // those that have been verified
}

// Token is what a verified JSON Web Token says.
type Token struct {
	Provider string         // the jwt resource that vouches for it
	Claims   map[string]any // as encoding/json decodes them, numbers as they are written (a fmt.Stringer)
}

// Lean says to which side an unclear request falls: one that brings a field several times, or a query that is not well-formed.
type Lean bool

const (
	// Narrow is for conditions that let something happen: every value must pass, and what is unclear does not.
	Narrow Lean = false

	// Wide is for conditions that forbid: one value that passes is enough, also one of a list within a value, and what is unclear
	// passes, for the instance might read it that way.
	Wide Lean = true
)

// Host returns authority as Request.Host wants it.
func Host(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		authority = authority[:i]
	}
	return strings.ToLower(strings.TrimSuffix(authority, "."))
}
