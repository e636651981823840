// Package when holds requests against expressions of the Common Expression Language, https://cel.dev, that stand as "when" in the http
// blocks of intentions. It alone imports the library. An expression is read, type-checked and weighed once; each evaluation is bounded,
// does no I/O, and depends on nothing but the call: it has no clock and no randomness, so that whoever asks later gets the same answer.
//
// # Variables
//
//	request.method      string               "GET"
//	request.host        string               in small letters, without port
//	request.path        string               canonical and escaped, without the query
//	request.query       map(string, string)  by name, decoded
//	request.headers     map(string, string)  by name in small letters; a name can be asked for in any case; without the host
//	source.identity     string               the SPIFFE ID of the caller
//	source.namespace    string
//	source.service      string
//	source.region       string
//	destination.namespace, destination.service, destination.region
//	token.issuer        string               "" without a token
//	token.claims        map(string, dyn)     empty without a token; a number is an int where it is written as one
//
// The names are those of Envoy and Istio where these have one. As there, a header is one string; other than there, lines of one name
// are not joined by commas: to ask for the value of a header or a parameter that a request brings several times is an error. A header
// whose one value is a list is that one string. To ask for a parameter of a query that is not well-formed, or for a value longer than
// 4096 octets, is an error too. A caller cannot hide one value behind another.
//
// # Errors
//
// A missing header, parameter or claim, a value of another type and a spent budget are errors. && and || are decided in spite of one
// when the other side decides them. An expression that ends in one has said neither true nor false; who asks must take the side of
// safety.
//
// # Bounds
//
// Of the standard library, the macros has, all, exists and exists_one are there, which build nothing; map and filter are not, nor is
// anything about time. A pattern of matches must be written out. An expression has at most MaxLength octets. One that could cost more than
// MaxCost with a large request is refused when it is admitted; with a request larger still, evaluation stops at MaxCost.
package when
