package registry

import (
	"cmp"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// SourceState says whether a source runs.
type SourceState string

// The states of a source.
const (
	SourceStarting SourceState = "starting" // added, not started yet
	SourceRunning  SourceState = "running"
	SourceWaiting  SourceState = "waiting" // it ended and is started again at NextStart
)

// SourceStatus is where one source stands.
type SourceStatus struct {
	Name         federation.SourceName    `json:"name"`
	State        SourceState              `json:"state"`
	Instances    int                      `json:"instances"`              // of the last complete set
	LastComplete time.Time                `json:"last_complete,omitzero"` // when it came, or was read
	Age          federation.Duration      `json:"age,omitempty"`          // since LastComplete
	Problem      *federation.Diagnostic   `json:"-"`                      // why there is no newer set; nil when there is
	Err          string                   `json:"error,omitempty"`        // Problem in words
	Code         federation.Code          `json:"code,omitempty"`         // of Problem
	Skipped      int                      `json:"skipped,omitempty"`      // records of the last set that are not valid
	Problems     []*federation.Diagnostic `json:"problems,omitempty"`     // the first of the skipped
	Conflicts    int                      `json:"conflicts,omitempty"`    // instances for which another source is believed
	Restarts     int                      `json:"restarts,omitempty"`     // since it was added
	NextStart    time.Time                `json:"next_start,omitzero"`    // when a waiting source is started again
}

// InstanceStatus is all that is known of one instance.
type InstanceStatus struct {
	Instance federation.Instance      `json:"instance"` // as its source reported it, defaults filled in, with the checks that are made
	Source   federation.SourceName    `json:"source"`
	Also     []federation.SourceName  `json:"also,omitempty"`     // other sources that report it
	Conflict bool                     `json:"conflict,omitempty"` // one of them says something else
	Health   federation.Health        `json:"health"`             // what its source, its checks and operators add up to
	Reason   string                   `json:"reason,omitempty"`   // why it is not passing
	Since    time.Time                `json:"since,omitzero"`     // when Health last changed
	Waiting  bool                     `json:"waiting,omitempty"`  // not in the catalog: its service is full
	Checks   []federation.CheckStatus `json:"checks,omitempty"`
}

// Sources returns where the sources stand, in order of name, with "resources" last when services are declared.
func (r *Registry) Sources() []SourceStatus {
	conflicts := map[*source]int{}
	r.mu.RLock()
	for _, svc := range r.state.services {
		for _, e := range svc.entries {
			if !e.conflict {
				continue
			}
			for _, c := range e.claims[1:] {
				conflicts[c.source]++
			}
		}
	}
	r.mu.RUnlock()
	var out []SourceStatus
	for _, s := range append(r.sourceList(), r.resources) {
		status := s.snapshot(r.cfg.Now())
		status.Conflicts = conflicts[s]
		if s != r.resources || !status.LastComplete.IsZero() {
			out = append(out, status)
		}
	}
	return out
}

// snapshot returns the status of s at now.
func (s *source) snapshot(now time.Time) SourceStatus {
	var problem error
	var asOf time.Time
	if trouble, ok := s.impl.(Troubled); ok { // outside of the lock: it is foreign code
		problem = trouble.Problem()
	}
	if dated, ok := s.impl.(Dated); ok {
		asOf = dated.AsOf()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	status.State = cmp.Or(status.State, SourceStarting)
	if s.impl == nil {
		status.State = SourceRunning
	}
	if !status.LastComplete.IsZero() {
		status.LastComplete = cmp.Or(asOf, status.LastComplete)
		status.Age = federation.Duration(max(0, now.Sub(status.LastComplete)))
	}
	if err := cmp.Or(s.err, problem); err != nil {
		d := s.diagnose(err)
		status.Problem, status.Err, status.Code = d, d.Error(), d.Code
	}
	status.Problems = slices.Clone(status.Problems)
	return status
}

// Instances returns all that is known of every instance, in order of service and ID.
func (r *Registry) Instances() []InstanceStatus {
	r.mu.RLock()
	var out []InstanceStatus
	for _, svc := range r.state.services {
		for _, e := range svc.entries {
			out = append(out, e.status())
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(out, func(a, b InstanceStatus) int {
		return cmp.Or(a.Instance.Service.Compare(b.Instance.Service), cmp.Compare(a.Instance.ID, b.Instance.ID))
	})
	for i := range out {
		r.addChecks(&out[i])
	}
	return out
}

// Instance returns all that is known of one instance.
func (r *Registry) Instance(service federation.ServiceName, id federation.InstanceID) (InstanceStatus, bool) {
	r.mu.RLock()
	svc := r.state.services[service]
	if svc == nil || svc.entries[id] == nil {
		r.mu.RUnlock()
		return InstanceStatus{}, false
	}
	out := svc.entries[id].status()
	r.mu.RUnlock()
	r.addChecks(&out)
	return out, true
}

// status returns all of e but its checks.
func (e *entry) status() InstanceStatus {
	out := InstanceStatus{Instance: e.claims[0].item.inst, Source: e.claims[0].source.name, Conflict: e.conflict, Health: e.health,
		Reason: e.reason, Since: e.since, Waiting: e.slot < 0}
	out.Instance.Checks = e.checks
	for _, c := range e.claims[1:] {
		out.Also = append(out.Also, c.source.name)
	}
	return out
}

// addChecks asks the checker. It is done without the lock, so that a listing never holds up the catalog.
func (r *Registry) addChecks(s *InstanceStatus) {
	if r.cfg.Checker != nil && len(s.Instance.Checks) > 0 {
		s.Checks = r.cfg.Checker.Status(s.Instance.Service, s.Instance.ID)
	}
}

// Problems returns what is wrong across sources at the moment: contradictions, full services, mixed protocols. At most 100.
func (r *Registry) Problems() []*federation.Diagnostic {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*federation.Diagnostic
	for _, svc := range r.state.services {
		if svc.full {
			out = append(out, fullError(svc, r.cfg.MaxPerService))
		}
		if svc.mixed {
			out = append(out, protocolError(svc))
		}
		for _, e := range svc.entries {
			if e.conflict && len(out) < 100 {
				out = append(out, conflictError(e))
			}
		}
	}
	slices.SortFunc(out, func(a, b *federation.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.What, b.What))
	})
	return out[:min(len(out), 100)]
}
