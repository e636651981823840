package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// changes counts the steps that change something.
func changes(p *admin.Plan) int {
	n := 0
	for _, s := range p.Steps {
		if s.Action != admin.ActionNone {
			n++
		}
	}
	return n
}

// The tenses of a plan. What was shown before it was done needs no second list of fields.
const (
	wouldBe = "would be"
	willBe  = "will be"
	was     = "was"
	asShown = "was, as shown,"
)

// showPlan shows what would be, will be or was done.
func (c *cli) showPlan(p *admin.Plan, tense string) error {
	var names []string
	for _, s := range p.Steps {
		names = append(names, string(s.Action)+" "+string(s.Key.Kind)+"/"+s.Key.Name)
	}
	return c.emit(answer{value: p, items: listOf(p.Steps), names: names, table: func(s *screen) { planScreen(s, p, tense) }})
}

// signs are the signs of the actions, as Terraform writes them.
var signs = map[admin.Action]struct {
	sign, done string
	style      style
}{
	admin.ActionCreate: {"+", "created", good},
	admin.ActionUpdate: {"~", "updated", warn},
	admin.ActionDelete: {"-", "deleted", bad},
}

func planScreen(s *screen, p *admin.Plan, tense string) {
	counts := map[admin.Action]int{}
	for _, step := range p.Steps {
		counts[step.Action]++
		a, changes := signs[step.Action]
		if !changes {
			continue
		}
		from := ""
		if step.After != nil && step.After.Source != "" {
			from = "   # " + step.After.Source
		}
		if tense == asShown {
			s.line("%s %v was %s", s.paint(a.style, a.sign), step.Key, a.done)
			continue
		}
		s.line("%s %v %s %s%s", s.paint(a.style, a.sign), step.Key, tense, a.done, s.paint(faint, from))
		for _, d := range specDiff(step.Before, step.After) {
			s.line("    %s %s", s.paint(signs[d.action].style, signs[d.action].sign), d.text)
		}
	}
	for _, w := range p.Warnings {
		s.problem(w)
	}
	if changes(p) == 0 {
		s.line("No changes: %s as wanted.", map[bool]string{true: "1 resource is", false: fmt.Sprintf("%d resources are",
			len(p.Steps))}[len(p.Steps) == 1])
		return
	}
	form := "Plan: %d to create, %d to update, %d to delete, %d unchanged."
	if tense == was || tense == asShown {
		form = "Done: %d created, %d updated, %d deleted, %d unchanged."
	}
	s.line(form, counts[admin.ActionCreate], counts[admin.ActionUpdate], counts[admin.ActionDelete], counts[admin.ActionNone])
}

// fieldDiff is one field that differs.
type fieldDiff struct {
	action admin.Action
	text   string
}

// specDiff compares two resources field by field; nil is one that does not exist.
func specDiff(before, after *federation.Resource) []fieldDiff {
	was, is := flatten(before), flatten(after)
	names := map[string]bool{}
	for _, m := range []map[string]string{was, is} {
		for name := range m {
			names[name] = true
		}
	}
	var diffs []fieldDiff
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, had := was[name]
		now, has := is[name]
		switch {
		case !had:
			diffs = append(diffs, fieldDiff{admin.ActionCreate, name + " = " + now})
		case !has:
			diffs = append(diffs, fieldDiff{admin.ActionDelete, name + " = " + old})
		case old != now:
			diffs = append(diffs, fieldDiff{admin.ActionUpdate, name + " = " + old + " -> " + now})
		}
	}
	return diffs
}

// flatten returns the fields of a resource as JSON values under dotted names: "owner", "checks[0].kind".
func flatten(r *federation.Resource) map[string]string {
	fields := map[string]string{}
	if r == nil {
		return fields
	}
	if r.Owner != "" {
		fields["owner"] = quote(r.Owner)
	}
	b, err := json.Marshal(r.Spec)
	var tree any
	if err == nil {
		err = json.Unmarshal(b, &tree)
	}
	if err != nil { // a spec that came through JSON goes back into it
		return map[string]string{"spec": err.Error()}
	}
	flattenInto(fields, "", tree)
	return fields
}

func flattenInto(fields map[string]string, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			flattenInto(fields, strings.TrimPrefix(at+"."+name, "."), value)
		}
	case []any:
		simple := !slices.ContainsFunc(v, func(e any) bool { _, deep := e.(map[string]any); return deep })
		if simple {
			fields[at] = quote(v)
			return
		}
		for i, value := range v {
			flattenInto(fields, fmt.Sprintf("%s[%d]", at, i), value)
		}
	default:
		fields[at] = quote(v)
	}
}

func quote(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}
