package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// codec is Connect's "json" for plain Go structs. The server's is strict: an unknown field in a request is a mistyped one and
// an error. The client's is not: a newer gateway may say more than an older CLI understands.
type codec struct {
	name   string
	strict bool
}

// jsonNames are the content types that Connect looks up codecs by, behind "application/".
var jsonNames = []string{"json", "json; charset=utf-8"}

func (c codec) Name() string { return c.name }

func (codec) Marshal(message any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // what a person reads with curl should not say \u003e
	if err := e.Encode(message); err != nil {
		return nil, fmt.Errorf("encode %T: %w", message, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (c codec) Unmarshal(b []byte, message any) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil // an empty body asks for nothing in particular, like {}
	}
	if !c.strict {
		b = cleanJSON(b)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if c.strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(message); err != nil {
		return fmt.Errorf("decode JSON: %w", err)
	}
	if d.More() {
		return errors.New("decode JSON: more than one value")
	}
	return nil
}
