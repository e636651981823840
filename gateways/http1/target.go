package http1

import (
	"bytes"
	"net/http"
	"net/netip"
	"net/url"
	"unicode/utf8"
)

// Path returns the path of a request as it is judged and forwarded: canonical, with the escapes it needs. URL.Path is without
// escapes and fits rules only where AllowEncodedSlash is off.
func Path(u *url.URL) string {
	if u.RawPath != "" {
		return u.RawPath
	}
	return u.Path
}

// SetTarget makes target, in origin form, what r asks for. It is checked and brought into canonical form as one from outside.
func SetTarget(r *http.Request, target string, rules Rules) error {
	b := []byte(target)
	if len(b) == 0 || b[0] != '/' || len(b) > rules.withDefaults().MaxStartLine {
		return bad("target-form")
	}
	t, err := canonicalTarget(b, rules)
	if err != nil {
		return err
	}
	u := *r.URL
	if err := t.store(&u, string(b[:t.end])); err != nil {
		return err
	}
	r.URL, r.RequestURI = &u, string(b[:t.end])
	return nil
}

// target is a request target in origin form after it was brought into canonical form.
type target struct {
	pathEnd int
	end     int // of the query
	plain   bool
	quirks  bool // net/url would write the path differently
}

// store sets the path and the query of u from s, the canonical target.
func (t target) store(u *url.URL, s string) error {
	u.Path, u.RawPath = s[:t.pathEnd], ""
	if !t.plain {
		path, err := url.PathUnescape(u.Path)
		if err != nil || !utf8.ValidString(path) { // overlong forms of "." and "/" are not valid either
			return bad("path-utf8")
		}
		u.Path = path
	}
	if !t.plain || t.quirks {
		u.RawPath = s[:t.pathEnd]
	}
	u.RawQuery, u.ForceQuery = "", t.end == t.pathEnd+1
	if t.end > t.pathEnd {
		u.RawQuery = s[t.pathEnd+1 : t.end]
	}
	return nil
}

// canonicalTarget checks the path and query in b, and brings them into canonical form in place: it can only become shorter.
func canonicalTarget(b []byte, rules Rules) (target, error) {
	t := target{plain: true}
	segment, to, from := 0, 0, 0 // where the current segment starts and ends, in canonical form, and what of b is done
path:
	for from < len(b) {
		c := b[from]
		switch {
		case c == '?':
			break path
		case c == '/':
			if !endSegment(b[segment:to]) {
				return t, bad("dot-segment")
			}
			if to > 0 && b[to-1] == '/' && !rules.AllowEmptySegment {
				return t, bad("empty-segment")
			}
			segment = to + 1
		case c == '%':
			n, err := unescape(b[from:], rules)
			if err != nil {
				return t, err
			}
			from += 3
			if class[n]&unreserved != 0 {
				b[to] = n
				to++
				continue
			}
			if n == '/' || n == '\\' { // the segment ends here for an instance that takes it for a slash
				if !endSegment(b[segment:to]) {
					return t, bad("dot-segment")
				}
				segment = to + 3
			}
			b[to], b[to+1], b[to+2] = '%', upperHex[n>>4], upperHex[n&15]
			to += 3
			t.plain = false
			continue
		case class[c]&pathChar == 0:
			return t, badPathChar(c)
		case class[c]&quirk != 0:
			t.quirks = true
		}
		b[to] = c
		to++
		from++
	}
	if !endSegment(b[segment:to]) {
		return t, bad("dot-segment")
	}
	t.pathEnd = to
	if err := checkQuery(b[from:]); err != nil {
		return t, err
	}
	t.end = to + copy(b[to:], b[from:])
	return t, nil
}

// endSegment reports whether a segment of a path means itself. Some servers cut parameters off first, so "..;x" is "..".
func endSegment(s []byte) bool {
	if len(s) == 0 || s[0] != '.' {
		return true
	}
	if i := bytes.IndexByte(s, ';'); i >= 0 {
		s = s[:i]
	}
	return string(s) != "." && string(s) != ".."
}

// unescape returns the octet that the escape at the start of b stands for.
func unescape(b []byte, rules Rules) (byte, error) {
	if len(b) < 3 || unhex(b[1]) > 15 || unhex(b[2]) > 15 {
		return 0, bad("escape")
	}
	c := unhex(b[1])<<4 | unhex(b[2])
	switch {
	case c < ' ' || c == 0x7f:
		return 0, bad("encoded-control")
	case (c == '/' || c == '\\') && !rules.AllowEncodedSlash:
		return 0, bad("encoded-slash")
	}
	return c, nil
}

func badPathChar(c byte) error {
	switch c {
	case '\\':
		return bad("backslash")
	case '#':
		return bad("fragment")
	}
	return bad("target-character")
}

// checkQuery checks a query with its "?". It is forwarded as it is.
func checkQuery(b []byte) error {
	for i, c := range b {
		switch {
		case class[c]&queryChar != 0:
		case c == '%':
			if i+2 >= len(b) || unhex(b[i+1]) > 15 || unhex(b[i+2]) > 15 {
				return bad("escape")
			}
		default:
			return badPathChar(c)
		}
	}
	return nil
}

// CanonicalHost returns host, which may have a port, as a Reader leaves it in Request.Host. The error is an *Error.
func CanonicalHost(host string) (string, error) {
	canonical, _, err := canonicalHost([]byte(host))
	return string(canonical), err
}

// canonicalHost checks a host with an optional port, and brings it into canonical form in place: lower case, without the dot that
// ends an absolute name. It returns the part of b that is left, and whether it has a port.
func canonicalHost(b []byte) (host []byte, port bool, err error) {
	if len(b) == 0 || len(b) > maxHost {
		return nil, false, bad("host")
	}
	end := len(b)
	if b[0] == '[' {
		end = bytes.IndexByte(b, ']') + 1
		if end == 0 {
			return nil, false, bad("host")
		}
	} else if i := bytes.IndexByte(b, ':'); i >= 0 {
		end = i
	}
	if end < len(b) && !isPort(b[end:]) {
		return nil, false, bad("host-port")
	}
	port = end < len(b)
	for i, c := range b[:end] {
		b[i] = lower(c)
	}
	if b[0] == '[' {
		addr, err := netip.ParseAddr(string(b[1 : end-1]))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return nil, false, bad("host")
		}
		return b, port, nil
	}
	for _, c := range b[:end] {
		if class[c]&hostChar == 0 {
			return nil, false, bad("host")
		}
	}
	if end > 0 && b[end-1] == '.' {
		b = append(b[:end-1], b[end:]...)
		end--
	}
	if end == 0 || b[0] == '.' || b[end-1] == '.' {
		return nil, false, bad("host")
	}
	return b, port, nil
}

// isPort reports whether b is ":" and a port number.
func isPort(b []byte) bool {
	n := 0
	for _, c := range b[1:] {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
		if n > 65535 {
			return false
		}
	}
	return len(b) > 1 && n > 0
}
