package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
)

// mistake is an error and where in the file it is.
type mistake struct {
	offset int64
	where  string // such as "instance 3, field \"address\""
	err    error
	fix    string
}

func (m *mistake) Error() string {
	if m.where == "" {
		return m.err.Error()
	}
	return m.where + ": " + m.err.Error()
}

func (m *mistake) Unwrap() error { return m.err }

const (
	fixSyntax = "mend the JSON; \"jq . FILE\" shows the same place"
	fixForm   = "write {\"instances\": [{\"service\": \"NAME\", \"address\": \"IP:PORT\"}]}"
	fixField  = "mend the field; the instances of the last valid file stay in use until then"
)

// decode reads one file strictly.
func decode(data []byte) ([]federation.Instance, *mistake) {
	if !utf8.Valid(data) {
		return nil, &mistake{offset: int64(firstInvalid(data)), err: errors.New("the text is not UTF-8"), fix: "save the file as UTF-8"}
	}
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil { // syntax first: Decoder's offsets of such errors are not right
		return nil, syntax(data, err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if bad := expect(d, data, json.Delim('{'), "an object"); bad != nil {
		return nil, bad
	}
	instances, seen := []federation.Instance{}, false
	for d.More() {
		at := valueStart(data, d.InputOffset())
		token, err := d.Token()
		if err != nil {
			return nil, syntax(data, err)
		}
		switch name, _ := token.(string); {
		case name != "instances":
			return nil, &mistake{offset: at, err: fmt.Errorf("field %q is unknown", name), fix: fixForm}
		case seen:
			return nil, &mistake{offset: at, err: errors.New("field \"instances\" is there twice"), fix: "merge the two lists"}
		}
		seen = true
		var bad *mistake
		if instances, bad = decodeList(d, data); bad != nil {
			return nil, bad
		}
	}
	if !seen {
		return nil, &mistake{err: errors.New("field \"instances\" is missing"), fix: fixForm}
	}
	return instances, nil
}

// decodeList reads the list of instances.
func decodeList(d *json.Decoder, data []byte) ([]federation.Instance, *mistake) {
	if bad := expect(d, data, json.Delim('['), "a list of instances"); bad != nil {
		return nil, bad
	}
	list := []federation.Instance{}
	for d.More() {
		at := valueStart(data, d.InputOffset())
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, syntax(data, err)
		}
		in, bad := decodeInstance(raw)
		if bad != nil {
			bad.offset += at
			bad.where = strings.TrimSuffix(fmt.Sprintf("instance %d, %s", len(list)+1, bad.where), ", ")
			return nil, bad
		}
		list = append(list, in)
	}
	if _, err := d.Token(); err != nil {
		return nil, syntax(data, err)
	}
	return list, nil
}

// decodeInstance reads one instance. Offsets of a mistake count from its start.
func decodeInstance(raw []byte) (federation.Instance, *mistake) {
	var in federation.Instance
	if err := strict(raw, &in); err != nil {
		return federation.Instance{}, locate(raw, err)
	}
	if name, at := twice(raw); name != "" {
		return in, &mistake{offset: at, err: fmt.Errorf("field %q is there twice", name), fix: "leave one of them"}
	}
	switch {
	case in.Service.IsZero():
		return in, &mistake{err: errors.New("field \"service\" is missing"), fix: "name the service: \"service\": \"NAME\""}
	case !in.Address.IsValid():
		return in, &mistake{err: errors.New("field \"address\" is missing"), fix: "write where it listens: \"address\": \"IP:PORT\""}
	}
	if in.ID == "" {
		in.ID = federation.InstanceID(in.Address.String())
	}
	for i, c := range in.Checks {
		if err := c.Validate(); err != nil {
			return in, &mistake{offset: fieldOffset(raw, "checks"), where: fmt.Sprintf("check %d", i+1),
				err: errors.New(strings.ReplaceAll(err.Error(), "\n", "; ")), fix: fixField}
		}
	}
	return in, nil
}

func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// twice returns a field that raw, an object or null, has more than once, and where the second stands. encoding/json would take
// the last one without a word.
func twice(raw []byte) (name string, offset int64) {
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token() // the brace
	var seen [16]string
	names := seen[:0]
	for d.More() {
		at := valueStart(raw, d.InputOffset())
		token, err := d.Token()
		name, _ := token.(string)
		if err != nil || slices.Contains(names, name) {
			return name, at
		}
		names = append(names, name)
		var value json.RawMessage
		if d.Decode(&value) != nil {
			break
		}
	}
	return "", 0
}

// locate finds where in the instance raw the error err is: encoding/json does not say so for unknown fields and for values
// that refuse themselves, such as addresses. So each field is decoded by itself until one fails in the same way.
func locate(raw []byte, err error) *mistake {
	var wrong *json.UnmarshalTypeError
	if bytes.HasPrefix(raw, []byte("{")) {
		d := json.NewDecoder(bytes.NewReader(raw))
		_, _ = d.Token() // the brace
		for d.More() {
			nameAt := valueStart(raw, d.InputOffset())
			token, _ := d.Token()
			name, _ := token.(string)
			valueAt := valueStart(raw, d.InputOffset())
			var value json.RawMessage
			if d.Decode(&value) != nil {
				break
			}
			prefix := "{" + strconv.Quote(name) + ":"
			one := strict([]byte(prefix+string(value)+"}"), &federation.Instance{})
			if one == nil {
				continue
			}
			m := &mistake{offset: valueAt, where: fmt.Sprintf("field %q", name), err: plain(one), fix: fixField}
			switch unknown, isUnknown := unknownField(one); {
			case isUnknown && unknown == name:
				m.offset, m.where, m.err = nameAt, "", fmt.Errorf("field %q is unknown", name)
			case isUnknown:
				m.offset, m.err = valueAt+fieldOffset(value, unknown), fmt.Errorf("field %q is unknown", unknown)
			case errors.As(one, &wrong) && (value[0] == '{' || value[0] == '['):
				m.offset = max(valueAt, valueAt+wrong.Offset-int64(len(prefix))-1) // the end of the wrong value, in the text as it was decoded
			}
			return m
		}
	}
	return &mistake{err: plain(err), fix: fixForm}
}

// unknownField returns the name in encoding/json's error about an unknown field, which has no type of its own.
func unknownField(err error) (string, bool) {
	rest, ok := strings.CutPrefix(err.Error(), "json: unknown field ")
	if !ok {
		return "", false
	}
	name, err := strconv.Unquote(rest)
	return name, err == nil
}

// plain returns err in the words of somebody who writes JSON, not Go.
func plain(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	want := map[string]string{"string": "a text", "uint16": "a number from 0 to 65535", "int": "a whole number", "bool": "true or false",
		"slice": "a list", "map": "an object", "struct": "an object"}[wrong.Type.Kind().String()]
	if want == "" {
		want = "a text"
	}
	return fmt.Errorf("a %s cannot stand here, %s is wanted", wrong.Value, want)
}

// fieldOffset returns where the first field called name stands in raw, or 0.
func fieldOffset(raw []byte, name string) int64 {
	d := json.NewDecoder(bytes.NewReader(raw))
	for {
		at := valueStart(raw, d.InputOffset())
		token, err := d.Token()
		if err != nil {
			return 0
		}
		if s, ok := token.(string); ok && s == name && nextIs(raw, d.InputOffset(), ':') {
			return at
		}
	}
}

// expect takes the token want.
func expect(d *json.Decoder, data []byte, want json.Delim, what string) *mistake {
	at := valueStart(data, d.InputOffset())
	token, err := d.Token()
	switch {
	case err != nil:
		return syntax(data, err)
	case token != want:
		return &mistake{offset: at, err: fmt.Errorf("%s is wanted here", what), fix: fixForm}
	}
	return nil
}

// syntax makes a mistake of an error of encoding/json about the whole file.
func syntax(data []byte, err error) *mistake {
	m := &mistake{err: err, fix: fixSyntax}
	var s *json.SyntaxError
	if errors.As(err, &s) {
		m.offset = max(0, s.Offset-1)
		if s.Offset >= int64(len(data)) && strings.Contains(s.Error(), "unexpected end") {
			m.offset, m.err, m.fix = int64(len(data)), errors.New("the file is empty or ends too early"), fixForm
		}
	}
	return m
}

// valueStart returns the first octet at or after offset that is no blank, comma or colon.
func valueStart(data []byte, offset int64) int64 {
	for offset < int64(len(data)) && strings.IndexByte(" \t\r\n,:", data[offset]) >= 0 {
		offset++
	}
	return offset
}

// nextIs reports whether c is the first octet at or after offset that is no blank.
func nextIs(data []byte, offset int64, c byte) bool {
	for offset < int64(len(data)) && strings.IndexByte(" \t\r\n", data[offset]) >= 0 {
		offset++
	}
	return offset < int64(len(data)) && data[offset] == c
}

func firstInvalid(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return 0
}

// position returns line and column, both from 1, of an offset; columns count characters.
func position(data []byte, offset int64) (line, column int) {
	head := data[:min(max(offset, 0), int64(len(data)))]
	start := bytes.LastIndexByte(head, '\n') + 1
	return bytes.Count(head, []byte{'\n'}) + 1, utf8.RuneCount(head[start:]) + 1
}
