package admin

import (
	"encoding/json"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestPeersCannotWriteToTheTerminal(t *testing.T) {
	hostile := "a\x1b[2Jb\u202ec\x7fd\u009be\rf\\u001b"
	encoded, err := json.Marshal(map[string]string{"service": hostile, "reason": "fine\n\tand well \u2192 é 🙂"})
	if err != nil {
		t.Fatal(err)
	}
	var q Quarantined
	if err := (codec{name: "json"}).Unmarshal(encoded, &q); err != nil {
		t.Fatal(err)
	}
	if want := "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\ufffdf\\u001b"; q.Service != want {
		t.Errorf("%q, want %q", q.Service, want)
	}
	if q.Reason != "fine\n\tand well \u2192 é 🙂" {
		t.Errorf("harmless text was changed: %q", q.Reason)
	}
	err = received(withDetail(connect.NewError(connect.CodeInternal, nil), &federation.Diagnostic{Code: "TW-3001", What: "x\x1b[31m"}))
	if strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%q", err)
	}
}

func FuzzCleanJSON(f *testing.F) {
	f.Add([]byte(`{"a":"\\u001b\\\\u001b","b":["\\r\\n",1,null,"` + "\u202e" + `"]}`))
	f.Add([]byte(`"\\ud83d\\ude00"`))
	f.Add([]byte(`"\\`))
	f.Fuzz(func(t *testing.T, b []byte) {
		cleaned := cleanJSON(b)
		if json.Valid(b) && !json.Valid(cleaned) {
			t.Fatalf("%q was JSON, %q is not", b, cleaned)
		}
		var v any
		if json.Unmarshal(cleaned, &v) != nil {
			return
		}
		walk(v, func(s string) {
			if i := strings.IndexFunc(s, unsafeRune); i >= 0 {
				t.Fatalf("%q holds an unsafe character at %d", s, i)
			}
		})
	})
}

func walk(v any, see func(string)) {
	switch v := v.(type) {
	case string:
		see(v)
	case []any:
		for _, e := range v {
			walk(e, see)
		}
	case map[string]any:
		for k, e := range v {
			see(k)
			walk(e, see)
		}
	}
}
