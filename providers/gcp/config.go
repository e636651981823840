package gcp

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The kinds of workload, as Config.Kinds and poll.Scope.Kind name them.
const (
	KindInstances = "instances"        // Compute Engine
	KindRun       = "run"              // Cloud Run: one HTTPS host for each service
	KindDirectory = "servicedirectory" // Service Directory
)

// Beside the kinds of workload, Permissions knows these.
const (
	SignalGroups = "groups" // what managed instance groups know, with KindInstances unless Config.NoGroupHealth
	KindGKE      = "gke"    // Clusters
)

// The types of address, as go-discover names them.
const (
	PrivateV4 = poll.PrivateV4
	PublicV4  = poll.PublicV4 // instances only
	PrivateV6 = poll.PrivateV6
)

// Config says what is listed, and as whom. Everything is a plain value.
type Config struct {
	Projects []string // IDs, "example-prod"; at least one
	Kinds    []string // KindInstances, KindRun, KindDirectory; at least one
	// Labels keeps workloads that have all of these: labels of instances and Cloud Run services, annotations of Service Directory. An
	// empty value means that the label exists.
	Labels map[string]string
	// Locations are regions ("europe-west1") or zones ("europe-west1-b"). None: all. KindDirectory needs them: its API is asked
	// region by region. Cloud Run is asked for all regions at once without them, and for each of their regions with them.
	Locations  []string
	Namespaces []string // of Service Directory, by name; none: all
	// Groups keeps only the instances of these managed instance groups, by name.
	Groups []string
	// NoGroupHealth leaves the managed instance groups unasked. By default what they say of an instance counts: its health by their
	// autohealing check, whether they are about to take it away, and its named ports. Each group that may have something to say is a request.
	NoGroupHealth bool
	// AddressType is the type of address that comes first. Default PrivateV4: a gateway runs in the network of its workloads.
	AddressType string
	// CredentialsFile is a JSON file of credentials. Default: as Google's libraries find them ("application default credentials").
	CredentialsFile string
	// Endpoint is the base URL of every service; "{service}" in it stands for compute, run, servicedirectory or container, as in
	// "https://{service}-mesh.p.googleapis.com" for Private Service Connect. Default: "https://{service}.googleapis.com".
	Endpoint string
}

const defaultEndpoint = "https://{service}.googleapis.com"

var (
	projectForm = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	regionForm  = regexp.MustCompile(`^[a-z]+(-[a-z]+)+[0-9]+$`)
	zoneForm    = regexp.MustCompile(`^[a-z]+(-[a-z]+)+[0-9]+-[a-z0-9]+$`)
	nameForm    = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// Of a label: lower case of any script. A filter quotes values, and keys not. How long they may be is not said here: 63 repetitions
	// of what Unicode has compile to 8 MB.
	labelForm = regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]*$`)
	labelText = regexp.MustCompile(`^[\p{Ll}\p{Lo}\p{N}_-]*$`)
)

// validate returns all mistakes at once.
func (c *Config) validate() error {
	var wrong poll.Mistakes
	if len(c.Projects) == 0 {
		wrong.Add("projects: name at least one by its ID, such as \"example-prod\"")
	}
	if len(c.Kinds) == 0 {
		wrong.Add("kinds: name at least one of instances, run and servicedirectory")
	}
	wrong.List("projects", c.Projects, projectForm.MatchString, "is not the ID of a project such as \"example-prod\" (not its number or name)")
	wrong.List("kinds", c.Kinds, poll.OneOf(KindInstances, KindRun, KindDirectory), "is not a kind: use instances, run or servicedirectory")
	wrong.List("locations", c.Locations, func(l string) bool { return regionForm.MatchString(l) || zoneForm.MatchString(l) },
		"is not a region such as \"europe-west1\" or a zone such as \"europe-west1-b\"")
	wrong.List("namespaces", c.Namespaces, nameForm.MatchString, "is not the name of a Service Directory namespace")
	wrong.List("groups", c.Groups, nameForm.MatchString, "is not the name of a managed instance group")
	if slices.Contains(c.Kinds, KindDirectory) && len(c.Locations) == 0 {
		wrong.Add("locations: kind servicedirectory needs at least one region: its API is asked region by region")
	}
	if len(c.Groups) > 0 && c.NoGroupHealth {
		wrong.Add("groups: they cannot be known when no_group_health forbids asking them")
	}
	onlyDirectory := len(c.Kinds) == 1 && c.Kinds[0] == KindDirectory
	for k, v := range c.Labels {
		if k == "" || !onlyDirectory && !(isLabel(labelForm, k) && isLabel(labelText, v)) {
			wrong.Add("labels: %q = %q is not a label such as \"team\" = \"shop\": lower case letters, digits, _ and -, at most 63", k, v)
		}
	}
	wrong.AddressType(c.AddressType)
	if err := checkEndpoint(c.Endpoint); err != nil {
		wrong = append(wrong, err)
	}
	return wrong.Err()
}

// checkEndpoint refuses what is no base URL, and plain HTTP to another machine: the requests carry a bearer token.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(strings.ReplaceAll(endpoint, "{service}", "compute"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("endpoint: %q is not a URL such as \"https://{service}-mesh.p.googleapis.com\"", endpoint)
	}
	if host, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !host.IsLoopback()) {
		return fmt.Errorf("endpoint: %q is not https: credentials would travel in the clear", endpoint)
	}
	return nil
}

// regions returns the regions of the configured locations, each once.
func (c *Config) regions() []string {
	var out []string
	for _, l := range c.Locations {
		out = append(out, regionOf(l))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// covers reports whether a region or zone is in the configured locations. A region is also when one of its zones is.
func (c *Config) covers(location string) bool {
	return len(c.Locations) == 0 || slices.ContainsFunc(c.Locations, func(l string) bool {
		return l == location || l == regionOf(location) || regionOf(l) == location
	})
}

// regionOf returns the region of a zone, and a region as it is.
func regionOf(location string) string {
	if zoneForm.MatchString(location) {
		return location[:strings.LastIndexByte(location, '-')]
	}
	return location
}

// The limits of what is read. What goes beyond them was not meant for us.
const (
	maxBody    = 32 << 20 // of one answer; a full page of 500 instances with 64 labels each is about 3 MB
	maxErrBody = 64 << 10 // of an answer that says what failed
)

// Permissions returns the IAM permissions that a Lister with these kinds uses, sorted. KindGKE stands for Clusters.
func Permissions(kinds ...string) []string {
	return poll.Permissions(kinds, map[string][]string{
		KindInstances: {listInstances.permission},
		SignalGroups:  {listGroups.permission, listManaged.permission},
		KindRun:       {listServices.permission},
		KindDirectory: {listNamespaces.permission, listEntries.permission, listEndpoints.permission},
		KindGKE:       {listClusters.permission},
	})
}

// isLabel reports whether s has the form and is not longer than a label's keys and values may be, in characters.
func isLabel(form *regexp.Regexp, s string) bool {
	return utf8.RuneCountInString(s) <= 63 && form.MatchString(s)
}
