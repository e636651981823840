package controlplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The codes of this room; their texts are in federation/codes_config.go.
const (
	CodeInvalid   federation.Code = "TW-1201" // a resource breaks a rule
	CodeOwner     federation.Code = "TW-1202" // another owner's resource
	CodeVersion   federation.Code = "TW-1203" // it has changed since it was read
	CodeNotFound  federation.Code = "TW-1204" // there is no such resource
	CodeTwice     federation.Code = "TW-1205" // a change names one resource twice
	CodeLimit     federation.Code = "TW-1206" // too many, or too large
	CodeListen    federation.Code = "TW-1207" // two listeners have one address
	CodeBusy      federation.Code = "TW-1208" // other writers were faster, twice
	CodeDamaged   federation.Code = "TW-1209" // what is stored cannot be read
	CodeNoOwner   federation.Code = "TW-1210" // a change does not say who asks
	CodeStore     federation.Code = "TW-1211" // the store failed
	WarnService   federation.Code = "TW-1221" // a service is named that nobody has seen
	WarnRegion    federation.Code = "TW-1222" // a region is named that is not known
	WarnDuplicate federation.Code = "TW-1223" // two intentions say something about the same call
	WarnProtocol  federation.Code = "TW-1224" // something is said about requests that nobody looks into
	WarnSubset    federation.Code = "TW-1225" // a subset is named that no resolver defines
	WarnTokens    federation.Code = "TW-1226" // claims of tokens are asked for that no jwt resource vouches for
)

// planner works out one plan.
type planner struct {
	set     *resources
	change  Change
	records map[federation.Key]*record // what the change puts
	listed  map[federation.Key]string  // what the change names, and where
	steps   []Step
	errs    []error
}

// plan works out what change does to set. It returns the records to write. On an error it has looked at all of change, so
// that everything that is wrong is said at once.
func (p *Plane) plan(set *resources, change Change) (Plan, map[federation.Key]*record, error) {
	w := &planner{set: set, change: change, records: map[federation.Key]*record{}, listed: map[federation.Key]string{}}
	if err := checkOwner(change.Owner); err != nil {
		return Plan{}, nil, err
	}
	if n := len(change.Put) + len(change.Delete); n > 2*MaxResources {
		return Plan{}, nil, &federation.Diagnostic{Code: CodeLimit, What: fmt.Sprintf("the change names %d resources", n),
			Why: fmt.Sprintf("a region holds at most %d", MaxResources)}
	}
	for _, r := range change.Put {
		w.put(r)
	}
	for _, key := range change.Delete {
		w.delete(canonical(key))
	}
	if change.Prune {
		w.prune()
	}
	slices.SortFunc(w.steps, func(a, b Step) int { return a.Key.Compare(b.Key) })
	plan := Plan{Steps: w.steps}
	// Rules that span resources are looked at only in a change whose parts are right: otherwise they would speak of ghosts.
	if len(w.errs) == 0 {
		after := set.next(set.guard, plan, w.records)
		w.checkLimits(plan, after)
		w.checkListeners(after)
		plan.Warnings = p.warnings(after, change)
	}
	if err := errors.Join(w.errs...); err != nil {
		return Plan{}, nil, err
	}
	return plan, w.records, nil
}

func checkOwner(owner string) error {
	if owner != "" && len(owner) <= maxOwner {
		return nil
	}
	return &federation.Diagnostic{Code: CodeNoOwner, What: "the change does not say who makes it",
		Why: fmt.Sprintf("every resource has an owner, a name of 1-%d octets", maxOwner), Fix: "set the owner, such as \"cli\" or \"terraform\""}
}

// list notes that the change names key, and reports whether it is the first time.
func (w *planner) list(key federation.Key, where string) bool {
	first, twice := w.listed[key]
	if twice {
		d := &federation.Diagnostic{Code: CodeTwice, What: at(key, where) + " is named twice in one change", Fix: "keep one of the two"}
		if first != "" {
			d.Why = "the first is at " + first
		}
		w.errs = append(w.errs, d)
		return false
	}
	w.listed[key] = where
	return true
}

func (w *planner) put(r federation.Resource) {
	r.Owner = w.change.Owner
	rec, err := newRecord(r)
	if err != nil {
		for _, rule := range leaves(err) {
			d := &federation.Diagnostic{Code: CodeInvalid, What: at(r.Key, r.Source) + " is not valid", Why: rule.Error(), Err: rule}
			if cause := (*federation.Diagnostic)(nil); errors.As(rule, &cause) {
				d.Code, d.Why, d.Fix = cause.Code, cause.Reason(), cause.Fix
			}
			w.errs = append(w.errs, d)
		}
		return
	}
	key := rec.resource.Key
	if !w.list(key, r.Source) {
		return
	}
	if len(rec.value) > MaxResource {
		w.errs = append(w.errs, &federation.Diagnostic{Code: CodeLimit, What: fmt.Sprintf("%s has %d octets", at(key, r.Source), len(rec.value)),
			Why: fmt.Sprintf("a resource is at most %d octets", MaxResource), Fix: "split it, or let a source find the instances"})
		return
	}
	current := w.set.records[key]
	if err := w.mayWrite(key, current, r); err != nil {
		w.errs = append(w.errs, err)
		return
	}
	w.records[key] = rec
	step := Step{Action: ActionCreate, Key: key, After: new(rec.copy())}
	switch {
	case current == nil:
	case current.damage != nil:
		step.Action = ActionUpdate
	case string(current.spec) == string(rec.spec) && current.resource.Owner == r.Owner:
		step.Action, step.Before, step.After = ActionNone, new(current.copy()), new(current.copy())
	default:
		step.Action, step.Before = ActionUpdate, new(current.copy())
	}
	w.steps = append(w.steps, step)
}

func (w *planner) delete(key federation.Key) {
	if !w.list(key, "") {
		return
	}
	current := w.set.records[key]
	if current == nil {
		w.errs = append(w.errs, notFound(key, ""))
		return
	}
	if err := w.mayWrite(key, current, federation.Resource{}); err != nil {
		w.errs = append(w.errs, err)
		return
	}
	w.remove(current)
}

func (w *planner) remove(current *record) {
	step := Step{Action: ActionDelete, Key: current.resource.Key}
	if current.damage == nil {
		step.Before = new(current.copy())
	}
	w.steps = append(w.steps, step)
}

// prune deletes what the owner has and the change does not name. What cannot be read is not pruned: a newer version may have
// written it, and nobody looked at it to decide.
func (w *planner) prune() {
	for _, key := range w.set.keys {
		current := w.set.records[key]
		if _, listed := w.listed[key]; !listed && current.resource.Owner == w.change.Owner && current.damage == nil {
			w.remove(current)
		}
	}
}

// mayWrite applies the rules of ownership and of versions to a write of wanted over current, which may be nil.
func (w *planner) mayWrite(key federation.Key, current *record, wanted federation.Resource) error {
	var owner string
	var version uint64
	if current != nil {
		owner, version = current.resource.Owner, current.resource.Version
	}
	// A damaged record that does not even say its owner belongs to whoever repairs it.
	if current != nil && owner != w.change.Owner && owner != "" && !w.change.Force {
		return &federation.Diagnostic{Code: CodeOwner, What: fmt.Sprintf("%s belongs to %q", at(key, wanted.Source), owner),
			Why: fmt.Sprintf("%q may not change or delete what another owner has written", w.change.Owner),
			Fix: fmt.Sprintf("change it where %q keeps it, or take it over with --force", owner)}
	}
	if wanted.Version == 0 || wanted.Version == version {
		return nil
	}
	why := fmt.Sprintf("version %d was expected, it is at version %d", wanted.Version, version)
	if current == nil {
		why = fmt.Sprintf("version %d was expected, but it has been deleted", wanted.Version)
	}
	return &federation.Diagnostic{Code: CodeVersion, What: at(key, wanted.Source) + " has changed since it was read", Why: why,
		Fix: "read it again, redo the change, and write it with the new version"}
}

func (w *planner) checkLimits(plan Plan, after *resources) {
	if n, before := len(after.records), len(w.set.records); n > MaxResources && n > before {
		w.errs = append(w.errs, &federation.Diagnostic{Code: CodeLimit, What: fmt.Sprintf("the region would have %d resources", n),
			Why: fmt.Sprintf("it holds at most %d", MaxResources), Fix: "delete what is no longer needed, or let a source find the services"})
	}
	if n := len(plan.Steps) - plan.Count(ActionNone); n > MaxWrites {
		w.errs = append(w.errs, &federation.Diagnostic{Code: CodeLimit, What: fmt.Sprintf("the change writes %d resources at once", n),
			Why: fmt.Sprintf("a change happens as a whole, and the store commits at most %d at once", MaxWrites), Fix: "apply it in parts"})
	}
}

// notFound is the diagnosis of a key that names nothing.
func notFound(key federation.Key, where string) error {
	return &federation.Diagnostic{Code: CodeNotFound, What: fmt.Sprintf("there is no %s", at(key, where)),
		Fix: "see what there is: tradewind get"}
}

// at names a resource, and the place in a file that it comes from when there is one.
func at(key federation.Key, source string) string {
	if source == "" {
		return key.String()
	}
	return source + ": " + key.String()
}

// leaves returns the errors that were joined into err.
func leaves(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	return []error{err}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
