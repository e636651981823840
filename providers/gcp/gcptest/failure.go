package gcptest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// problem is an error as the APIs say it.
type problem struct {
	code            int
	status, message string
	reason          string // of the older form
	details         []object
	header          http.Header
}

func (p *problem) write(w http.ResponseWriter) {
	body := object{"code": p.code, "message": p.message}
	if p.status != "" {
		body["status"] = p.status
	}
	if p.reason != "" {
		domain := "global"
		if strings.Contains(p.reason, "imit") {
			domain = "usageLimits"
		}
		body["errors"] = []object{{"message": p.message, "domain": domain, "reason": p.reason}}
	}
	if p.details != nil {
		body["details"] = p.details
	}
	for k, v := range p.header {
		w.Header()[k] = v
	}
	write(w, p.code, object{"error": body}, "")
}

func notFound(r *Request) *problem {
	return &problem{code: 404, status: "NOT_FOUND", message: fmt.Sprintf("The resource '%s' was not found", r.Path), reason: "notFound"}
}

func invalid(what string) *problem {
	return &problem{code: 400, status: "INVALID_ARGUMENT", message: what, reason: "invalid"}
}

func expired() *problem {
	return &problem{code: 401, status: "UNAUTHENTICATED", reason: "authError",
		header: http.Header{"Www-Authenticate": {`Bearer realm="https://accounts.google.com/", error="invalid_token"`}},
		message: "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid " +
			"authentication credential."}
}

// permissions are what the methods need.
var permissions = map[string]string{
	"compute.instances.aggregatedList":                                       "compute.instances.list",
	"compute.instanceGroupManagers.aggregatedList":                           "compute.instanceGroupManagers.list",
	"compute.instanceGroupManagers.listManagedInstances":                     "compute.instanceGroupManagers.get",
	"compute.regionInstanceGroupManagers.listManagedInstances":               "compute.instanceGroupManagers.get",
	"run.projects.locations.services.list":                                   "run.services.list",
	"servicedirectory.projects.locations.namespaces.list":                    "servicedirectory.namespaces.list",
	"servicedirectory.projects.locations.namespaces.services.list":           "servicedirectory.services.list",
	"servicedirectory.projects.locations.namespaces.services.endpoints.list": "servicedirectory.endpoints.list",
	"container.projects.locations.clusters.list":                             "container.clusters.list",
}

// info is a google.rpc.ErrorInfo.
func info(reason, domain string, metadata object) object {
	return object{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}
}

// problemOf returns what the API says of a fault. Compute Engine speaks the older form; the others google.rpc.Status.
func problemOf(r *Request) *problem {
	compute := strings.HasPrefix(r.Method, "compute.")
	service, _, _ := strings.Cut(r.Method, ".")
	switch r.fail.Fault {
	case Throttle:
		wait := int(r.fail.RetryAfter / time.Second)
		if compute {
			p := &problem{code: 403, reason: "rateLimitExceeded", message: "Quota exceeded for quota metric 'List requests' and limit " +
				"'List requests per minute' of service 'compute.googleapis.com' for consumer 'project_number:123456789012'.", header: http.Header{}}
			if wait > 0 {
				p.header.Set("Retry-After", strconv.Itoa(wait))
			}
			return p
		}
		return &problem{code: 429, status: "RESOURCE_EXHAUSTED", message: "Quota exceeded.", details: []object{
			info("RATE_LIMIT_EXCEEDED", "googleapis.com", object{"service": service + ".googleapis.com"}),
			{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": fmt.Sprintf("%ds", wait)}}}
	case Deny:
		permission := permissions[r.Method]
		if compute {
			return &problem{code: 403, reason: "forbidden",
				message: fmt.Sprintf("Required '%s' permission for 'projects/%s'", permission, r.Project)}
		}
		return &problem{code: 403, status: "PERMISSION_DENIED",
			message: fmt.Sprintf("Permission '%s' denied on resource '%s' (or it may not exist).", permission, r.Path),
			details: []object{info("IAM_PERMISSION_DENIED", service+".googleapis.com", object{"permission": permission})}}
	case Disabled:
		return &problem{code: 403, status: "PERMISSION_DENIED", reason: "accessNotConfigured",
			message: service + " API has not been used in project 123456789012 before or it is disabled.",
			details: []object{info("SERVICE_DISABLED", "googleapis.com", object{"service": service + ".googleapis.com"})}}
	case Scope:
		return &problem{code: 403, status: "PERMISSION_DENIED", reason: "insufficientPermissions",
			message: "Request had insufficient authentication scopes.",
			details: []object{info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", object{"method": r.Method})}}
	case Expired:
		return expired()
	case Unavailable:
		return &problem{code: 500, status: "INTERNAL", reason: "backendError", message: "Internal error. Please try again."}
	}
	return nil
}

// failed answers with the request's failure and returns true, or false when the answer is made as usual.
func (s *Server) failed(w http.ResponseWriter, h *http.Request, r *Request) bool {
	switch r.fail.Fault {
	case Hang:
		<-h.Context().Done()
	case Garbage:
		_, _ = io.WriteString(w, "<html>{{this is no answer")
	default:
		p := problemOf(r)
		if p == nil {
			return false
		}
		p.write(w)
	}
	return true
}
