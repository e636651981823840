package http1

import (
	"bytes"
	"math"
	"net/http"
)

// field is where a field is in a head.
type field struct{ name, nameEnd, value, valueEnd int32 }

// said is what the fields say about the message itself. These fields are the package's business: they do not get into the
// Header, but for Connection, Expect and Upgrade.
type said struct {
	host           field
	length         int64 // Content-Length; -1: there is none
	trailer        field
	hosts          int
	codings        int  // Transfer-Encoding fields
	chunked        bool // the only one says so
	close          bool // Connection: close
	keepAlive      bool // Connection: keep-alive
	expect         bool // Expect: 100-continue
	authorizations int
	contentTypes   int
	trailers       int
}

// fieldsOf reads the fields in head[at:], which ends with an empty line, brings their names into canonical form in place and
// appends those that get into the Header to fields.
func (s *said) fieldsOf(head []byte, at int, request bool, rules *Rules, fields []field) ([]field, error) {
	s.length = -1
	count := 0
	for head[at] != '\r' {
		end := at + bytes.IndexByte(head[at:], '\n') - 1 // readHead saw CRLF at the end of every line
		f, err := readField(head, at, end, request && !rules.AllowUnderscore)
		if err != nil {
			return nil, err
		}
		if count++; count > rules.MaxFields {
			return nil, &Error{431, "field-count"}
		}
		keep, err := s.take(head, f, request)
		if err != nil {
			return nil, err
		}
		if keep {
			fields = append(fields, f)
		}
		at = end + 2
	}
	if head[at+1] != '\n' {
		return nil, bad("bare-cr")
	}
	return fields, nil
}

// readField reads the field in b[at:end].
func readField(b []byte, at, end int, strictName bool) (field, error) {
	i, place := at, wordStart
	for ; i < end; i++ {
		c := canonical[place][b[i]]
		if c == 0 {
			break
		}
		b[i], place = c, inWord
		if c == '-' {
			place = wordStart
		}
		if c == '_' && strictName {
			return field{}, bad("underscore")
		}
	}
	switch {
	case i == end:
		return field{}, bad("field-without-colon")
	case i == at && (b[i] == ' ' || b[i] == '\t'):
		return field{}, bad("obs-fold")
	case b[i] == ' ' || b[i] == '\t':
		return field{}, bad("space-before-colon")
	case i == at || b[i] != ':':
		return field{}, bad("field-name")
	}
	v, vEnd := trim(b, i+1, end)
	if !isText(b[v:vEnd]) {
		return field{}, bad("field-value")
	}
	return field{int32(at), int32(i), int32(v), int32(vEnd)}, nil
}

// take learns what f says, and reports whether it belongs into the Header.
func (s *said) take(head []byte, f field, request bool) (keep bool, err error) {
	value := head[f.value:f.valueEnd]
	switch string(head[f.name:f.nameEnd]) {
	case "Host":
		if request {
			s.hosts++
			s.host = f
			return false, nil
		}
	case "Content-Length":
		if s.length >= 0 {
			return false, bad("content-length-twice")
		}
		s.length, err = parseLength(value)
		return false, err
	case "Transfer-Encoding":
		s.codings++
		s.chunked = equalFold(value, "chunked")
		return false, nil
	case "Trailer":
		s.trailers++
		s.trailer = f
		return false, nil
	case "Connection":
		return true, s.connection(value)
	case "Expect":
		if !request {
			return true, nil
		}
		if s.expect || !equalFold(value, "100-continue") {
			return false, &Error{417, "expect"}
		}
		s.expect = true
	case "Authorization":
		s.authorizations++
	case "Content-Type":
		s.contentTypes++
	}
	return true, nil
}

// connection reads the value of a Connection field.
func (s *said) connection(value []byte) error {
	for token := range bytes.SplitSeq(value, []byte{','}) {
		from, to := trim(token, 0, len(token))
		token = token[from:to]
		switch {
		case len(token) == 0:
		case equalFold(token, "close"):
			s.close = true
		case equalFold(token, "keep-alive"):
			s.keepAlive = true
		case equalFold(token, "upgrade"):
		case !isToken(token):
			return bad("connection-token")
		case endToEnd(http.CanonicalHeaderKey(string(token))):
			return bad("connection-names-protected")
		}
	}
	return nil
}

// framing checks what was said about the body, for a message of HTTP/1.minor.
func (s *said) framing(minor int) error {
	switch {
	case s.codings == 0:
		return nil
	case s.length >= 0:
		return bad("length-and-coding")
	case s.codings > 1:
		return bad("transfer-coding-twice")
	case minor == 0:
		return bad("transfer-coding-in-1.0")
	case !s.chunked:
		return &Error{501, "transfer-coding"}
	}
	return nil
}

// closes reports whether the connection ends after a message of HTTP/1.minor (RFC 9112 9.3).
func (s *said) closes(minor int) bool { return s.close || minor == 0 && !s.keepAlive }

// parseLength reads a Content-Length: digits, and nothing that another parser could read otherwise.
func parseLength(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 1 && b[0] == '0' {
		return 0, bad("content-length")
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' || n > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, bad("content-length")
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// ownValues is how many values have their place in the one allocation of a message.
const ownValues = 12

// header makes the Header of the fields, with names and values cut from head. It uses space for the values if that is enough.
func header(head string, fields []field, space []string) http.Header {
	if len(space) < len(fields) {
		space = make([]string, len(fields))
	}
	h := make(http.Header, len(fields))
	seen := uint64(0) // most names differ in length or in a letter of these two: looking them up is a tenth of the whole time
	for i, f := range fields {
		name := head[f.name:f.nameEnd]
		space[i] = head[f.value:f.valueEnd]
		bit := uint64(1) << ((len(name)*5 + int(name[0]) + int(name[len(name)-1])*3) & 63)
		if seen&bit != 0 {
			if before, twice := h[name]; twice {
				h[name] = append(before, space[i])
				continue
			}
		}
		seen |= bit
		h[name] = space[i : i+1 : i+1]
	}
	return h
}

// announced makes the Trailer of a chunked message: a key for each name that it announces.
func announced(names string) (http.Header, error) {
	h := http.Header{}
	for _, name := range bytes.Split([]byte(names), []byte{','}) {
		from, to := trim(name, 0, len(name))
		if from == to {
			continue
		}
		if !isToken(name[from:to]) {
			return nil, bad("trailer-name")
		}
		key := http.CanonicalHeaderKey(string(name[from:to]))
		if endToEnd(key) || notInTrailer(key) {
			return nil, bad("trailer-forbidden")
		}
		h[key] = nil
	}
	return h, nil
}
