package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
)

// resource is one of the two kinds of objects that are read.
type resource struct {
	group, name string
	meta        bool // only the metadata is asked for
	decode      func(raw []byte) (object, error)
}

// object is what is kept of an object of the API.
type object interface {
	put(inv *inventory)
	drop(inv *inventory)
}

var (
	endpointSlices = &resource{group: "discovery.k8s.io", name: "endpointslices", decode: decodeSlice}
	services       = &resource{name: "services", meta: true, decode: decodeService}
	resources      = []*resource{endpointSlices, services}
)

func (r *resource) path(namespace string) string {
	p := "/api/v1"
	if r.group != "" {
		p = "/apis/" + r.group + "/v1"
	}
	if namespace != "" {
		p += "/namespaces/" + namespace
	}
	return p + "/" + r.name
}

func (r *resource) accept(verb string) string {
	if !r.meta {
		return "application/json"
	}
	kind := "PartialObjectMetadata"
	if verb == "list" {
		kind += "List"
	}
	return "application/json;as=" + kind + ";g=meta.k8s.io;v=v1,application/json"
}

// permission names what a role must allow.
func (r *resource) permission(verb, namespace string) string {
	name := r.name
	if r.group != "" {
		name += "." + r.group
	}
	if namespace == "" {
		return name + " " + verb + " in all namespaces"
	}
	return name + " " + verb + " in namespace " + namespace
}

const (
	pageSize = 500    // as client-go's
	maxPages = 10_000 // of a list
)

// query returns what every request about r asks for.
func (v *visit) query(r *resource) url.Values {
	q := url.Values{}
	if r == endpointSlices {
		selector := serviceLabel // slices of no Service are of no use
		if v.cfg.Selector != "" {
			selector += "," + v.cfg.Selector
		}
		q.Set("labelSelector", selector)
	}
	return q
}

// list returns all objects of r, and the resource version to watch them from.
func (v *visit) list(ctx context.Context, r *resource) ([]object, string, error) {
	objects, version, err := v.pages(ctx, r)
	if errors.Is(err, errGone) { // the token for the next page; one compaction in five minutes does not meet two lists
		objects, version, err = v.pages(ctx, r)
	}
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", r.name, err)
	}
	return objects, version, nil
}

func (v *visit) pages(ctx context.Context, r *resource) ([]object, string, error) {
	var objects []object
	q := v.query(r)
	q.Set("limit", strconv.Itoa(pageSize))
	for range maxPages {
		meta, err := v.page(ctx, r, q, func(raw []byte) error {
			o, err := r.decode(raw)
			if err != nil {
				return err
			}
			if len(objects) == maxObjects {
				return errTooMany
			}
			objects = append(objects, o)
			return nil
		})
		if err != nil {
			return nil, "", err
		}
		if meta.Continue == "" {
			if meta.ResourceVersion == "" {
				return nil, "", errors.New("the list has no resource version")
			}
			return objects, meta.ResourceVersion, nil
		}
		if meta.Continue == q.Get("continue") {
			return nil, "", errors.New("a page names itself as the next one")
		}
		q.Set("continue", meta.Continue)
	}
	return nil, "", fmt.Errorf("the list has more than %d pages", maxPages)
}

// page reads one page.
func (v *visit) page(ctx context.Context, r *resource, q url.Values, each func(raw []byte) error) (listMeta, error) {
	if err := v.wait(ctx); err != nil {
		return listMeta{}, err
	}
	v.calls++
	inner, cancel := context.WithTimeoutCause(ctx, pageTime, errors.New("there was no answer in time"))
	defer cancel()
	body, err := v.client.ask(inner, r, v.namespace, "list", q)
	if err != nil {
		return listMeta{}, inTime(ctx, inner, err)
	}
	defer body.Close()
	meta, err := decodeList(&limited{Reader: body, left: maxPage}, each)
	return meta, inTime(ctx, inner, err)
}

// inTime returns err such that the end of ctx is told from that of inner, the time for one request.
func inTime(ctx, inner context.Context, err error) error {
	switch {
	case err == nil, ctx.Err() == nil && inner.Err() == nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return context.Cause(inner)
}

// listMeta is what a list says of itself.
type listMeta struct {
	ResourceVersion string `json:"resourceVersion"`
	Continue        string `json:"continue"`
}

// decodeList reads a list and calls each with every item, so that at most one is held besides what each keeps.
func decodeList(r io.Reader, each func(raw []byte) error) (meta listMeta, err error) {
	dec := json.NewDecoder(r)
	if err := expect(dec, '{'); err != nil {
		return meta, err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return meta, truncated(err)
		}
		switch key {
		case "metadata":
			err = dec.Decode(&meta)
		case "items":
			err = decodeItems(dec, each)
		default:
			var skipped json.RawMessage
			err = dec.Decode(&skipped)
		}
		if err != nil {
			return meta, truncated(err)
		}
	}
	return meta, expect(dec, '}')
}

func decodeItems(dec *json.Decoder, each func(raw []byte) error) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	if token == nil { // null: no items
		return nil
	}
	if token != json.Delim('[') {
		return errors.New("the items are no list")
	}
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if err := each(raw); err != nil {
			return err
		}
	}
	return expect(dec, ']')
}

func expect(dec *json.Decoder, want json.Delim) error {
	token, err := dec.Token()
	if err != nil {
		return truncated(err)
	}
	if token != want {
		return fmt.Errorf("read the answer: %v where %v should be", token, want)
	}
	return nil
}

// truncated says that an answer ended too early: an io.EOF would be taken for its end.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// limited is a reader that ends with an error after so many octets.
type limited struct {
	io.Reader
	left int
}

// Read implements io.Reader.
func (l *limited) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLarge
	}
	n, err := l.Reader.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}

var errTooLarge = errors.New("the answer is larger than is allowed")

// maxFrame bounds one event of a watch. etcd holds objects up to 1.5 MiB, and JSON is larger than what is stored.
const maxFrame = 8 << 20

// frame is one event of a watch.
type frame struct {
	Type   string          `json:"type"` // ADDED, MODIFIED, DELETED, BOOKMARK, ERROR
	Object json.RawMessage `json:"object"`
}

// frames reads the events of a watch.
type frames struct {
	limit *limited
	dec   *json.Decoder
}

func newFrames(r io.Reader) *frames {
	l := &limited{Reader: r}
	return &frames{l, json.NewDecoder(l)}
}

// next returns the next event, and io.EOF at the watch's own end.
func (f *frames) next() (out frame, err error) {
	f.limit.left = maxFrame
	if err = f.dec.Decode(&out); err != nil && !errors.Is(err, io.EOF) {
		return out, fmt.Errorf("read an event: %w", err)
	}
	return out, err
}

// serviceLabel is the label of a slice that names its Service.
const serviceLabel = "kubernetes.io/service-name"

// name is the part of an object's metadata without which nothing can be said of it.
type name struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
}

// key is an object's namespace and name.
type key struct{ namespace, name string }

func (k key) compare(o key) int {
	if k.namespace != o.namespace {
		return strings.Compare(k.namespace, o.namespace)
	}
	return strings.Compare(k.name, o.name)
}

func decodeKey(raw []byte) (key, error) {
	var n name
	if err := json.Unmarshal(raw, &n); err != nil {
		return key{}, fmt.Errorf("read an object's name: %w", err)
	}
	k := key{n.Metadata.Namespace, n.Metadata.Name}
	if k.namespace == "" || k.name == "" || len(k.namespace) > maxName || len(k.name) > maxName {
		return key{}, errors.New("an object has no name, no namespace, or too long a one")
	}
	return k, nil
}

const maxName = 253 // RFC 1123 subdomain, as Kubernetes allows

// version returns an object's resource version.
func version(raw []byte) string {
	var v struct {
		Metadata listMeta `json:"metadata"`
	}
	if json.Unmarshal(raw, &v) != nil {
		return ""
	}
	return v.Metadata.ResourceVersion
}

// apiSlice is what is read of an EndpointSlice
// (https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/).
type apiSlice struct {
	Metadata struct {
		Labels  map[string]string `json:"labels"`
		Version string            `json:"resourceVersion"`
	} `json:"metadata"`
	AddressType string        `json:"addressType"`
	Endpoints   []apiEndpoint `json:"endpoints"`
	Ports       []apiPort     `json:"ports"`
}

type apiEndpoint struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	Node   string `json:"nodeName"`
	Zone   string `json:"zone"`
	Target *struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"targetRef"`
	Hints *struct {
		Zones []struct {
			Name string `json:"name"`
		} `json:"forZones"`
	} `json:"hints"`
}

type apiPort struct {
	Name        string `json:"name"`
	Port        *int   `json:"port"`
	Protocol    string `json:"protocol"`
	AppProtocol string `json:"appProtocol"`
}

// apiService is what is read of a Service: its metadata.
type apiService struct {
	Metadata struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
}
