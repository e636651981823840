package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

const (
	// prefix is where resources are stored: prefix + kind + "/" + name.
	prefix = "resource/"
	// guardKey is written by every change. Its version is what a change was planned against: rules that span resources (two
	// listeners on one address, the limit on their number) hold only if nobody else writes in between. It lies outside prefix.
	guardKey = "resources"

	// MaxResources bounds the resources of a region: 10,000, ten times the largest meshes we know of.
	MaxResources = 10_000
	// MaxResource bounds the stored JSON of one resource, in octets.
	MaxResource = 64 << 10
	// MaxWrites bounds what one change can write: a store's commit, less the guard.
	MaxWrites = store.MaxOps - 1
	maxOwner  = 256
)

// resources is all resources at one revision, with what the View needs of them. It is immutable.
type resources struct {
	guard   uint64 // version of guardKey; 0: nothing was ever written
	records map[federation.Key]*record
	keys    []federation.Key // in order

	services   map[federation.ServiceName]federation.Service
	exports    []federation.Export
	intentions []federation.Intention
	resolvers  map[federation.ServiceName]federation.Resolver
	routes     map[federation.ServiceName]federation.Route
	upstreams  []federation.Upstream
	ingresses  []federation.Ingress
	jwt        []federation.JWT
	drains     map[federation.Region]federation.Drain
}

// record is one resource as it is stored.
type record struct {
	resource federation.Resource // nobody outside gets at its Spec
	spec     []byte              // canonical JSON: what makes two resources equal
	value    []byte              // what is stored
	damage   *federation.Diagnostic
}

// stored is the form of a resource in the store; its key and version are the entry's.
type stored struct {
	Owner  string          `json:"owner"`
	Source string          `json:"source,omitempty"`
	Spec   json.RawMessage `json:"spec"`
}

// newRecord validates r and takes a copy of it, under its canonical name.
func newRecord(r federation.Resource) (*record, error) {
	if r.Spec == nil || r.Spec.Kind() != r.Kind {
		return nil, r.Validate()
	}
	r.Key = canonical(r.Key)
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", r.Key, err)
	}
	// The copy is made by reading it back: what is in force is exactly what a restart will find.
	rec, err := readRecord(r.Key, stored{Owner: r.Owner, Source: r.Source, Spec: spec})
	if err != nil {
		return nil, err
	}
	if i, ok := rec.resource.Spec.(*federation.Intention); ok {
		if err := policy.Check(i); err != nil {
			return nil, err
		}
	}
	if rec.value, err = json.Marshal(stored{Owner: r.Owner, Source: r.Source, Spec: spec}); err != nil {
		return nil, fmt.Errorf("encode %v: %w", r.Key, err)
	}
	return rec, nil
}

// readRecord reads what is stored under key, strictly.
func readRecord(key federation.Key, s stored) (*record, error) {
	whole, err := json.Marshal(struct {
		federation.Key
		stored
	}{key, s})
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", key, err)
	}
	r := &record{}
	if err := json.Unmarshal(whole, &r.resource); err != nil {
		return nil, err
	}
	if err := r.resource.Validate(); err != nil { // this also fills the fields that the name gives
		return nil, err
	}
	r.spec, err = json.Marshal(r.resource.Spec)
	return r, err
}

// copy returns the resource with a spec of its own.
func (r *record) copy() federation.Resource {
	resource := r.resource
	resource.Spec = cloneSpec(resource.Spec)
	return resource
}

// cloneSpec copies spec down to its lists. Labels are shared: nobody has a reason to write to them.
func cloneSpec(spec federation.Spec) federation.Spec {
	switch s := spec.(type) {
	case *federation.Service:
		c := *s
		c.Instances, c.Checks = slices.Clone(s.Instances), slices.Clone(s.Checks)
		return &c
	case *federation.Export:
		c := *s
		c.To = slices.Clone(s.To)
		return &c
	case *federation.Intention:
		c := *s
		c.HTTP = slices.Clone(s.HTTP)
		return &c
	case *federation.Resolver:
		c := *s
		c.Failover = slices.Clone(s.Failover)
		return &c
	case *federation.Route: // its rules are shared down from here, like labels
		c := *s
		c.Rules = slices.Clone(s.Rules)
		return &c
	case *federation.Upstream:
		c := *s
		return &c
	case *federation.Ingress: // its lists are shared down from here, like labels
		c := *s
		c.Hosts, c.Passthrough, c.TLS = slices.Clone(s.Hosts), slices.Clone(s.Passthrough), slices.Clone(s.TLS)
		return &c
	case *federation.JWT:
		c := *s
		c.Audiences, c.Algorithms = slices.Clone(s.Audiences), slices.Clone(s.Algorithms)
		return &c
	case *federation.Drain:
		c := *s
		return &c
	}
	return spec
}

// canonical returns key with the one spelling of its name: "default/web" and "web" are the same service.
func canonical(key federation.Key) federation.Key {
	switch key.Kind {
	case federation.KindService, federation.KindExport, federation.KindResolver, federation.KindRoute:
		if name, err := federation.ParseServiceName(key.Name); err == nil {
			key.Name = name.String()
		}
	}
	return key
}

func storeKey(key federation.Key) string { return prefix + string(key.Kind) + "/" + key.Name }

// loadResources reads all resources. One that cannot be read is kept as damaged: it is never deleted by being unreadable.
func loadResources(ctx context.Context, s store.Store) (*resources, error) {
	set := &resources{records: map[federation.Key]*record{}}
	// The guard is read first: a change that comes between the two reads makes the next commit fail, and it is planned anew.
	guard, err := s.Get(ctx, guardKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, cannotRead(err)
	}
	set.guard = guard.Version
	entries, err := s.List(ctx, prefix)
	if err != nil {
		return nil, cannotRead(err)
	}
	for _, e := range entries {
		kind, name, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		key := federation.Key{Kind: federation.Kind(kind), Name: name}
		set.records[key] = loadRecord(key, e)
	}
	set.compile()
	return set, nil
}

func loadRecord(key federation.Key, e store.Entry) *record {
	// What can be read of a damaged record still says whose it is; what is in force must be understood to the last field.
	var s stored
	_ = json.Unmarshal(e.Value, &s)
	strict := json.NewDecoder(bytes.NewReader(e.Value))
	strict.DisallowUnknownFields()
	err := strict.Decode(&s)
	var r *record
	if err == nil {
		r, err = readRecord(key, s)
	}
	if err != nil {
		r = &record{resource: federation.Resource{Key: key, Owner: s.Owner, Source: s.Source}, damage: &federation.Diagnostic{
			Code: CodeDamaged, What: fmt.Sprintf("stored %v cannot be read and is not in force", key), Why: oneLine(err),
			Fix: "apply it again or delete it; if a newer version of Tradewind wrote it, run that version", Err: err}}
	}
	r.value, r.resource.Version = e.Value, e.Version
	return r
}

func cannotRead(err error) error {
	return &federation.Diagnostic{Code: CodeStore, What: "cannot read the region's resources", Why: err.Error(),
		Fix: "check the region's store", Err: err}
}

// compile fills what is derived from records.
func (s *resources) compile() {
	s.keys = slices.SortedFunc(maps.Keys(s.records), federation.Key.Compare)
	s.services = map[federation.ServiceName]federation.Service{}
	s.resolvers = map[federation.ServiceName]federation.Resolver{}
	s.routes = map[federation.ServiceName]federation.Route{}
	s.drains = map[federation.Region]federation.Drain{}
	for _, key := range s.keys {
		r := s.records[key]
		if r.damage != nil {
			if key.Kind == federation.KindIntention {
				// It may be a deny. Policy denies everything when it meets an intention it cannot understand.
				s.intentions = append(s.intentions, federation.Intention{Name: key.Name})
			}
			continue
		}
		switch spec := r.resource.Spec.(type) {
		case *federation.Service:
			if name, err := federation.ParseServiceName(key.Name); err == nil {
				s.services[name] = *spec
			}
		case *federation.Export:
			s.exports = append(s.exports, *spec)
		case *federation.Intention:
			s.intentions = append(s.intentions, *spec)
		case *federation.Resolver:
			s.resolvers[spec.Service] = *spec
		case *federation.Route:
			s.routes[spec.Service] = *spec
		case *federation.Upstream:
			s.upstreams = append(s.upstreams, *spec)
		case *federation.Ingress:
			s.ingresses = append(s.ingresses, *spec)
		case *federation.JWT:
			s.jwt = append(s.jwt, *spec)
		case *federation.Drain:
			s.drains[spec.Region] = *spec
		}
	}
}

// operations returns the commit that turns s into what plan says. records holds what is new.
func (s *resources) operations(owner string, plan Plan, records map[federation.Key]*record) []store.Op {
	ops := []store.Op{{Key: guardKey, Value: []byte(owner), If: s.guard}}
	for _, step := range plan.Steps {
		var version uint64
		if r := s.records[step.Key]; r != nil {
			version = r.resource.Version
		}
		switch step.Action {
		case ActionCreate, ActionUpdate:
			ops = append(ops, store.Op{Key: storeKey(step.Key), Value: records[step.Key].value, If: version})
		case ActionDelete:
			ops = append(ops, store.Op{Key: storeKey(step.Key), Delete: true, If: version})
		}
	}
	return ops
}

// next returns what s is after plan was committed as revision.
func (s *resources) next(revision uint64, plan Plan, records map[federation.Key]*record) *resources {
	n := &resources{guard: revision, records: maps.Clone(s.records)}
	for _, step := range plan.Steps {
		switch step.Action {
		case ActionCreate, ActionUpdate:
			n.records[step.Key] = records[step.Key]
		case ActionDelete:
			delete(n.records, step.Key)
		}
	}
	n.compile()
	return n
}

// equal reports whether s and t hold the same writes.
func (s *resources) equal(t *resources) bool {
	return s.guard == t.guard && maps.EqualFunc(s.records, t.records, func(a, b *record) bool {
		return a.resource.Version == b.resource.Version
	})
}

// sameServices reports whether the service resources of s and t say the same.
func (s *resources) sameServices(t *resources) bool {
	if t == nil || len(s.services) != len(t.services) {
		return false
	}
	for key, r := range s.records {
		if key.Kind != federation.KindService || r.damage != nil {
			continue
		}
		if other := t.records[key]; other == nil || other.damage != nil || string(other.spec) != string(r.spec) {
			return false
		}
	}
	return true
}

func (s *resources) damage() []*federation.Diagnostic {
	var list []*federation.Diagnostic
	for _, key := range s.keys {
		if d := s.records[key].damage; d != nil {
			list = append(list, d)
		}
	}
	return list
}
