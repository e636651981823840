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
}
