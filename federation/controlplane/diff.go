package controlplane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
)

// FieldChange is one field that a step changes. Values are JSON; "" means that the field is not set.
type FieldChange struct {
	Path   string `json:"path"` // such as "action", "to" or "instances[0].weight"
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Diff returns the fields of the spec that s changes, and the owner when it is another one, in order of path: all fields of
// a resource that is created or deleted, none for one that stays. A list of plain values counts as one field.
func (s Step) Diff() []FieldChange {
	var changes []FieldChange
	if s.Before != nil && s.After != nil && s.Before.Owner != s.After.Owner {
		changes = append(changes, FieldChange{Path: "owner", Before: text(s.Before.Owner), After: text(s.After.Owner)})
	}
	diff("", fields(s.Before), fields(s.After), &changes)
	return changes
}

// fields returns the JSON form of a resource's spec as Go values, or nil when there is none.
func fields(r *federation.Resource) any {
	if r == nil || r.Spec == nil {
		return nil
	}
	b, err := json.Marshal(r.Spec)
	if err != nil {
		return nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil
	}
	return v
}

// diff appends the leaves in which before and after differ. nil is "not set".
func diff(path string, before, after any, changes *[]FieldChange) {
	if text(before) == text(after) {
		return
	}
	beforeMap, beforeIsMap := before.(map[string]any)
	afterMap, afterIsMap := after.(map[string]any)
	if (beforeIsMap || before == nil) && (afterIsMap || after == nil) {
		for _, key := range unionKeys(beforeMap, afterMap) {
			diff(join(path, key), beforeMap[key], afterMap[key], changes)
		}
		return
	}
	beforeList, afterList := blocks(before), blocks(after)
	if (beforeList != nil || before == nil) && (afterList != nil || after == nil) {
		for i := range max(len(beforeList), len(afterList)) {
			diff(fmt.Sprintf("%s[%d]", path, i), item(beforeList, i), item(afterList, i), changes)
		}
		return
	}
	*changes = append(*changes, FieldChange{Path: path, Before: text(before), After: text(after)})
}

func unionKeys(a, b map[string]any) []string {
	keys := sortedKeys(a)
	for key := range b {
		if _, both := a[key]; !both {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// blocks returns v when it is a list of objects, otherwise nil.
func blocks(v any) []any {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil
	}
	for _, item := range list {
		if _, ok := item.(map[string]any); !ok {
			return nil
		}
	}
	return list
}

func item(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// text returns v as JSON, without the escapes that only HTML needs; "" for nil.
func text(v any) string {
	if v == nil {
		return ""
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b.Bytes()))
}
