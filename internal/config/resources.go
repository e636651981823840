package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/tradewind-mesh/tradewind/federation"
)

// maxResourceFile bounds one resource file; far above any that a person writes.
const maxResourceFile = 8 << 20

// resourceFile is a file of resources as HCL reads it.
type resourceFile struct {
	Services   []serviceBlock   `hcl:"service,block"`
	Exports    []exportBlock    `hcl:"export,block"`
	Intentions []intentionBlock `hcl:"intention,block"`
	Resolvers  []resolverBlock  `hcl:"resolver,block"`
	Routes     []routeBlock     `hcl:"route,block"`
	Upstreams  []upstreamBlock  `hcl:"upstream,block"`
	Ingresses  []ingressBlock   `hcl:"ingress,block"`
	JWT        []jwtBlock       `hcl:"jwt,block"`
	Drains     []drainBlock     `hcl:"drain,block"`
}

type serviceBlock struct {
	Name      string          `hcl:"name,label"`
	At        hcl.Range       `hcl:",def_range"`
	Protocol  string          `hcl:"protocol,optional"`
	Instances []instanceBlock `hcl:"instance,block"`
	Checks    []checkBlock    `hcl:"check,block"`
}

type instanceBlock struct {
	ID      string            `hcl:"id,label"`
	At      hcl.Range         `hcl:",def_range"`
	Address string            `hcl:"address"`
	Zone    string            `hcl:"zone,optional"`
	Weight  uint16            `hcl:"weight,optional"`
	Labels  map[string]string `hcl:"labels,optional"`
}

type checkBlock struct {
	Kind           string    `hcl:"kind,label"`
	At             hcl.Range `hcl:",def_range"`
	Path           string    `hcl:"path,optional"`
	Host           string    `hcl:"host,optional"`
	GRPCService    string    `hcl:"grpc_service,optional"`
	Port           uint16    `hcl:"port,optional"`
	TLS            bool      `hcl:"tls,optional"`
	TLSServerName  string    `hcl:"tls_server_name,optional"`
	TLSCAFile      string    `hcl:"tls_ca_file,optional"`
	TLSSkipVerify  bool      `hcl:"tls_skip_verify,optional"`
	Method         string    `hcl:"method,optional"`
	Body           string    `hcl:"body,optional"`
	Status         []int     `hcl:"status,optional"`
	Interval       string    `hcl:"interval,optional"`
	Timeout        string    `hcl:"timeout,optional"`
	TTL            string    `hcl:"ttl,optional"`
	HealthyAfter   int       `hcl:"healthy_after,optional"`
	UnhealthyAfter int       `hcl:"unhealthy_after,optional"`

	Headers map[string]string `hcl:"headers,optional"`
}

type exportBlock struct {
	Name   string    `hcl:"name,label"`
	At     hcl.Range `hcl:",def_range"`
	To     []string  `hcl:"to"`
	Detail string    `hcl:"detail,optional"`
}

type intentionBlock struct {
	Name        string            `hcl:"name,label"`
	At          hcl.Range         `hcl:",def_range"`
	Source      string            `hcl:"source"`
	Destination string            `hcl:"destination"`
	Action      string            `hcl:"action"`
	Require     string            `hcl:"require,optional"`
	Description string            `hcl:"description,optional"`
	HTTP        []permissionBlock `hcl:"http,block"`
	Mode        string            `hcl:"mode,optional"`
}

type upstreamBlock struct {
	Name    string    `hcl:"name,label"`
	At      hcl.Range `hcl:",def_range"`
	Service string    `hcl:"service"`
	Listen  string    `hcl:"listen"`
	Caller  string    `hcl:"caller"`

	AllowFrom []string `hcl:"allow_from,optional"`
}

// ErrNoFiles is why a directory cannot be read that has no resource file. It is not taken to declare nothing: pruning by an
// empty directory, which a mount that failed looks like, would delete everything.
var ErrNoFiles = errors.New("the directory holds no *.hcl or *.json file")

// ParseResources reads resources from files and directories (*.hcl and *.json in name order), and from standard input for "-".
// The error shows everything that is wrong in every file.
func ParseResources(paths ...string) ([]federation.Resource, error) {
	r := reader{parser: hclparse.NewParser(), seen: map[federation.Key]federation.Resource{}}
	for _, path := range paths {
		names, err := resourceFiles(path)
		if err != nil {
			return nil, &federation.Diagnostic{Code: "TW-1003", What: "cannot read resources from " + path, Why: err.Error(),
				Fix: "name a file that ends in .hcl or .json, a directory of such files, or - for standard input", Err: err}
		}
		for _, name := range names {
			r.read(name)
		}
	}
	what := "resources in " + strings.Join(paths, ", ") + " are not valid"
	if err := invalid("TW-1004", what, "correct the lines shown; nothing was changed", r.parser.Files(), r.diags); err != nil {
		return nil, err
	}
	slices.SortFunc(r.out, func(a, b federation.Resource) int { return a.Key.Compare(b.Key) })
	return r.out, nil
}

func resourceFiles(path string) ([]string, error) {
	if path == "-" {
		return []string{"-"}, nil
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	var names []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); (ext == ".hcl" || ext == ".json") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(path, e.Name()))
		}
	}
	if err == nil && len(names) == 0 {
		err = ErrNoFiles
	}
	return names, err
}

// reader gathers the resources of several files.
type reader struct {
	parser *hclparse.Parser
	out    []federation.Resource
	seen   map[federation.Key]federation.Resource
	diags  hcl.Diagnostics
}

func (r *reader) read(name string) {
	content, err := readFile(name)
	if err != nil {
		r.diags = append(r.diags, problem("Cannot read "+name, err, nil))
		return
	}
	if bad := notText(name, content); bad != nil {
		r.diags = append(r.diags, bad)
		return
	}
	if trimmed := bytes.TrimSpace(content); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		r.readJSON(name, trimmed)
		return
	}
	f, diags := r.parser.ParseHCL(content, name)
	if !diags.HasErrors() {
		var raw resourceFile
		diags = append(diags, gohcl.DecodeBody(f.Body, nil, &raw)...)
		if !diags.HasErrors() {
			r.convert(raw)
		}
	}
	r.diags = append(r.diags, diags...)
}

func readFile(name string) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, maxResourceFile+1))
	if err == nil && len(content) > maxResourceFile {
		err = fmt.Errorf("more than %d MiB", maxResourceFile>>20)
	}
	return content, err
}

// readJSON reads one resource, or an array of them, in the form of "tradewind get -o json".
func (r *reader) readJSON(name string, content []byte) {
	var list []federation.Resource
	var err error
	if content[0] == '[' {
		err = json.Unmarshal(content, &list)
	} else {
		list = make([]federation.Resource, 1)
		err = json.Unmarshal(content, &list[0])
	}
	if err != nil {
		r.diags = append(r.diags, problem("Invalid JSON in "+name, err, nil))
		return
	}
	for i, res := range list {
		res.Source = fmt.Sprintf("%s#%d", name, i+1)
		r.add(res, nil)
	}
}

func (r *reader) convert(raw resourceFile) {
	c := converter{r}
	for _, b := range raw.Services {
		c.service(b)
	}
	for _, b := range raw.Exports {
		c.put(federation.KindExport, b.Name, b.At, &federation.Export{To: b.To, Detail: federation.Detail(b.Detail)})
	}
	for _, b := range raw.Intentions {
		c.intention(b)
	}
	for _, b := range raw.Resolvers {
		c.resolver(b)
	}
	for _, b := range raw.Routes {
		c.route(b)
	}
	for _, b := range raw.Upstreams {
		c.upstream(b)
	}
	for _, b := range raw.Ingresses {
		c.ingress(b)
	}
	for _, b := range raw.JWT {
		c.jwt(b)
	}
	for _, b := range raw.Drains {
		c.drain(b)
	}
}

// add takes one resource in, or notes why not.
func (r *reader) add(res federation.Resource, at *hcl.Range) {
	if err := res.Validate(); err != nil {
		r.diags = append(r.diags, problem("Invalid "+res.Key.String(), err, at))
	}
	if first, dup := r.seen[res.Key]; dup {
		r.diags = append(r.diags, problem("Duplicate "+res.Key.String(), fmt.Errorf("%v was declared before at %s", res.Key, first.Source), at))
		return
	}
	r.seen[res.Key] = res
	r.out = append(r.out, res)
}

// converter turns HCL blocks into resources.
type converter struct{ *reader }

func (c converter) put(kind federation.Kind, name string, at hcl.Range, spec federation.Spec) {
	c.add(federation.Resource{Key: federation.Key{Kind: kind, Name: name},
		Source: fmt.Sprintf("%s:%d", at.Filename, at.Start.Line), Spec: spec}, &at)
}

// text parses s with into's UnmarshalText and notes the failure at the block.
func (c converter) text(what, s string, into interface{ UnmarshalText([]byte) error }, at hcl.Range) {
	if s == "" {
		return
	}
	if err := into.UnmarshalText([]byte(s)); err != nil {
		c.diags = append(c.diags, problem("Invalid "+what, err, &at))
	}
}

func (c converter) service(b serviceBlock) {
	spec := &federation.Service{Protocol: federation.Protocol(b.Protocol)}
	for _, i := range b.Instances {
		address, err := netip.ParseAddrPort(i.Address)
		if err != nil {
			c.diags = append(c.diags, problem("Invalid address of instance "+i.ID,
				fmt.Errorf("address %q is no IP:port: write such as \"192.0.2.10:8080\"", i.Address), &i.At))
			continue
		}
		spec.Instances = append(spec.Instances, federation.StaticInstance{ID: federation.InstanceID(i.ID), Address: address, Zone: i.Zone,
			Weight: i.Weight, Labels: i.Labels})
	}
	for _, k := range b.Checks {
		check := federation.CheckSpec{Kind: federation.CheckKind(k.Kind), Path: k.Path, Host: k.Host, GRPCService: k.GRPCService, Port: k.Port,
			TLS: k.TLS, TLSServerName: k.TLSServerName, TLSCAFile: k.TLSCAFile, TLSSkipVerify: k.TLSSkipVerify,
			Method: k.Method, Headers: k.Headers, Body: k.Body, Status: k.Status, HealthyAfter: k.HealthyAfter, UnhealthyAfter: k.UnhealthyAfter}
		c.text("interval", k.Interval, &check.Interval, k.At)
		c.text("timeout", k.Timeout, &check.Timeout, k.At)
		c.text("ttl", k.TTL, &check.TTL, k.At)
		spec.Checks = append(spec.Checks, check)
	}
	c.put(federation.KindService, b.Name, b.At, spec)
}

func (c converter) intention(b intentionBlock) {
	spec := &federation.Intention{Source: b.Source, Destination: b.Destination, Action: federation.Action(b.Action), Description: b.Description,
		HTTP: permissions(b.HTTP), Mode: federation.Mode(b.Mode)}
	c.text("require", b.Require, &spec.Require, b.At)
	c.put(federation.KindIntention, b.Name, b.At, spec)
}

func (c converter) upstream(b upstreamBlock) {
	spec := &federation.Upstream{Listen: b.Listen}
	c.text("service", b.Service, &spec.Service, b.At)
	c.text("caller", b.Caller, &spec.Caller, b.At)
	for _, from := range b.AllowFrom {
		var p netip.Prefix
		c.text("allow_from", from, &p, b.At)
		spec.AllowFrom = append(spec.AllowFrom, p)
	}
	c.put(federation.KindUpstream, b.Name, b.At, spec)
}

// sortedKeys returns m's keys in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
