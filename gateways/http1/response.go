package http1

import (
	"bytes"
	"net/http"
	"strings"
)

// answer is everything of one response in one allocation.
type answer struct {
	resp   http.Response
	body   body
	values [ownValues]string
}

// ReadResponse reads the head of the next response to req (nil: a GET), which says what its body is. 1xx responses are returned like
// others, at most eight before the final one; after them it is called again. Body is never nil. After 101, which is refused unless
// the Upgrade in req.Header is what it switches to, and after 2xx to a CONNECT the connection goes on with Rest. The error is an
// *Error with status 502 when the response was refused, io.EOF when the connection ended before it, or what reading it returned.
//
// Content-Length, Transfer-Encoding and Trailer are not in Header but in the fields of the Response. ContentLength is -1 when it
// is not known, also of the responses that have none because they have no body (HEAD, 304). Close says that the
// connection carries no other response.
func (r *Reader) ReadResponse(req *http.Request) (*http.Response, error) {
	resp, err := r.readResponse(req)
	return resp, ofResponse(err)
}

func (r *Reader) readResponse(req *http.Request) (*http.Response, error) {
	size, err := r.readHead()
	if err != nil {
		return nil, err
	}
	head := r.next(size)
	end := bytes.IndexByte(head, '\n') - 1
	status, minor, err := readStatusLine(head[:end])
	if err != nil {
		return nil, err
	}
	var s said
	fields, err := s.fieldsOf(head, end+2, false, &r.rules, r.buf.fields[:0])
	if err != nil {
		return nil, err
	}
	r.buf.fields = fields
	if err := s.framing(minor); err != nil {
		return nil, err
	}
	if s.trailers > 1 {
		return nil, bad("field-twice")
	}
	text := string(head)
	a := &answer{}
	a.resp = http.Response{
		Status: text[len("HTTP/1.1 "):end], StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: minor,
		Header: header(text, fields, a.values[:]), Body: http.NoBody, ContentLength: s.length, Close: s.closes(minor), Request: req,
	}
	if minor == 0 {
		a.resp.Proto = "HTTP/1.0"
	}
	if err := r.countInterim(&a.resp); err != nil {
		return nil, err
	}
	if err := a.setBody(r, &s, text); err != nil {
		return nil, err
	}
	r.r += size
	return &a.resp, nil
}

// readStatusLine reads "HTTP/1.1 200 OK". The space behind the status is left out by some servers when no reason follows.
func readStatusLine(b []byte) (status, minor int, err error) {
	if len(b) < 12 || b[8] != ' ' || len(b) > 12 && b[12] != ' ' || !isText(b) {
		return 0, 0, bad("start-line")
	}
	if minor, err = readVersion(b[:8]); err != nil {
		return 0, 0, err
	}
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return 0, 0, bad("status")
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 {
		return 0, 0, bad("status")
	}
	return status, minor, nil
}

// countInterim bounds the 1xx responses, and lets 101 pass only where it was asked for.
func (r *Reader) countInterim(resp *http.Response) error {
	switch {
	case resp.StatusCode >= 200:
		r.interim = 0
		return nil
	case resp.ProtoMinor == 0:
		return bad("interim-in-1.0")
	case resp.StatusCode == http.StatusSwitchingProtocols:
		asked := ""
		if resp.Request != nil {
			asked = resp.Request.Header.Get("Upgrade")
		}
		to := resp.Header["Upgrade"]
		if asked == "" || len(to) != 1 || !equalFold(to[0], strings.ToLower(asked)) {
			return bad("upgrade-not-asked-for")
		}
		return nil
	}
	if r.interim++; r.interim > maxInterim {
		return bad("interim-count")
	}
	return nil
}

// setBody decides what the body is (RFC 9112 6.3).
func (a *answer) setBody(r *Reader, s *said, text string) (err error) {
	resp := &a.resp
	switch {
	case !statusAllowsBody(resp.StatusCode) && resp.StatusCode != http.StatusNotModified:
		if s.chunked || s.length > 0 { // an octet of a body would be taken for the next response
			return bad("body-not-allowed")
		}
		resp.ContentLength = 0
		return nil
	case isTunnel(resp):
		resp.ContentLength = 0
		return nil
	case resp.StatusCode == http.StatusNotModified || resp.Request != nil && resp.Request.Method == http.MethodHead:
		if s.chunked {
			resp.TransferEncoding = chunkedOnly
		}
		return nil
	case s.chunked:
		a.body = body{r: r, kind: chunked, status: 502}
		resp.TransferEncoding = chunkedOnly
		resp.Trailer, err = announced(text[s.trailer.value:s.trailer.valueEnd])
		a.body.trailer = resp.Trailer
	case s.length == 0:
		return nil
	case s.length > 0:
		a.body = body{r: r, kind: byLength, left: s.length, status: 502}
	default:
		a.body = body{r: r, kind: untilClose, status: 502}
		resp.Close = true
	}
	if err == nil {
		resp.Body, r.body = &a.body, &a.body
	}
	return err
}

// statusAllowsBody reports whether responses with this status can have a body.
func statusAllowsBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// isTunnel reports whether the connection is a tunnel after this response.
func isTunnel(r *http.Response) bool {
	return r.Request != nil && r.Request.Method == http.MethodConnect && r.StatusCode/100 == 2
}
