package match

import (
	"net/url"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// field is a condition on a header field or a query parameter.
type field struct{ federation.FieldMatch }

func (f *field) passes(value string) bool {
	switch {
	case len(f.Exact) > 0:
		return slices.Contains(f.Exact, value)
	case f.Prefix != "":
		return strings.HasPrefix(value, f.Prefix)
	}
	return true
}

func (f *field) header(all map[string][]string, lean Lean) bool {
	values := all[f.Name]
	if f.Absent {
		return len(values) == 0
	}
	if lean == Narrow {
		return allPass(values, f.passes)
	}
	for _, v := range values {
		if f.passes(v) {
			return true
		}
		// Recipients may join fields of one name by commas, and split them there.
		for element := range strings.SplitSeq(v, ",") {
			if f.passes(strings.Trim(element, " \t\"")) {
				return true
			}
		}
	}
	return false
}

// parameter judges the values of a query parameter. Names and values are compared decoded.
func (f *field) parameter(query string, lean Lean) bool {
	found, passed := false, true
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		name, badName := decode(name)
		if badName || strings.IndexByte(pair, ';') >= 0 { // some programs take a semicolon for an ampersand
			return bool(lean)
		}
		if name != f.Name {
			continue
		}
		value, badValue := decode(value)
		switch {
		case badValue:
			return bool(lean)
		case lean == Wide && !f.Absent && f.passes(value):
			return true
		}
		found = true
		passed = passed && f.passes(value)
	}
	if f.Absent {
		return !found
	}
	return found && passed && lean == Narrow
}

func decode(s string) (decoded string, bad bool) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, false
	}
	decoded, err := url.QueryUnescape(s)
	return decoded, err != nil
}
