package gcptest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/double"
)

// Server answers requests. Its exported fields are set before it is used, or in Change.
type Server struct {
	double.Control[Request]
	TokenLast time.Duration // how long a token is good; default one hour

	mux    *http.ServeMux
	inv    Inventory
	tokens int
	spent  int // tokens up to this one are good no more
}

// New returns a cloud that holds inv.
func New(inv Inventory) *Server {
	s := &Server{inv: inv, mux: http.NewServeMux()}
	s.routes()
	return s
}

// Request is what was asked.
type Request struct {
	Method  string // as the discovery document names it: "compute.instances.aggregatedList", "metadata", "token"
	Project string
	Path    string
	Query   url.Values
	Page    int // of a listing, from 0

	size int
	next string
	fail *Failure
	path func(string) string
}

// What goes wrong with a request.
type (
	Fault   = double.Fault
	Failure = double.Failure
)

// The faults.
const (
	Throttle    Fault = "throttle"
	Deny        Fault = "deny"
	Disabled    Fault = "disabled" // the API is not enabled in the project
	Scope       Fault = "scope"    // the token is not for this API
	Expired     Fault = "expired"
	Hang        Fault = "hang"
	Unavailable Fault = "unavailable"
	Garbage     Fault = "garbage"
	Partial     Fault = "partial"   // the answer says that it lacks a location
	Loop              = double.Loop // the next page is the same one
)

// Change changes the server between two requests.
func (s *Server) Change(change func(s *Server, inv *Inventory)) {
	s.Lock()
	defer s.Unlock()
	change(s, &s.inv)
}

// Counts returns how often each method was called since the start or the last Forget.
func (s *Server) Counts() map[string]int {
	n := map[string]int{}
	for _, r := range s.Requests() {
		n[r.Method]++
	}
	return n
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, h *http.Request) { s.mux.ServeHTTP(w, h) }

func (s *Server) routes() {
	for pattern, a := range map[string]api{
		"GET /compute/v1/projects/{project}/aggregated/instances":             {"compute.instances.aggregatedList", s.instances},
		"GET /compute/v1/projects/{project}/aggregated/instanceGroupManagers": {"compute.instanceGroupManagers.aggregatedList", s.groups},
		"POST /compute/v1/projects/{project}/zones/{zone}/instanceGroupManagers/{group}/listManagedInstances": {
			"compute.instanceGroupManagers.listManagedInstances", s.members},
		"POST /compute/v1/projects/{project}/regions/{region}/instanceGroupManagers/{group}/listManagedInstances": {
			"compute.regionInstanceGroupManagers.listManagedInstances", s.members},
		"GET /v2/projects/{project}/locations/{location}/services": {"run.projects.locations.services.list", s.services},
		"GET /v1/projects/{project}/locations/{location}/namespaces": {
			"servicedirectory.projects.locations.namespaces.list", s.namespaces},
		"GET /v1/projects/{project}/locations/{location}/namespaces/{namespace}/services": {
			"servicedirectory.projects.locations.namespaces.services.list", s.entries},
		"GET /v1/projects/{project}/locations/{location}/namespaces/{namespace}/services/{service}/endpoints": {
			"servicedirectory.projects.locations.namespaces.services.endpoints.list", s.endpoints},
		"GET /v1/projects/{project}/locations/{location}/clusters": {"container.projects.locations.clusters.list", s.clusters},
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, h *http.Request) { s.serve(w, h, a) })
	}
	s.mux.HandleFunc("POST /token", s.token)
	s.mux.HandleFunc("GET /computeMetadata/v1/", s.metadata)
}

// api is a method and what answers it.
type api struct {
	method string
	answer func(*Request) (object, *problem)
}

type object = map[string]any

func (s *Server) serve(w http.ResponseWriter, h *http.Request, a api) {
	r := Request{Method: a.method, Project: h.PathValue("project"), Path: h.URL.Path, Query: h.URL.Query(), path: h.PathValue}
	if n, ok := strings.CutPrefix(r.Query.Get("pageToken"), "page-"); ok {
		r.Page, _ = strconv.Atoi(n)
	}
	r.size, _ = strconv.Atoi(cmp.Or(r.Query.Get("maxResults"), r.Query.Get("pageSize"), "50"))
	s.Lock()
	known := s.knownToken(h.Header.Get("Authorization"))
	s.Unlock()
	r.fail = s.Meet(r)
	if !known {
		expired().write(w)
		return
	}
	if r.fail != nil && s.failed(w, h, &r) {
		return
	}
	s.Lock()
	answer, p := a.answer(&r)
	s.Unlock()
	if p != nil {
		p.write(w)
		return
	}
	if r.next != "" {
		answer["nextPageToken"] = r.next
	}
	write(w, http.StatusOK, answer, r.Query.Get("fields"))
}

// knownToken reports whether a header holds a token that was given out and is good.
func (s *Server) knownToken(header string) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(header, "Bearer ya29.gcptest-"))
	return err == nil && n > s.spent && n <= s.tokens
}

// Expire makes every token that was given out useless.
func (s *Server) Expire() {
	s.Lock()
	defer s.Unlock()
	s.spent = s.tokens
}

func write(w http.ResponseWriter, status int, answer any, fields string) {
	plain, err := json.Marshal(answer)
	if err == nil && fields != "" {
		var v any
		if err = json.Unmarshal(plain, &v); err == nil {
			plain, err = json.Marshal(parseMask(fields).apply(v))
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(plain)
}

// page returns the page of all that r asks for, and notes the token of the next one.
func page[T any](s *Server, r *Request, all []T) []T {
	all, next := double.Page(&s.Control, *r, r.fail, r.Page, r.size, all)
	if next >= 0 {
		r.next = fmt.Sprintf("page-%d", next)
	}
	return all
}

// missing returns the zone that the answer to r lacks, or "".
func (r *Request) missing() string {
	if r.fail == nil || r.fail.Fault != Partial {
		return ""
	}
	return cmp.Or(r.fail.Place, "us-east1-b")
}

// mask is a parsed fields parameter: what to keep, by name, nil below for all (https://google.aip.dev/157, and
// https://cloud.google.com/apis/docs/system-parameters for its older form).
type mask map[string]mask

func parseMask(text string) mask {
	m := mask{}
	for rest := text; rest != ""; {
		rest = m.parse(rest)
		rest = strings.TrimPrefix(rest, ",")
	}
	return m
}

// parse reads one path, "a/b(c,d)", and returns what follows it.
func (m mask) parse(text string) (rest string) {
	end := strings.IndexAny(text, "/(,)")
	if end < 0 {
		m[text] = nil
		return ""
	}
	name := text[:end]
	if text[end] == ',' || text[end] == ')' {
		m[name] = nil
		return text[end:]
	}
	if m[name] == nil {
		m[name] = mask{}
	}
	if text[end] == '/' {
		return m[name].parse(text[end+1:])
	}
	for rest = text[end+1:]; rest != "" && rest[0] != ')'; rest = strings.TrimPrefix(rest, ",") {
		rest = m[name].parse(rest)
	}
	return strings.TrimPrefix(rest, ")")
}

func (m mask) apply(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = m.apply(v[i])
		}
	case map[string]any:
		for k := range v {
			below, kept := m[k]
			if !kept {
				below, kept = m["*"]
			}
			if !kept {
				delete(v, k)
			} else if below != nil {
				v[k] = below.apply(v[k])
			}
		}
	}
	return v
}
