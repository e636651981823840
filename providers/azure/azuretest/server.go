package azuretest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/double"
)

// The actions of the requests that are answered, credentials and metadata included.
const (
	ActionGraph       = "Microsoft.ResourceGraph/resources/read"
	ActionInterfaces  = "Microsoft.Compute/virtualMachineScaleSets/networkInterfaces/read"
	ActionCredentials = "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action"
	ActionToken       = "token"
	ActionMetadata    = "metadata"
)

// Request is one that has come.
type Request struct {
	Action  string
	Query   string // of Resource Graph
	Page    int    // which page of a list, from 0
	Options object // of Resource Graph, as they came
}

// What goes wrong with a request.
type (
	Fault   = double.Fault
	Failure = double.Failure
)

// The faults, each in the form of the real API.
const (
	Throttle    Fault = "throttle"
	Deny        Fault = "deny"
	Expired     Fault = "expired" // the token has ended
	Hang        Fault = "hang"    // no answer
	Unavailable Fault = "unavailable"
	Garbage     Fault = "garbage"   // 200, and nobody can read it
	Loop              = double.Loop // the page points to itself
	Partial     Fault = "partial"   // the tenant has more subscriptions than are looked at
	Truncated   Fault = "truncated"
	Nothing     Fault = "nothing" // none of the subscriptions may be read
)

// Server answers for Azure. Its fields may be set before it serves, and through Change later.
type Server struct {
	double.Control[Request]
	// OutOfReach says that the metadata service does not answer.
	OutOfReach bool

	inv Inventory
}

// New returns a server of an inventory.
func New(inv Inventory) *Server { return &Server{inv: inv} }

// Environment returns the environment variables of a process that uses the server at url.
func Environment(url string) map[string]string {
	return map[string]string{
		"AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential", "IDENTITY_ENDPOINT": url + "/msi/token", "IDENTITY_HEADER": "secret",
		"AZURE_POD_IDENTITY_AUTHORITY_HOST": url,
	}
}

// Change changes the server or its inventory between two requests.
func (s *Server) Change(change func(s *Server, inv *Inventory)) {
	s.Lock()
	defer s.Unlock()
	change(s, &s.inv)
}

// Counts returns how many requests there were for each action, those for tokens left out: they are kept by the SDK as it likes.
func (s *Server) Counts() map[string]int {
	n := map[string]int{}
	for _, r := range s.Requests() {
		if r.Action != ActionToken {
			n[r.Action]++
		}
	}
	return n
}

var (
	interfacesForm = regexp.MustCompile(`(?i)^/subscriptions/([^/]+)/resourceGroups/([^/]+)` +
		`/providers/microsoft.compute/virtualMachineScaleSets/([^/]+)/networkInterfaces$`)
	credentialsForm = regexp.MustCompile(`(?i)^/subscriptions/([^/]+)/resourceGroups/([^/]+)` +
		`/providers/microsoft.containerservice/managedClusters/([^/]+)/listClusterUserCredential$`)
)

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	r := Request{}
	var asked struct {
		Query                           string
		Subscriptions, ManagementGroups []string
		Options                         object
	}
	switch path := h.URL.Path; {
	case path == "/msi/token":
		r.Action = ActionToken
	case strings.HasPrefix(path, "/metadata/"):
		r.Action = ActionMetadata
	case h.Method == http.MethodPost && path == "/providers/Microsoft.ResourceGraph/resources":
		r.Action = ActionGraph
		if err := json.NewDecoder(io.LimitReader(h.Body, 1<<20)).Decode(&asked); err != nil {
			fail(w, http.StatusBadRequest, "BadRequest", err.Error(), nil)
			return
		}
		r.Query, r.Options = asked.Query, asked.Options
		if token, ok := r.Options["$skipToken"].(string); ok {
			r.Page, _ = strconv.Atoi(strings.TrimPrefix(token, "page-"))
		}
	case h.Method == http.MethodGet && interfacesForm.MatchString(path):
		r.Action = ActionInterfaces
		r.Page, _ = strconv.Atoi(h.URL.Query().Get("page"))
	case h.Method == http.MethodPost && credentialsForm.MatchString(path):
		r.Action = ActionCredentials
	default:
		fail(w, http.StatusNotFound, "InvalidResourceType", "there is nothing at "+path, nil)
		return
	}
	failure := s.Meet(r)
	if failure == nil {
		failure = &Failure{}
	}
	if r.Action != ActionToken && r.Action != ActionMetadata && h.Header.Get("Authorization") != "Bearer "+token {
		failure = &Failure{Fault: Expired}
	}
	if failed(w, h, r, failure) {
		return
	}
	switch r.Action {
	case ActionToken:
		s.token(w, h)
	case ActionMetadata:
		s.metadata(w, h)
	case ActionGraph:
		s.graph(w, r, failure, asked.Subscriptions)
	case ActionInterfaces:
		s.interfaces(w, h, r)
	case ActionCredentials:
		s.credentials(w, h)
	}
}

// graph answers a query about subscriptions. Without any it is about a management group, which has all below it.
func (s *Server) graph(w http.ResponseWriter, r Request, failure *Failure, subscriptions []string) {
	s.Lock()
	defer s.Unlock()
	seen := func(list []object) []object {
		return slices.DeleteFunc(list, func(r object) bool {
			id, _ := r["subscriptionId"].(string)
			return slices.Contains(s.inv.Hidden, id) || len(subscriptions) > 0 && !slices.Contains(subscriptions, id)
		})
	}
	general, compute := s.inv.resources()
	t := tables{"resources": seen(general), "computeresources": seen(compute)}
	for _, id := range append([]string{Subscription}, subscriptions...) {
		t["resourcecontainers"] = append(t["resourcecontainers"], object{"type": "microsoft.resources/subscriptions", "subscriptionId": id})
	}
	t["resourcecontainers"] = seen(t["resourcecontainers"])
	rows, err := t.run(r.Query)
	if err != nil {
		fail(w, http.StatusBadRequest, "BadRequest", "Please provide below info when asking for support", &detail{"InvalidQuery", err.Error()})
		return
	}
	top, _ := r.Options["$top"].(float64)
	page, next := double.Page(&s.Control, r, failure, r.Page, int(top), rows)
	answer := object{"totalRecords": len(rows), "count": len(page), "data": append([]object{}, page...), "facets": []any{},
		"resultTruncated": "false"}
	switch {
	case next >= 0:
		answer["$skipToken"] = fmt.Sprint("page-", next)
	case failure.Fault == Truncated:
		answer["resultTruncated"] = "true"
	}
	if failure.Fault == Partial {
		w.Header().Set("x-ms-tenant-subscription-limit-hit", "true")
	}
	w.Header().Set("x-ms-user-quota-remaining", "14")
	w.Header().Set("x-ms-user-quota-resets-after", "00:00:05")
	reply(w, answer)
}

func (s *Server) interfaces(w http.ResponseWriter, h *http.Request, r Request) {
	s.Lock()
	defer s.Unlock()
	m := interfacesForm.FindStringSubmatch(h.URL.Path)
	for i := range s.inv.ScaleSets {
		set := &s.inv.ScaleSets[i]
		if !set.is(m) || !strings.EqualFold(set.Name, m[3]) {
			continue
		}
		var all []object
		for j := range set.Instances {
			n := set.nic(&set.Instances[j])
			all = append(all, object{"id": n["id"], "name": n["name"], "properties": n["properties"]})
		}
		page, next := double.Page(&s.Control, r, nil, r.Page, 1000, all)
		answer := object{"value": page}
		if next >= 0 {
			answer["nextLink"] = fmt.Sprintf("http://%s%s?api-version=2018-10-01&page=%d", h.Host, h.URL.Path, next)
		}
		reply(w, answer)
		return
	}
	fail(w, http.StatusNotFound, "ResourceNotFound", "The Resource was not found.", nil)
}

func (s *Server) credentials(w http.ResponseWriter, h *http.Request) {
	s.Lock()
	defer s.Unlock()
	m := credentialsForm.FindStringSubmatch(h.URL.Path)
	for i := range s.inv.Clusters {
		if c := &s.inv.Clusters[i]; c.is(m) && strings.EqualFold(c.Name, m[3]) && !c.Gone {
			reply(w, c.kubeconfig())
			return
		}
	}
	fail(w, http.StatusNotFound, "ResourceNotFound", "The Resource was not found.", nil)
}

// is reports whether a path's subscription and group are these.
func (w Where) is(path []string) bool {
	return strings.EqualFold(path[1], w.subscription()) && strings.EqualFold(path[2], w.group())
}

// token is the bearer token of everybody.
const token = "azuretest-token"

func (s *Server) token(w http.ResponseWriter, h *http.Request) {
	if h.Header.Get("X-IDENTITY-HEADER") == "" || h.URL.Query().Get("resource") == "" {
		http.Error(w, "not for you", http.StatusUnauthorized)
		return
	}
	reply(w, object{"access_token": token, "expires_on": strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10),
		"resource": h.URL.Query().Get("resource"), "token_type": "Bearer", "client_id": "00000000-0000-0000-0000-0000000000aa"})
}

func (s *Server) metadata(w http.ResponseWriter, h *http.Request) {
	s.Lock()
	inv, silent := s.inv, s.OutOfReach
	s.Unlock()
	if silent {
		<-h.Context().Done()
		return
	}
	if h.Header.Get("Metadata") != "true" || h.Header.Get("X-Forwarded-For") != "" || h.URL.Query().Get("api-version") == "" {
		w.WriteHeader(http.StatusBadRequest)
		reply(w, object{"error": "Bad request. Required metadata header not specified"})
		return
	}
	i := slices.IndexFunc(inv.Machines, func(m Machine) bool { return m.Name == inv.Self })
	if i < 0 || h.URL.Path != "/metadata/instance/compute" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	m := inv.Machines[i]
	reply(w, object{"azEnvironment": "AzurePublicCloud", "location": m.region(), "name": m.Name, "zone": m.Zone, "physicalZone": m.Physical,
		"resourceGroupName": m.group(), "resourceId": m.id("Microsoft.Compute/virtualMachines", m.Name), "subscriptionId": m.subscription(),
		"vmId": "00000000-0000-0000-0000-0000000000bb"})
}

type detail struct{ code, message string }

// fail answers with an error as the Resource Manager says it.
func fail(w http.ResponseWriter, status int, code, message string, d *detail) {
	body := object{"code": code, "message": message}
	if d != nil {
		body["details"] = []object{{"code": d.code, "message": d.message}}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(object{"error": body})
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(answer)
}

const support = "Please provide below info when asking for support: timestamp = 2026-11-22T12:00:00.0000000Z, " +
	"correlationId = 00000000-0000-0000-0000-000000000000."

// failed answers with a failure and returns true, or false when the answer is made as usual.
func failed(w http.ResponseWriter, h *http.Request, r Request, f *Failure) bool {
	switch f.Fault {
	case Throttle:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter/time.Second)))
			w.Header().Set("x-ms-user-quota-resets-after", time.Time{}.Add(f.RetryAfter).Format(time.TimeOnly))
		}
		w.Header().Set("x-ms-user-quota-remaining", "0")
		fail(w, http.StatusTooManyRequests, "RateLimiting", support, &detail{"RateLimiting",
			"Client application has been throttled and should not attempt to repeat the request until an amount of time has elapsed."})
	case Deny:
		fail(w, http.StatusForbidden, "AuthorizationFailed", fmt.Sprintf("The client '00000000-0000-0000-0000-0000000000aa' with object id "+
			"'00000000-0000-0000-0000-0000000000aa' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. "+
			"If access was recently granted, please refresh your credentials.", r.Action, h.URL.Path), nil)
	case Nothing:
		fail(w, http.StatusBadRequest, "BadRequest", support, &detail{"NoValidSubscriptionsInQueryRequest",
			"There must be at least one subscription that is eligible to contain resources."})
	case Expired:
		w.Header().Set("WWW-Authenticate", `Bearer authorization_uri="https://login.example.com/", error="invalid_token", `+
			`error_description="The access token has expired."`)
		fail(w, http.StatusUnauthorized, "ExpiredAuthenticationToken", "The access token expiry UTC time '11/22/2026 12:00:00 PM' is earlier "+
			"than current UTC time '11/22/2026 12:00:01 PM'.", nil)
	case Unavailable:
		fail(w, http.StatusInternalServerError, "InternalServerError", "Encountered internal server error.", nil)
	case Hang:
		<-h.Context().Done()
	case Garbage:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, "<html>{{this is no answer")
	default:
		return false
	}
	return true
}
