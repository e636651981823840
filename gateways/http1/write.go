package http1

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Framing is how a body is sent: its length, or one of the two below.
type Framing int64

const (
	// Chunked sends chunks and a trailer section.
	Chunked Framing = -1
	// UntilClose sends the octets as they are; the end of the connection is the end of the body.
	UntilClose Framing = -2
)

// RequestFraming is how r's body is sent: chunked if ContentLength is negative.
func RequestFraming(r *http.Request) Framing { return max(Framing(r.ContentLength), Chunked) }

// ResponseFraming is how r's body is sent in answer to r.Request (nil: a GET of HTTP/1.1): not at all where there can be none, else by
// its length, else chunked, and until the connection ends to HTTP/1.0.
func ResponseFraming(r *http.Response) Framing {
	switch {
	case !statusAllowsBody(r.StatusCode), isTunnel(r), r.Request != nil && r.Request.Method == http.MethodHead:
		return 0
	case r.ContentLength >= 0:
		return Framing(r.ContentLength)
	case r.Request != nil && r.Request.ProtoMajor == 1 && r.Request.ProtoMinor == 0:
		return UntilClose
	}
	return Chunked
}

func broken(reason string) error { return &Error{500, reason} }

// Field is one field of a head. Its name is in canonical form.
type Field struct{ Name, Value string }

// AppendRequest appends the head of r to dst: Method, RequestURI, Host, ContentLength, the names of Trailer, Close, Header, and the fields
// of more, which Header does not have. The error is an *Error with status 500 when r is one that a Reader would not accept, or Header holds
// what this package writes (Connection, see StripHopByHop, Host, Content-Length, Transfer-Encoding, Trailer). Close was read about another
// connection: a gateway sets it anew.
func AppendRequest(dst []byte, r *http.Request, more ...Field) ([]byte, error) {
	start := len(dst)
	if !isToken(r.Method) {
		return dst, broken("method")
	}
	dst = append(append(dst, r.Method...), ' ')
	dst, err := appendTarget(dst, r)
	if err != nil {
		return dst[:start], err
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	at := len(dst)
	dst = append(dst, r.Host...)
	if host, _, err := canonicalHost(dst[at:]); err != nil || string(host) != r.Host {
		return dst[:start], broken("host")
	}
	dst = append(dst, "\r\n"...)
	switch framing := RequestFraming(r); {
	case framing == Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case framing > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		dst = appendLength(dst, r.ContentLength)
	}
	if r.ContentLength != 0 && (r.Method == http.MethodConnect || r.Method == http.MethodTrace) {
		return dst[:start], broken("body-not-allowed")
	}
	var trailer http.Header
	if r.ContentLength < 0 {
		trailer = r.Trailer
	}
	for _, f := range more {
		switch {
		case len(r.Header[f.Name]) > 0:
			return dst[:start], broken("field-twice")
		case isOwn(f.Name):
			return dst[:start], broken("field-not-stripped")
		}
		if dst, err = appendField(dst, f.Name, []string{f.Value}); err != nil {
			return dst[:start], err
		}
	}
	if dst, err = appendHeader(dst, r.Header, trailer, connectionOf(r.Close, false)); err != nil {
		return dst[:start], err
	}
	return dst, nil
}

// appendTarget appends RequestURI if it is canonical.
func appendTarget(dst []byte, r *http.Request) ([]byte, error) {
	at := len(dst)
	dst = append(dst, r.RequestURI...)
	switch {
	case r.Method == http.MethodConnect:
		if host, port, err := canonicalHost(dst[at:]); err != nil || !port || string(host) != r.Host || r.RequestURI != r.Host {
			return dst, broken("target")
		}
	case r.Method == http.MethodOptions && r.RequestURI == "*":
	case len(dst) == at || dst[at] != '/':
		return dst, broken("target")
	default:
		t, err := canonicalTarget(dst[at:], Rules{AllowEncodedSlash: true, AllowEmptySegment: true})
		if err != nil || string(dst[at:at+t.end]) != r.RequestURI {
			return dst, broken("target")
		}
		if !t.plain && t.store(&url.URL{}, r.RequestURI) != nil {
			return dst, broken("target")
		}
	}
	return dst, nil
}

// AppendResponse appends the head of r, an answer to r.Request (nil: a GET of HTTP/1.1), to dst. A Date is added if there is none. The
// error is an *Error with status 500, as for AppendRequest, and for a 1xx to HTTP/1.0, which does not know them.
func AppendResponse(dst []byte, r *http.Response) ([]byte, error) {
	start := len(dst)
	if r.StatusCode < 100 || r.StatusCode > 599 {
		return dst, broken("status")
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(strconv.AppendInt(dst, int64(r.StatusCode), 10), ' ')
	reason, own := strings.CutPrefix(r.Status, string(dst[len(dst)-4:]))
	if !own {
		reason = http.StatusText(r.StatusCode)
	}
	if !isText(reason) {
		return dst[:start], broken("status")
	}
	old := r.Request != nil && r.Request.ProtoMajor == 1 && r.Request.ProtoMinor == 0
	if old && r.StatusCode < 200 {
		return dst[:start], broken("interim-to-1.0")
	}
	dst = append(append(dst, reason...), "\r\n"...)
	framing := ResponseFraming(r)
	var trailer http.Header
	switch isHead := r.Request != nil && r.Request.Method == http.MethodHead; {
	case framing == Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		trailer = r.Trailer
	case framing > 0 || statusAllowsBody(r.StatusCode) && !isTunnel(r) && r.ContentLength >= 0,
		r.StatusCode == http.StatusNotModified && r.ContentLength > 0: // 0 is what a Response has that says nothing
		dst = appendLength(dst, r.ContentLength)
	case isHead && len(r.TransferEncoding) > 0 && statusAllowsBody(r.StatusCode) && r.Request.ProtoAtLeast(1, 1):
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	if r.StatusCode >= 200 && len(r.Header["Date"]) == 0 {
		dst = append(append(append(dst, "Date: "...), dateOf(time.Now())...), "\r\n"...)
	}
	connection := connectionOf(r.Close || framing == UntilClose, old)
	dst, err := appendHeader(dst, r.Header, trailer, connection)
	if err != nil {
		return dst[:start], err
	}
	return dst, nil
}

// dated is a Date for the second it was made in: to write one costs as much as the rest of a short head.
type dated struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dated]

// dateOf is now as Date has it (RFC 9110 5.6.7).
func dateOf(now time.Time) string {
	d := lastDate.Load()
	if second := now.Unix(); d == nil || d.second != second {
		d = &dated{second, now.UTC().Format(http.TimeFormat)}
		lastDate.Store(d)
	}
	return d.text
}

func appendLength(dst []byte, n int64) []byte {
	return append(strconv.AppendInt(append(dst, "Content-Length: "...), n, 10), "\r\n"...)
}

// connectionOf is what Connection has to say about persistence.
func connectionOf(closes, old bool) string {
	switch {
	case closes:
		return "close"
	case old:
		return "keep-alive"
	}
	return ""
}

// isOwn reports whether a field is written by this package, or not at all.
func isOwn(name string) bool {
	switch name {
	case "Connection", "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Keep-Alive", "Proxy-Connection":
		return true
	}
	return false
}

// appendHeader appends the fields, those that belong to the connection, and the empty line.
func appendHeader(dst []byte, h, trailer http.Header, connection string) ([]byte, error) {
	for name, values := range h {
		if isOwn(name) {
			return dst, broken("field-not-stripped")
		}
		var err error
		if dst, err = appendField(dst, name, values); err != nil {
			return dst, err
		}
	}
	if len(trailer) > 0 {
		var err error
		if dst, err = appendAnnounced(dst, trailer); err != nil {
			return dst, err
		}
	}
	if len(h["Upgrade"]) > 0 {
		connection = joined(connection, "Upgrade")
	}
	if len(h["Te"]) > 0 {
		connection = joined(connection, "TE")
	}
	if connection != "" {
		dst = append(append(append(dst, "Connection: "...), connection...), "\r\n"...)
	}
	return append(dst, "\r\n"...), nil
}

func joined(list, token string) string {
	if list == "" {
		return token
	}
	return list + ", " + token
}

func appendField(dst []byte, name string, values []string) ([]byte, error) {
	if !isCanonicalName(name) {
		return dst, broken("field-name")
	}
	for _, value := range values {
		if !isText(value) {
			return dst, broken("field-value")
		}
		dst = append(append(dst, name...), ": "...)
		dst = append(append(dst, value...), "\r\n"...)
	}
	return dst, nil
}

// appendAnnounced appends the Trailer field.
func appendAnnounced(dst []byte, trailer http.Header) ([]byte, error) {
	separator := "Trailer: "
	for name := range trailer {
		if !isCanonicalName(name) || endToEnd(name) || notInTrailer(name) {
			return dst, broken("trailer-forbidden")
		}
		dst = append(append(dst, separator...), name...)
		separator = ", "
	}
	return append(dst, "\r\n"...), nil
}

// appendTrailer appends the last chunk and the trailer section.
func appendTrailer(dst []byte, trailer http.Header) ([]byte, error) {
	dst = append(dst, "0\r\n"...)
	for name, values := range trailer {
		if endToEnd(name) || notInTrailer(name) {
			return dst, broken("trailer-forbidden")
		}
		var err error
		if dst, err = appendField(dst, name, values); err != nil {
			return dst, err
		}
	}
	return append(dst, "\r\n"...), nil
}
