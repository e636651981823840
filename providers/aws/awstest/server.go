package awstest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/double"
)

// Request is one that has come, credentials and metadata included.
type Request struct {
	// Service is as policies name it: "ec2", "ecs", "servicediscovery", "elasticloadbalancing", "autoscaling", "eks",
	// "sts"; "imds", "ecs-metadata".
	Service   string
	Operation string // "DescribeInstances"; the path for metadata
	Account   string
	Region    string
	Page      int // which page of a list, from 0

	form url.Values     // of the Query APIs
	body map[string]any // of the others
	next string         // the token of the next page, once the page was made
	max  int            // what the caller wants on a page
	fail *Failure
}

// Action is the permission that the request needs.
func (r *Request) Action() string { return r.Service + ":" + r.Operation }

// What goes wrong with a request.
type (
	Fault   = double.Fault
	Failure = double.Failure
)

// The faults, each in the form of the API that is asked.
const (
	Throttle    Fault = "throttle"
	Deny        Fault = "deny"
	Expired     Fault = "expired" // the credentials have ended
	Hang        Fault = "hang"    // no answer
	Unavailable Fault = "unavailable"
	Garbage     Fault = "garbage"   // 200, and nobody can read it
	Loop              = double.Loop // the page points to itself
	Failures    Fault = "failures"  // ECS: 200, and one of the things that were asked for could not be described
)

// Server answers for AWS. Its fields may be set before it serves, and through Change later.
type Server struct {
	double.Control[Request]
	// CredentialsLast is how long an assumed role lasts. Default 1 h.
	CredentialsLast time.Duration

	inv Inventory
}

// New returns a server of an inventory.
func New(inv Inventory) *Server { return &Server{inv: inv} }

// Environment returns the environment variables of a process that uses a server by its configured endpoint: credentials made for it
// alone, and nothing of those that the machine may have.
func Environment() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIA" + rand.Text()[:16], "AWS_SECRET_ACCESS_KEY": rand.Text(), "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	}
}

// Set replaces the inventory.
func (s *Server) Set(inv Inventory) { s.Change(func(_ *Server, i *Inventory) { *i = inv }) }

// Change changes the server or its inventory between two requests.
func (s *Server) Change(change func(s *Server, inv *Inventory)) {
	s.Lock()
	defer s.Unlock()
	change(s, &s.inv)
}

// Counts returns how many requests there were for each action.
func (s *Server) Counts() map[string]int {
	n := map[string]int{}
	for _, r := range s.Requests() {
		n[r.Action()]++
	}
	return n
}

// targets are the prefixes of X-Amz-Target.
var targets = map[string]string{"AmazonEC2ContainerServiceV20141113": "ecs", "Route53AutoNaming_v20170314": "servicediscovery"}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	if strings.HasPrefix(h.URL.Path, "/latest/") || strings.HasPrefix(h.URL.Path, "/v4/") {
		s.metadata(w, h)
		return
	}
	r, err := read(h)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.fail = s.Meet(*r)
	if r.fail != nil && s.failed(w, h, r) {
		return
	}
	s.Lock()
	answer, problem := s.answer(r)
	s.Unlock()
	if problem != nil {
		problem.write(w, r.Service)
		return
	}
	write(w, r, answer)
}

// read finds out what is asked, and by whom.
func read(h *http.Request) (*Request, error) {
	r := &Request{Account: Account}
	raw, err := io.ReadAll(io.LimitReader(h.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	key, scope, _ := strings.Cut(between(h.Header.Get("Authorization"), "Credential=", ","), "/")
	if parts := strings.Split(scope, "/"); len(parts) == 4 { // date, region, service, aws4_request
		r.Region, r.Service = parts[1], parts[2]
	} else {
		return nil, fmt.Errorf("the request is not signed")
	}
	if account, assumed := strings.CutPrefix(key, "ASIA"); assumed {
		r.Account = account
	}
	switch target := h.Header.Get("X-Amz-Target"); {
	case target != "":
		service, operation, _ := strings.Cut(target, ".")
		r.Service, r.Operation = targets[service], operation
		err = json.Unmarshal(raw, &r.body)
		r.page(text(r.body["nextToken"])+text(r.body["NextToken"]), number(r.body["maxResults"])+number(r.body["MaxResults"]))
	case r.Service == "eks":
		r.body = map[string]any{}
		r.Operation = "ListClusters"
		if name, one := strings.CutPrefix(h.URL.Path, "/clusters/"); one {
			r.Operation, r.body["name"] = "DescribeCluster", name
		}
		n, _ := strconv.Atoi(h.URL.Query().Get("maxResults"))
		r.page(h.URL.Query().Get("nextToken"), n)
	default:
		r.form, err = url.ParseQuery(string(raw))
		r.Operation = r.form.Get("Action")
		n, _ := strconv.Atoi(cmp.Or(r.form.Get("MaxResults"), r.form.Get("PageSize"), r.form.Get("MaxRecords")))
		r.page(cmp.Or(r.form.Get("NextToken"), r.form.Get("Marker")), n)
	}
	return r, err
}

func (r *Request) page(token string, most int) {
	r.max = most
	if n, ok := strings.CutPrefix(token, "page-"); ok {
		r.Page, _ = strconv.Atoi(n)
	}
}

// page returns the page of all that r asks for, and notes the token of the next one.
func page[T any](s *Server, r *Request, all []T) []T {
	all, next := double.Page(&s.Control, *r, r.fail, r.Page, min(cmp.Or(r.max, 1000), 1000), all)
	if next >= 0 {
		r.next = fmt.Sprintf("page-%d", next)
	}
	return all
}

// answer returns the answer to a request: a value for XML or JSON.
func (s *Server) answer(r *Request) (any, *problem) {
	switch r.Service {
	case "ec2":
		return s.ec2(r)
	case "ecs":
		return s.ecs(r)
	case "servicediscovery":
		return s.cloudMap(r)
	case "elasticloadbalancing":
		return s.elb(r)
	case "eks":
		return s.eks(r)
	case "autoscaling":
		return s.autoscaling(r)
	case "sts":
		return s.sts(r)
	}
	return nil, &problem{404, "UnknownService", "there is no service " + r.Service}
}

// problem is an error as an API says it.
type problem struct {
	status        int
	code, message string
}

func unknown(r *Request) *problem {
	return &problem{400, "InvalidAction", r.Action() + " is not known here"}
}

func invalid(format string, args ...any) *problem {
	return &problem{400, "InvalidParameterException", fmt.Sprintf(format, args...)}
}

func (p *problem) write(w http.ResponseWriter, service string) {
	switch service {
	case "ec2":
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		w.WriteHeader(p.status)
		fmt.Fprintf(w, "%s<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>%s</RequestID></Response>",
			xml.Header, escape(p.code), escape(p.message), requestID)
	case "elasticloadbalancing", "autoscaling", "sts":
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(p.status)
		fmt.Fprintf(w, "<ErrorResponse xmlns=\"%s\"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error>"+
			"<RequestId>%s</RequestId></ErrorResponse>", namespaces[service], escape(p.code), escape(p.message), requestID)
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("X-Amzn-ErrorType", p.code)
		w.WriteHeader(p.status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": p.code, "message": p.message})
	}
}

// requestID is that of every answer.
const requestID = "5c8a2d4e-0000-4000-8000-000000000001"

var namespaces = map[string]string{
	"ec2":                  "http://ec2.amazonaws.com/doc/2016-11-15/",
	"elasticloadbalancing": "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
	"autoscaling":          "http://autoscaling.amazonaws.com/doc/2011-01-01/",
	"sts":                  "https://sts.amazonaws.com/doc/2011-06-15/",
}

func write(w http.ResponseWriter, r *Request, answer any) {
	if namespaces[r.Service] == "" {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	name := xml.Name{Space: namespaces[r.Service], Local: r.Operation + "Response"}
	_, _ = io.WriteString(w, xml.Header)
	_ = xml.NewEncoder(w).EncodeElement(answer, xml.StartElement{Name: name})
}

// failed answers with the request's failure and returns true, or false when the answer is made as usual.
func (s *Server) failed(w http.ResponseWriter, h *http.Request, r *Request) bool {
	pick := func(ec2, other, json problem) *problem {
		switch {
		case r.Service == "ec2":
			return &ec2
		case namespaces[r.Service] != "":
			return &other
		}
		return &json
	}
	var p *problem
	switch r.fail.Fault {
	case Throttle:
		if r.fail.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(r.fail.RetryAfter/time.Second)))
		}
		p = pick(problem{503, "RequestLimitExceeded", "Request limit exceeded."}, problem{400, "Throttling", "Rate exceeded"},
			problem{400, "ThrottlingException", "Rate exceeded"})
		if r.Service == "servicediscovery" {
			p.code = "RequestLimitExceeded"
		} else if r.Service == "eks" {
			p.status = 429
		}
	case Deny:
		why := fmt.Sprintf("User: arn:aws:sts::%s:assumed-role/tradewind/tradewind is not authorized to perform: %s because no "+
			"identity-based policy allows the %[2]s action", r.Account, r.Action())
		p = pick(problem{403, "UnauthorizedOperation", "You are not authorized to perform this operation. " + why},
			problem{403, "AccessDenied", why}, problem{400, "AccessDeniedException", why})
		if r.Service == "eks" {
			p.status = 403
		}
	case Expired:
		p = pick(problem{400, "RequestExpired", "Request has expired."}, problem{403, "ExpiredToken", "The security token has expired"},
			problem{400, "ExpiredTokenException", "The security token included in the request is expired"})
	case Unavailable:
		p = pick(problem{500, "InternalError", "An internal error has occurred"}, problem{500, "InternalFailure", "internal failure"},
			problem{500, "ServerException", "Service Unavailable. Please try again later."})
	case Hang:
		<-h.Context().Done()
		return true
	case Garbage:
		_, _ = io.WriteString(w, "<html>{{this is no answer")
		return true
	default:
		return false
	}
	p.write(w, r.Service)
	return true
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

func text(v any) string { s, _ := v.(string); return s }

func number(v any) int { n, _ := v.(float64); return int(n) }

// strs returns a list of strings of a JSON request.
func strs(v any) (out []string) {
	list, _ := v.([]any)
	for _, e := range list {
		out = append(out, text(e))
	}
	return out
}
