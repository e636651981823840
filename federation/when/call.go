package when

import (
	"fmt"
	"maps"
	"net/textproto"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// Call is what an expression sees of a request and of those between whom it goes. It is read only while it is evaluated.
type Call struct {
	Request     *match.Request
	Source      spiffeid.ID
	From, To    federation.Region
	Caller      federation.ServiceName
	Destination federation.ServiceName
	Provider    string // the jwt resource whose token "token" is; empty: there is none
}

// Parent implements interpreter.Activation.
func (*Call) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation: nothing is prepared that no expression asks for.
func (c *Call) ResolveName(name string) (any, bool) {
	switch name {
	case "request.method":
		return types.String(c.Request.Method), true
	case "request.host":
		return types.String(c.Request.Host), true
	case "request.path":
		return bounded("path", c.Request.Path), true
	case "request.query":
		values, err := url.ParseQuery(c.Request.Query)
		if err != nil {
			return types.NewErr("the query is not well-formed"), true
		}
		return &fields{what: "parameter", values: values}, true
	case "request.headers":
		return &fields{what: "header", values: c.Request.Header}, true
	case "source.identity":
		return types.String(c.Source.String()), true
	case "source.namespace":
		return types.String(c.Caller.Namespace), true
	case "source.service":
		return types.String(c.Caller.Name), true
	case "source.region":
		return types.String(c.From), true
	case "destination.namespace":
		return types.String(c.Destination.Namespace), true
	case "destination.service":
		return types.String(c.Destination.Name), true
	case "destination.region":
		return types.String(c.To), true
	case "token.issuer":
		issuer, _ := c.claims()["iss"].(string) // that it is one has been verified
		return types.String(issuer), true
	case "token.claims":
		return c.claims(), true
	}
	return nil, false
}

func (c *Call) claims() map[string]any {
	for _, t := range c.Request.Tokens {
		if t.Provider == c.Provider {
			return t.Claims
		}
	}
	return map[string]any{}
}

// fields are the header fields or the query parameters of a request as a map of strings. What a request brings several times is there, and
// has no value.
type fields struct {
	what   string
	values map[string][]string
}

var _ traits.Mapper = &fields{}

// of returns the values that are meant by key.
func (f *fields) of(key ref.Val) ([]string, ref.Val) {
	name, ok := key.(types.String)
	if !ok {
		return nil, types.MaybeNoSuchOverloadErr(key)
	}
	if f.what == "parameter" {
		return f.values[string(name)], nil
	}
	if strings.EqualFold(string(name), "host") { // else a deny that asks for it would never hold
		return nil, types.NewErr("the host is not among the headers: it is request.host")
	}
	return f.values[textproto.CanonicalMIMEHeaderKey(string(name))], nil
}

// Find implements traits.Mapper.
func (f *fields) Find(key ref.Val) (ref.Val, bool) {
	values, err := f.of(key)
	switch {
	case err != nil:
		return err, false
	case len(values) == 0:
		return nil, false
	case len(values) > 1:
		return types.NewErr("%s %q comes %d times", f.what, key, len(values)), false
	}
	value := bounded(f.what, values[0])
	return value, value.Type() != types.ErrType
}

// bounded is s, unless it is too long to be looked at.
func bounded(what, s string) ref.Val {
	if len(s) > maxValue {
		return types.NewErr("a %s has %d octets: an expression looks at no more than %d", what, len(s), maxValue)
	}
	return types.String(s)
}

// Get implements traits.Indexer.
func (f *fields) Get(key ref.Val) ref.Val {
	value, found := f.Find(key)
	if !found && value == nil {
		return types.NewErr("no such key: %v", key)
	}
	return value
}

// Contains implements traits.Container.
func (f *fields) Contains(key ref.Val) ref.Val {
	values, err := f.of(key)
	if err != nil {
		return err
	}
	return types.Bool(len(values) > 0)
}

// Size implements traits.Sizer.
func (f *fields) Size() ref.Val { return types.Int(len(f.values)) }

// Iterator implements traits.Iterable, in order as that of object.
func (f *fields) Iterator() traits.Iterator {
	names := slices.Sorted(maps.Keys(f.values))
	if f.what == "header" {
		for i := range names {
			names[i] = strings.ToLower(names[i])
		}
	}
	return iterate(names)
}

// Equal implements ref.Val.
func (f *fields) Equal(other ref.Val) ref.Val {
	all := make(map[string]string, len(f.values))
	for i := f.Iterator(); i.HasNext() == types.True; {
		name := i.Next()
		value := f.Get(name)
		text, ok := value.(types.String)
		if !ok {
			return value
		}
		all[string(name.(types.String))] = string(text) //nolint:forcetypeassert // a list of strings has been made
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, all).Equal(other)
}

// ConvertToNative implements ref.Val.
func (f *fields) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("%ss cannot be converted to %v", f.what, t)
}

// ConvertToType implements ref.Val.
func (f *fields) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return f
	case types.TypeType:
		return types.MapType
	}
	return types.NewErr("%ss cannot be converted to %s", f.what, t)
}

// Type implements ref.Val.
func (*fields) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (f *fields) Value() any { return f.values }
