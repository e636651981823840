package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestAnyChangeSurvivesHCL holds that what "tradewind get -o hcl" writes is what it read, so that applying it changes nothing: whatever
// some fields of any resource are set to, if the resource is valid. It compares the JSON that is stored.
func TestAnyChangeSurvivesHCL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "any.hcl")
	var all []federation.Resource
	for _, text := range []string{shop, rest, web, public, tokens, choosy} {
		list, err := ParseResources(write(t, t.TempDir(), "all.hcl", text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	valid := 0
	rapid.Check(t, func(t *rapid.T) {
		r, err := keep(rapid.SampledFrom(all).Draw(t, "resource"))
		if err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(r.Spec)
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			var fields []reflect.Value
			settable(reflect.ValueOf(r.Spec).Elem(), &fields)
			change(t, fields[rapid.IntRange(0, len(fields)-1).Draw(t, "field")])
		}
		r, err = keep(r)
		want, _ := json.Marshal(r.Spec)
		if err != nil || string(want) == string(before) {
			return
		}
		valid++
		if err := os.WriteFile(path, FormatHCL([]federation.Resource{r}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := ParseResources(path)
		if err != nil {
			t.Fatalf("%s\ncannot be read from\n%s\n%v", want, FormatHCL([]federation.Resource{r}), err)
		}
		again, err := keep(out[0])
		if got, _ := json.Marshal(again.Spec); err != nil || string(got) != string(want) || again.Key != r.Key {
			t.Fatalf("%s\nbecame\n%s\nby\n%s", want, got, FormatHCL([]federation.Resource{r}))
		}
	})
	if valid == 0 {
		t.Error("no change left a resource valid")
	}
	t.Logf("%d valid", valid)
}

// keep returns r as the control plane keeps it: through JSON, with what Validate fills in.
func keep(r federation.Resource) (out federation.Resource, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, err
	}
	return out, out.Validate()
}

// settable gathers the fields below v that a change may set: words of the resource, and what they point to or hold.
func settable(v reflect.Value, fields *[]reflect.Value) {
	if v.CanSet() {
		*fields = append(*fields, v)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			settable(v.Elem(), fields)
		}
	case reflect.Slice:
		for i := range v.Len() {
			settable(v.Index(i), fields)
		}
	case reflect.Struct:
		if ours(v.Type()) {
			for _, f := range words(v.Type()) {
				settable(v.FieldByIndex(f.Index), fields)
			}
		}
	}
}

// hard are texts that HCL, a template or a list could take for their own.
var hard = []string{"", "a", "b-2", "*", "web", "web@*", "shop/web", "/x", "/x/", "/{id}", "a b", `"`, `\`, "${a}", "%{ if a }", "$${", "#", "//",
	"é\u2028", "\n", "a\tb", "{}", "null", "true", "1", "127.0.0.1:9002", "0.0.0.0:80", "[::1]:80", "unix:/run/a", "https://example.com/x",
	"local", "x-y", "GET", "http", "grpc", "a.example.com"}

func change(t *rapid.T, v reflect.Value) {
	if rapid.IntRange(0, 3).Draw(t, "unset") == 0 {
		v.SetZero()
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(rapid.OneOf(rapid.SampledFrom(hard), rapid.StringMatching(`[ -~]{1,8}`)).Draw(t, "text"))
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		n := rapid.SampledFrom([]int64{1, 2, 10, 100, 404, 503, 65535, 1 << 20, 1 << 53, int64(time.Millisecond), 1500 * int64(time.Millisecond),
			int64(time.Second), int64(time.Hour)}).Draw(t, "number")
		v.SetInt(n)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(rapid.SampledFrom([]uint64{1, 2, 100, 1000, 65535}).Draw(t, "number") & (1<<v.Type().Bits() - 1))
	case reflect.Float64:
		v.SetFloat(rapid.SampledFrom([]float64{0.1, 1, 0.333333333333, 99.9, 1e-7, 100}).Draw(t, "number"))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		switch n := v.Len(); {
		case n > 1 && rapid.Bool().Draw(t, "less"):
			v.Set(v.Slice(1, n))
		case rapid.Bool().Draw(t, "none"):
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		default:
			v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, n+1), reflect.Zero(v.Type().Elem())))
		}
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String && v.Type().Elem().Kind() == reflect.String {
			m := reflect.MakeMap(v.Type())
			for range rapid.IntRange(0, 2).Draw(t, "entries") {
				m.SetMapIndex(reflect.ValueOf(rapid.SampledFrom(hard).Draw(t, "key")).Convert(v.Type().Key()),
					reflect.ValueOf(rapid.SampledFrom(hard).Draw(t, "value")).Convert(v.Type().Elem()))
			}
			v.Set(m)
		}
	default: // a struct: its fields are changed
	}
}
