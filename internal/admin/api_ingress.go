package admin

import "github.com/tradewind-mesh/tradewind/federation"

// ListIngressesRequest asks for the north-south listeners.
type ListIngressesRequest struct{}

// ListIngressesResponse is sorted by name.
type ListIngressesResponse struct {
	Ingresses List[IngressStatus] `json:"ingresses"`
}

// IngressStatus is one north-south listener, as declared and as it is.
type IngressStatus struct {
	Name        string             `json:"name"`
	Listening   string             `json:"listening,omitempty"` // the address it has now; empty: none
	Connections int                `json:"connections"`         // open now
	Problems    List[Problem]      `json:"problems"`
	Spec        federation.Ingress `json:"spec"`

	Certificates List[IngressCertificate] `json:"certificates"`
}

// IngressCertificate is one certificate of an ingress.
type IngressCertificate struct {
	Source  string       `json:"source"` // "file" or "acme"
	From    string       `json:"from"`   // the file, or the directory of the authority
	Names   List[string] `json:"names"`
	Expires Time         `json:"expires,omitzero"`  // zero: there is none yet
	Renews  Time         `json:"renews,omitzero"`   // when a new one will be ordered; zero: when its file is replaced
	Failure string       `json:"failure,omitempty"` // why there is no new one
	Since   Time         `json:"since,omitzero"`    // the first attempt that failed
	Next    Time         `json:"next_try,omitzero"` // the one after Failure
}
