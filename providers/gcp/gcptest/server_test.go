package gcptest

import (
	"encoding/json"
	"testing"
)

// TestMask: the double answers with the fields that were asked for, and no others.
func TestMask(t *testing.T) {
	const answer = `{"items":{"zones/a":{"instances":[{"name":"x","id":"1","tags":{"items":["t"],"fingerprint":"f"}}],` +
		`"warning":{"code":"c"}}},"kind":"k","next":"n"}`
	for mask, want := range map[string]string{
		"items/*/instances(name,tags/items),next":       `{"items":{"zones/a":{"instances":[{"name":"x","tags":{"items":["t"]}}]}},"next":"n"}`,
		"items/*/warning,kind":                          `{"items":{"zones/a":{"warning":{"code":"c"}}},"kind":"k"}`,
		"items/*/instances/tags(items),items/*/warning": `{"items":{"zones/a":{"instances":[{"tags":{"items":["t"]}}],"warning":{"code":"c"}}}}`,
		"items(zones/x)":                                `{"items":{}}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(answer), &v); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(parseMask(mask).apply(v))
		if err != nil || string(got) != want {
			t.Errorf("%s gives %s, %v; want %s", mask, got, err, want)
		}
	}
}
