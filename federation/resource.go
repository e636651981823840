package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind is a kind of resource, as written in files ("service") and URLs.
type Kind string

// The kinds of resource, in the order they are listed and applied.
const (
	KindService   Kind = "service"
	KindExport    Kind = "export"
	KindIntention Kind = "intention"
	KindResolver  Kind = "resolver"
	KindRoute     Kind = "route"
	KindUpstream  Kind = "upstream"
	KindIngress   Kind = "ingress"
	KindJWT       Kind = "jwt"
	KindDrain     Kind = "drain"
)

// Kinds returns every kind in order.
func Kinds() []Kind {
	return []Kind{KindService, KindExport, KindIntention, KindResolver, KindRoute, KindUpstream, KindIngress, KindJWT, KindDrain}
}

// Spec is the declared part of a resource: *Service, *Export, *Intention, *Resolver, *Route, *Upstream, *Ingress, *JWT or *Drain.
type Spec interface {
	Kind() Kind
	// Validate returns every rule that the spec breaks under the resource name name, joined; nil when it breaks none.
	Validate(name string) error
}

// NewSpec returns an empty spec of kind, or nil when there is no such kind.
func NewSpec(kind Kind) Spec {
	switch kind {
	case KindService:
		return &Service{}
	case KindExport:
		return &Export{}
	case KindIntention:
		return &Intention{}
	case KindResolver:
		return &Resolver{}
	case KindRoute:
		return &Route{}
	case KindUpstream:
		return &Upstream{}
	case KindIngress:
		return &Ingress{}
	case KindJWT:
		return &JWT{}
	case KindDrain:
		return &Drain{}
	}
	return nil
}

// Key names a resource in its region. For services, exports, resolvers and routes, Name is the service's name.
type Key struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

func (k Key) String() string { return string(k.Kind) + " \"" + k.Name + "\"" }

// Compare orders keys by kind as Kinds lists them, then by name.
func (k Key) Compare(l Key) int {
	kinds := Kinds()
	if a, b := slices.Index(kinds, k.Kind), slices.Index(kinds, l.Kind); a != b {
		return a - b
	}
	return strings.Compare(k.Name, l.Name)
}

// Resource is one declarative object of a region.
type Resource struct {
	Key
	Owner   string `json:"owner,omitempty"`   // who wrote it last: "cli", "api", "dir:/etc/...", "terraform"; only the same owner may write again
	Version uint64 `json:"version,omitempty"` // grows with each write; a write may name the version it replaces, 0 is not checked
	Source  string `json:"source,omitempty"`  // file:line it was read from, for messages; not stored identity
	Spec    Spec   `json:"spec"`
}

// Validate returns everything that is wrong with r, joined.
func (r Resource) Validate() error {
	switch {
	case r.Spec == nil || NewSpec(r.Kind) == nil:
		return fmt.Errorf("kind %q is unknown: use one of %v", r.Kind, Kinds())
	case r.Spec.Kind() != r.Kind:
		return fmt.Errorf("%v holds the spec of a %s", r.Key, r.Spec.Kind())
	case r.Name == "":
		return fmt.Errorf("%s without a name", r.Kind)
	case len(r.Name) > maxName:
		return fmt.Errorf("%s name has %d characters: at most %d are allowed", r.Kind, len(r.Name), maxName)
	}
	return r.Spec.Validate(r.Name)
}

const maxName = 127

// UnmarshalJSON reads a resource strictly: an unknown field, kind or value is an error.
func (r *Resource) UnmarshalJSON(b []byte) error {
	var raw struct {
		Key
		Owner   string          `json:"owner"`
		Version uint64          `json:"version"`
		Source  string          `json:"source"`
		Spec    json.RawMessage `json:"spec"`
	}
	if err := decodeStrict(b, &raw); err != nil {
		return err
	}
	spec := NewSpec(raw.Kind)
	if spec == nil {
		return fmt.Errorf("kind %q is unknown: use one of %v", raw.Kind, Kinds())
	}
	if len(raw.Spec) == 0 {
		return fmt.Errorf("%v has no spec", raw.Key)
	}
	if err := decodeStrict(raw.Spec, spec); err != nil {
		return fmt.Errorf("%v: %w", raw.Key, err)
	}
	*r = Resource{Key: raw.Key, Owner: raw.Owner, Version: raw.Version, Source: raw.Source, Spec: spec}
	return nil
}

func decodeStrict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}
