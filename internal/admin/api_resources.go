package admin

import "github.com/tradewind-mesh/tradewind/federation"

// ListResourcesRequest asks for resources; of some kinds when any is set.
type ListResourcesRequest struct {
	Kinds []federation.Kind `json:"kinds,omitempty"`
}

// ListResourcesResponse is sorted by key.
type ListResourcesResponse struct {
	Resources List[federation.Resource] `json:"resources"`
}

// GetResourceRequest names a resource.
type GetResourceRequest struct {
	federation.Key
}

// GetResourceResponse is the resource.
type GetResourceResponse struct {
	Resource federation.Resource `json:"resource"`
}

// ChangeRequest is a change of resources: all of it happens or none.
type ChangeRequest struct {
	Owner  string                `json:"owner"`            // who asks: "cli", "terraform", ...; a resource of another owner is refused
	Put    []federation.Resource `json:"put,omitempty"`    // a version above 0 must be the current one; 0 is not checked
	Delete []federation.Key      `json:"delete,omitempty"` //
	Prune  bool                  `json:"prune,omitempty"`  // also delete whatever Owner owns and Put does not list
	Force  bool                  `json:"force,omitempty"`  // take over resources of other owners
}

// DeleteRequest names resources to delete: all of them or none.
type DeleteRequest struct {
	Owner string           `json:"owner"`
	Keys  []federation.Key `json:"keys"`
	Force bool             `json:"force,omitempty"`
}

// Action is what a change does to a resource.
type Action string

// The actions.
const (
	ActionCreate Action = "create"
	ActionUpdate Action = "update"
	ActionDelete Action = "delete"
	ActionNone   Action = "none"
)

// Plan is what a change would do, or did.
type Plan struct {
	Steps    List[Step]    `json:"steps"`
	Warnings List[Problem] `json:"warnings,omitempty"` // it can be applied, but may not do what was meant
}

// Step is what happens to one resource. Before is unset for a creation, After for a deletion.
type Step struct {
	Action Action               `json:"action"`
	Key    federation.Key       `json:"key"`
	Before *federation.Resource `json:"before,omitempty"`
	After  *federation.Resource `json:"after,omitempty"`
}
