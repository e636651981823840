package poll

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
)

// Permissions returns what the kinds need, sorted, each once.
func Permissions(kinds []string, of map[string][]string) []string {
	var all []string
	for _, k := range kinds {
		all = append(all, of[k]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Mistakes are what is wrong with a provider's configuration: all at once, so that nobody mends them one by one.
type Mistakes []error

// Err returns them, joined; nil if there are none.
func (m *Mistakes) Err() error { return errors.Join(*m...) }

// Add notes a mistake.
func (m *Mistakes) Add(format string, args ...any) { *m = append(*m, fmt.Errorf(format, args...)) }

// List notes the values of a list that are not legal, with what is wrong with them, and those that are there twice. Where legal is nil
// any value is but the empty one.
func (m *Mistakes) List(name string, values []string, legal func(string) bool, wrong string) {
	for i, v := range values {
		switch {
		case legal == nil && v == "":
			m.Add("%s: an entry is empty", name)
		case legal != nil && !legal(v):
			m.Add("%s: %q %s", name, v, wrong)
		case slices.Contains(values[:i], v):
			m.Add("%s: %q is there twice", name, v)
		}
	}
}

// OneOf returns whether a value is one of these, for List.
func OneOf(these ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(these, v) }
}

// AddressType notes a type of address that there is not.
func (m *Mistakes) AddressType(kind string) {
	if !slices.Contains([]string{"", PrivateV4, PublicV4, PrivateV6}, kind) {
		m.Add("address_type: %q is unknown: use private_v4, public_v4 or private_v6", kind)
	}
}

// Tags notes a tag without a name.
func (m *Mistakes) Tags(tags map[string]string) {
	if _, nameless := tags[""]; nameless {
		m.Add("tags: a tag has no name")
	}
}

// Endpoint notes what is neither empty nor a base URL such as example.
func (m *Mistakes) Endpoint(endpoint, example string) {
	if u, err := url.Parse(endpoint); endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		m.Add("endpoint: %q is not a URL such as %q", endpoint, example)
	}
}
