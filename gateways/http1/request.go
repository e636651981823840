package http1

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
)

// incoming is everything of one request in one allocation.
type incoming struct {
	req    http.Request
	url    url.URL
	body   body
	values [ownValues]string
}

// requestLine is where the parts of a request line are in a head, after they were brought into canonical form.
type requestLine struct {
	methodEnd int
	at        int // the target's path, or all of it
	target
	host    field // of an absolute target, or of CONNECT
	form    form
	scheme  string
	minor   int
	next    int // where the fields start
	noSlash bool
}

type form uint8

const (
	origin form = iota
	absolute
	authority
	asterisk
)

// ReadRequest reads the head of the next request. Body is never nil, and read from the connection as it is read. The error is an
// *Error when the request was refused (the connection cannot carry another one), io.EOF when the connection ended before a request, or
// what reading it returned.
//
// Host, Content-Length, Transfer-Encoding and Trailer are not in Header but in the fields of the Request. RequestURI is the
// canonical target in the form in which it is forwarded, URL the same in parts, see Path; an absolute target leaves Scheme and Host in
// URL. Trailer is filled when Body is at its end; copies of the Request share it.
func (r *Reader) ReadRequest() (*http.Request, error) {
	size, err := r.readHead()
	if err != nil {
		return nil, err
	}
	head := r.next(size)
	line, err := readRequestLine(head, r.rules)
	if err != nil {
		return nil, err
	}
	var s said
	fields, err := s.fieldsOf(head, line.next, true, &r.rules, r.buf.fields[:0])
	if err != nil {
		return nil, err
	}
	r.buf.fields = fields
	if err := s.checkRequest(&line, head); err != nil {
		return nil, err
	}
	text := string(head)
	in := &incoming{}
	req := &in.req // a literal would be built elsewhere and copied
	req.Method, req.URL, req.RequestURI = text[:line.methodEnd], &in.url, line.uri(text)
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, line.minor
	req.Host, req.Close = text[s.host.value:s.host.valueEnd], s.closes(line.minor)
	req.Header, req.Body = header(text, fields, in.values[:]), http.NoBody
	if line.minor == 0 {
		req.Proto = "HTTP/1.0"
		delete(req.Header, "Expect") // RFC 9110 10.1.1: it must be ignored
		s.expect = false
	}
	if err := line.fill(&in.url, req); err != nil {
		return nil, err
	}
	if err := in.setBody(r, &s, text); err != nil {
		return nil, err
	}
	r.r += size
	return req, nil
}

func (in *incoming) setBody(r *Reader, s *said, text string) (err error) {
	switch {
	case s.chunked:
		in.body = body{r: r, kind: chunked, status: 400, expect: s.expect}
		in.req.ContentLength, in.req.TransferEncoding = -1, chunkedOnly
		in.req.Trailer, err = announced(text[s.trailer.value:s.trailer.valueEnd])
		in.body.trailer = in.req.Trailer
	case s.length > 0:
		in.body = body{r: r, kind: byLength, left: s.length, status: 400, expect: s.expect}
		in.req.ContentLength = s.length
	case s.expect:
		return bad("expect-without-body")
	default:
		return nil
	}
	if err == nil {
		in.req.Body, r.body = &in.body, &in.body
	}
	return err
}

// chunkedOnly has no room behind it: an append makes a copy.
var chunkedOnly = []string{"chunked"}

// checkRequest checks what the fields say together, and with the request line.
func (s *said) checkRequest(line *requestLine, head []byte) error {
	if s.hosts > 1 {
		return bad("host-twice")
	}
	if s.authorizations > 1 || s.contentTypes > 1 || s.trailers > 1 {
		return bad("field-twice")
	}
	if s.hosts == 1 {
		host, _, err := canonicalHost(head[s.host.value:s.host.valueEnd])
		if err != nil {
			return err
		}
		s.host.valueEnd = s.host.value + int32(len(host))
		if line.form == absolute || line.form == authority {
			if !bytes.Equal(host, head[line.host.value:line.host.valueEnd]) {
				return bad("host-differs")
			}
		}
	} else {
		if line.minor > 0 || line.form != absolute {
			return bad("host-missing")
		}
		s.host = line.host
	}
	if err := s.framing(line.minor); err != nil {
		return err
	}
	if method := string(head[:line.methodEnd]); s.chunked || s.length > 0 {
		if method == "CONNECT" || method == "TRACE" {
			return bad("body-not-allowed")
		}
	}
	return nil
}

// readRequestLine reads the first line of a head.
func readRequestLine(head []byte, rules Rules) (line requestLine, err error) {
	end := bytes.IndexByte(head, '\n') - 1
	line.next = end + 2
	line.methodEnd = bytes.IndexByte(head[:end], ' ')
	last := bytes.LastIndexByte(head[:end], ' ')
	if line.methodEnd < 0 || last == line.methodEnd {
		return line, bad("start-line")
	}
	if line.minor, err = readVersion(head[last+1 : end]); err != nil {
		return line, err
	}
	method := head[:line.methodEnd]
	if !isToken(method) || misspelt(method) {
		return line, bad("method")
	}
	line.at = line.methodEnd + 1
	return line, line.readTarget(string(method), head[line.at:last], rules)
}

// readVersion returns the minor version of HTTP/1.
func readVersion(b []byte) (int, error) {
	switch {
	case string(b) == "HTTP/1.1":
		return 1, nil
	case string(b) == "HTTP/1.0":
		return 0, nil
	case len(b) == 8 && string(b[:5]) == "HTTP/" && unhex(b[5]) < 10 && b[6] == '.' && unhex(b[7]) < 10:
		return 0, &Error{505, "version"}
	}
	return 0, bad("start-line")
}

// misspelt reports whether method is a known one in other letters: some servers take it for that, and rules would not.
func misspelt(method []byte) bool {
	switch string(method) {
	case "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE":
		return false
	}
	switch string(bytes.ToUpper(method)) {
	case "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE":
		return true
	}
	return false
}

func (l *requestLine) readTarget(method string, b []byte, rules Rules) (err error) {
	switch {
	case method == "CONNECT":
		l.form = authority
		l.host, err = l.readHost(b, true)
		return err
	case len(b) == 1 && b[0] == '*' && method == "OPTIONS":
		l.form = asterisk
		return nil
	case len(b) > 0 && b[0] == '/':
		l.target, err = canonicalTarget(b, rules)
		return err
	}
	l.form = absolute
	switch {
	case len(b) > 7 && equalFold(b[:7], "http://"):
		l.scheme = "http"
	case len(b) > 8 && equalFold(b[:8], "https://"):
		l.scheme = "https"
	default:
		return bad("target-form")
	}
	start := len(l.scheme) + 3
	end := start
	for end < len(b) && b[end] != '/' && b[end] != '?' {
		end++
	}
	l.at += start
	if l.host, err = l.readHost(b[start:end], false); err != nil {
		return err
	}
	l.at += end - start
	l.noSlash = end == len(b) || b[end] == '?'
	if end == len(b) && method == "OPTIONS" { // RFC 9112 3.2.4
		l.noSlash = false
		return nil
	}
	l.target, err = canonicalTarget(b[end:], rules)
	return err
}

// readHost reads the host at the place of the target.
func (l *requestLine) readHost(b []byte, needsPort bool) (field, error) {
	host, port, err := canonicalHost(b)
	if err == nil && needsPort && !port {
		err = bad("host-port")
	}
	return field{value: int32(l.at), valueEnd: int32(l.at + len(host))}, err
}

// uri is the canonical request target.
func (l *requestLine) uri(text string) string {
	switch {
	case l.form == authority:
		return text[l.host.value:l.host.valueEnd]
	case l.form == asterisk || l.form == absolute && l.end == 0 && !l.noSlash:
		return "*"
	case l.noSlash:
		return "/" + text[l.at:l.at+l.end]
	}
	return text[l.at : l.at+l.end]
}

// fill sets the URL.
func (l *requestLine) fill(u *url.URL, r *http.Request) error {
	if l.form == absolute || l.form == authority {
		u.Scheme, u.Host = l.scheme, r.Host
	}
	switch {
	case l.form == authority:
		return nil
	case r.RequestURI == "*":
		u.Path = "*"
		return nil
	case l.noSlash:
		l.pathEnd++
		l.end++
	}
	return l.store(u, r.RequestURI)
}

// Check refuses what a Reader would have refused of r, which came by HTTP/2: its method and its fields. Their names are as net/http
// writes them.
func Check(r *http.Request, rules Rules) error {
	rules = rules.withDefaults()
	if !isToken(r.Method) || misspelt([]byte(r.Method)) {
		return bad("method")
	}
	if (r.Method == http.MethodConnect || r.Method == http.MethodTrace) && r.ContentLength != 0 {
		return bad("body-not-allowed")
	}
	count := 0
	for name, values := range r.Header {
		if !rules.AllowUnderscore && strings.Contains(name, "_") {
			return bad("underscore")
		}
		if !isCanonicalName(name) {
			return bad("field-name")
		}
		if count += len(values); count > rules.MaxFields {
			return &Error{431, "field-count"}
		}
		for _, value := range values {
			if !isText(value) {
				return bad("field-value")
			}
		}
		if len(values) > 1 && (name == "Authorization" || name == "Content-Type") {
			return bad("field-twice")
		}
	}
	for name := range r.Trailer {
		if !isCanonicalName(name) || endToEnd(name) || notInTrailer(name) {
			return bad("trailer-forbidden")
		}
	}
	return nil
}
