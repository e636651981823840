// Package googleapi checks the requests of providers/gcp, and the answers of its double, against the discovery documents that Google
// ships in its Go module. It is a module of its own because that module is 414 MB, none of which the product needs.
package googleapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// documents are the discovery documents, by the first word of a method.
var documents = map[string]string{
	"compute":          "compute/v1/compute-api.json",
	"run":              "run/v2/run-api.json",
	"servicedirectory": "servicedirectory/v1/servicedirectory-api.json",
	"container":        "container/v1/container-api.json",
}

// document is a discovery document (https://developers.google.com/discovery/v1/reference/apis).
type document struct {
	ServicePath string
	Schemas     map[string]*schema
	Resources   map[string]*resource
	Parameters  map[string]*schema
}

type resource struct {
	Methods   map[string]*method
	Resources map[string]*resource
}

type method struct {
	ID, HTTPMethod, FlatPath string
	Parameters               map[string]*schema
	Response                 schema
}

type schema struct {
	Ref                  string `json:"$ref"`
	Type, Format         string
	Enum                 []string
	Properties           map[string]*schema
	AdditionalProperties *schema
	Items                *schema
}

// exchange is a request and its answer.
type exchange struct {
	Method, HTTP, Path string
	Query              url.Values
	Answer             json.RawMessage
}

func TestExchanges(t *testing.T) {
	text, err := os.ReadFile("../../../providers/gcp/gcptest/testdata/exchanges.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []exchange
	if err := json.Unmarshal(text, &all); err != nil || len(all) == 0 {
		t.Fatalf("read exchanges: %d, %v", len(all), err)
	}
	root := moduleRoot(t)
	for _, e := range all {
		t.Run(e.Method, func(t *testing.T) {
			service, _, _ := strings.Cut(e.Method, ".")
			d := load(t, filepath.Join(root, documents[service]))
			m := d.method(e.Method)
			if m == nil {
				t.Fatal("the document has no such method")
			}
			d.checkRequest(t, m, &e)
			for _, problem := range d.check(&m.Response, answer(t, e.Answer), "answer") {
				t.Error(problem)
			}
		})
	}
}

// TestTheCheckFindsMistakes spoils an answer in each way that the check is there for.
func TestTheCheckFindsMistakes(t *testing.T) {
	d := load(t, filepath.Join(moduleRoot(t), documents["compute"]))
	for spoilt, want := range map[string]string{
		`{"items": {"zones/a": {"instances": [{"nmae": "x"}]}}}`:       "nmae",
		`{"items": {"zones/a": {"instances": [{"status": "READY"}]}}}`: "READY",
		`{"items": {"zones/a": {"instances": [{"id": 12}]}}}`:          "not a string",
		`{"items": {"zones/a": {"instances": [{"id": "x"}]}}}`:         "uint64",
		`{"items": []}`: "not an object",
		`{"items": {"zones/a": {"instances": {}}}}`: "not an array",
	} {
		problems := d.check(&schema{Ref: "InstanceAggregatedList"}, answer(t, []byte(spoilt)), "answer")
		if len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("%s: problems are %q, want one with %q", spoilt, problems, want)
		}
	}
	if problems := d.checkMask(&schema{Ref: "InstanceAggregatedList"}, "items/*/instances(name,nmae),nextPageToken"); len(problems) != 1 {
		t.Errorf("problems of a mask are %q, want one", problems)
	}
}

// moduleRoot returns the directory of Google's module. It is downloaded when it is not there.
func moduleRoot(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "google.golang.org/api")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("download the discovery documents: %v\n%s", err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	return module.Dir
}

func load(t *testing.T, path string) *document {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return &d
}

func answer(t *testing.T, text []byte) (v any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (d *document) method(id string) *method {
	var find func(map[string]*resource) *method
	find = func(all map[string]*resource) *method {
		for _, r := range all {
			for _, m := range r.Methods {
				if m.ID == id {
					return m
				}
			}
			if m := find(r.Resources); m != nil {
				return m
			}
		}
		return nil
	}
	return find(d.Resources)
}

var placeholder = regexp.MustCompile(`\\\{\+?[a-zA-Z]+\\\}`)

func (d *document) checkRequest(t *testing.T, m *method, e *exchange) {
	t.Helper()
	form := "^/" + placeholder.ReplaceAllString(regexp.QuoteMeta(d.ServicePath+m.FlatPath), "[^/]+") + "$"
	if !regexp.MustCompile(form).MatchString(e.Path) || e.HTTP != m.HTTPMethod {
		t.Errorf("the request is %s %s, the document has %s /%s%s", e.HTTP, e.Path, m.HTTPMethod, d.ServicePath, m.FlatPath)
	}
	for name, values := range e.Query {
		s := m.Parameters[name]
		if s == nil {
			s = d.Parameters[name]
		}
		if s == nil || len(values) != 1 {
			t.Errorf("parameter %s = %q is not in the document", name, values)
			continue
		}
		if _, err := strconv.Atoi(values[0]); s.Type == "integer" && err != nil {
			t.Errorf("parameter %s = %q is not an integer", name, values)
		}
	}
	for _, problem := range d.checkMask(&m.Response, e.Query.Get("fields")) {
		t.Error(problem)
	}
}

// checkMask returns which fields of a mask the schema does not have.
func (d *document) checkMask(s *schema, mask string) (problems []string) {
	for mask != "" && mask[0] != ')' {
		end := strings.IndexAny(mask+",", "/(,)")
		name, rest := mask[:end], mask[end:]
		below := d.field(s, name)
		if below == nil {
			problems = append(problems, fmt.Sprintf("there is no field %q in the mask's %q", name, mask))
			below = &schema{}
		}
		switch {
		case strings.HasPrefix(rest, "/"):
			size := until(rest[1:])
			problems = append(problems, d.checkMask(below, rest[1:1+size])...)
			rest = rest[1+size:]
		case strings.HasPrefix(rest, "("):
			size := within(rest)
			problems = append(problems, d.checkMask(below, rest[1:size-1])...)
			rest = rest[size:]
		}
		mask = strings.TrimPrefix(rest, ",")
	}
	return problems
}

// until returns the length of the first entry of a mask.
func until(mask string) int {
	depth := 0
	for i, c := range mask {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			return i
		}
	}
	return len(mask)
}

// within returns the length of the parenthesis that a mask begins with.
func within(mask string) int {
	depth := 0
	for i, c := range mask {
		if c == '(' {
			depth++
		} else if c == ')' {
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(mask)
}

// field returns the schema of a field of s, or of the items of s.
func (d *document) field(s *schema, name string) *schema {
	s = d.resolve(s)
	if s.Items != nil {
		s = d.resolve(s.Items)
	}
	if name == "*" {
		return s.AdditionalProperties
	}
	return s.Properties[name]
}

func (d *document) resolve(s *schema) *schema {
	if s.Ref != "" && d.Schemas[s.Ref] != nil {
		return d.Schemas[s.Ref]
	}
	return s
}

// check returns where v is not what the schema says.
func (d *document) check(s *schema, v any, at string) (problems []string) {
	s = d.resolve(s)
	wrong := func(format string, args ...any) []string {
		return append(problems, at+": "+fmt.Sprintf(format, args...))
	}
	switch s.Type {
	case "object":
		fields, ok := v.(map[string]any)
		if !ok {
			return wrong("%v is not an object", v)
		}
		for name, value := range fields {
			below := s.Properties[name]
			if below == nil {
				below = s.AdditionalProperties
			}
			if below == nil {
				problems = wrong("there is no field %q", name)
				continue
			}
			problems = append(problems, d.check(below, value, at+"."+name)...)
		}
	case "array":
		items, ok := v.([]any)
		if !ok {
			return wrong("%v is not an array", v)
		}
		for i, item := range items {
			problems = append(problems, d.check(s.Items, item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case "string":
		text, ok := v.(string)
		_, err := strconv.ParseUint(text, 10, 64)
		switch {
		case !ok:
			return wrong("%v is not a string", v)
		case s.Enum != nil && !slices.Contains(s.Enum, text):
			return wrong("%q is none of %q", text, s.Enum)
		case (s.Format == "int64" || s.Format == "uint64") && err != nil:
			return wrong("%q is not a %s", text, s.Format)
		}
	case "integer", "number":
		if n, ok := v.(json.Number); !ok || s.Type == "integer" && strings.ContainsAny(n.String(), ".eE") {
			return wrong("%v is not a %s", v, s.Type)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return wrong("%v is not a boolean", v)
		}
	}
	return problems
}
