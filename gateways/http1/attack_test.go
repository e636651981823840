package http1

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

const get = "GET / HTTP/1.1\r\nHost: example.com\r\n"
const post = "POST / HTTP/1.1\r\nHost: example.com\r\n"
const chunks = post + "Transfer-Encoding: chunked\r\n\r\n"

func getting(t string) string { return "GET " + t + " HTTP/1.1\r\nHost: example.com\r\n\r\n" }

// readAll reads one request with its body.
func readAll(raw string, rules Rules) (*http.Request, string, error) {
	req, err := NewReader(strings.NewReader(raw), rules).ReadRequest()
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(req.Body)
	return req, string(b), err
}

// attacks are named by the vulnerability where one is known that this form made use of.
var attacks = []struct {
	name, raw string
	status    int
	reason    string
}{
	// Framing: two lengths, or one that can be read in two ways.
	{"CL.TE CVE-2019-20445", post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", 400, "length-and-coding"},
	{"TE.CL", post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n", 400, "length-and-coding"},
	{"TE.0", post + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400, "length-and-coding"},
	{"CL.CL differing", post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "content-length-twice"},
	{"CL.CL equal", post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, "content-length-twice"},
	{"CL list", post + "Content-Length: 1, 1\r\n\r\na", 400, "content-length"},
	{"CL plus sign CVE-2021-32715", post + "Content-Length: +1\r\n\r\na", 400, "content-length"},
	{"CL minus sign", post + "Content-Length: -1\r\n\r\na", 400, "content-length"},
	{"CL hexadecimal", post + "Content-Length: 0x1\r\n\r\na", 400, "content-length"},
	{"CL octal", post + "Content-Length: 010\r\n\r\na", 400, "content-length"},
	{"CL underscore", post + "Content-Length: 1_0\r\n\r\na", 400, "content-length"},
	{"CL empty", post + "Content-Length:\r\n\r\na", 400, "content-length"},
	{"CL inner space", post + "Content-Length: 1 0\r\n\r\na", 400, "content-length"},
	{"CL overflow", post + "Content-Length: 9223372036854775808\r\n\r\na", 400, "content-length"},
	{"CL overflow to 1", post + "Content-Length: 18446744073709551617\r\n\r\na", 400, "content-length"},
	{"CL other digits", post + "Content-Length: \u0661\r\n\r\na", 400, "content-length"},
	{"TE.TE twice CVE-2020-8287", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
		"transfer-coding-twice"},
	{"TE.TE identity", post + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "transfer-coding-twice"},
	{"TE identity", post + "Transfer-Encoding: identity\r\n\r\n", 501, "transfer-coding"},
	{"TE list CVE-2022-32213", post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE xchunked CVE-2022-1705", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE quoted", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE with parameter", post + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE trailing comma", post + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE empty", post + "Transfer-Encoding:\r\n\r\n", 501, "transfer-coding"},
	{"TE Kelvin sign", post + "Transfer-Encoding: chun\u212aed\r\n\r\n0\r\n\r\n", 501, "transfer-coding"},
	{"TE vertical tab CVE-2019-18277", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "field-value"},
	{"TE NUL", post + "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n", 400, "field-value"},
	{"TE bare CR", post + "Transfer-Encoding: chunked\r\r\n\r\n0\r\n\r\n", 400, "field-value"},
	{"TE space before colon CVE-2019-16276 CVE-2019-16869", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, "space-before-colon"},
	{"TE tab before colon", post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400, "space-before-colon"},
	{"TE folded CVE-2022-32215", post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, "obs-fold"},
	{"TE behind bare LF CVE-2022-32214", post + "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bare-lf"},
	{"TE behind bare CR CVE-2023-30589", post + "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "field-value"},
	{"TE behind space CVE-2020-7238", post + " Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\na", 400, "obs-fold"},
	{"TE underscore", post + "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "underscore"},
	{"TE in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "transfer-coding-in-1.0"},
	{"CL in CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc", 400, "body-not-allowed"},
	{"CL in TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400, "body-not-allowed"},
	{"0.CL Expect obfuscated", post + "Content-Length: 1\r\nExpect: y 100-continue\r\n\r\na", 417, "expect"},
	{"0.CL Expect twice", post + "Content-Length: 1\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\na", 417, "expect"},
	{"0.CL Expect without body", get + "Expect: 100-continue\r\n\r\n", 400, "expect-without-body"},

	// Chunks.
	{"chunk line bare LF CVE-2025-22871", chunks + "1\na\r\n0\r\n\r\n", 400, "chunk-bare-lf"},
	{"chunk extension bare LF (TERM.EXT)", chunks + "1;\na\r\n0\r\n\r\n", 400, "chunk-bare-lf"},
	{"chunk extension bare CR (EXT.TERM)", chunks + "1;\rx\r\na\r\n0\r\n\r\n", 400, "chunk-extension"},
	{"chunk end bare LF", chunks + "1\r\na\n0\r\n\r\n", 400, "chunk-end"},
	{"chunk end CR only", chunks + "1\r\na\r0\r\n\r\n", 400, "chunk-end"},
	{"chunk end missing (SPILL.TERM)", chunks + "1\r\nab\r\n0\r\n\r\n", 400, "chunk-end"},
	{"last chunk bare LF", chunks + "0\n\n", 400, "chunk-bare-lf"},
	{"trailer section bare LF", chunks + "0\r\n\n", 400, "chunk-bare-lf"},
	{"chunk size overflow CVE-2021-32714", chunks + "10000000000000001\r\na\r\n", 400, "chunk-size"},
	{"chunk size negative CVE-2013-2028", chunks + "ffffffffffffffff\r\na\r\n", 400, "chunk-size"},
	{"chunk size minus", chunks + "-1\r\na\r\n", 400, "chunk-size"},
	{"chunk size plus", chunks + "+1\r\na\r\n", 400, "chunk-size"},
	{"chunk size 0x", chunks + "0x1\r\na\r\n", 400, "chunk-size"},
	{"chunk size underscore", chunks + "1_0\r\na\r\n", 400, "chunk-size"},
	{"chunk size leading space", chunks + " 1\r\na\r\n0\r\n\r\n", 400, "chunk-size"},
	{"chunk size trailing space", chunks + "1 \r\na\r\n0\r\n\r\n", 400, "chunk-size"},
	{"chunk size empty", chunks + "\r\na\r\n", 400, "chunk-size"},
	{"chunk size only extension", chunks + ";a\r\na\r\n", 400, "chunk-size"},
	{"chunk size NUL", chunks + "1\x00\r\na\r\n", 400, "chunk-size"},
	{"chunk size many zeros", chunks + strings.Repeat("0", 17) + "1\r\na\r\n", 400, "chunk-size"},
	{"chunk extension long CVE-2023-39326", chunks + "1;" + strings.Repeat("x", 256) + "\r\na\r\n", 400, "chunk-extension"},
	{"chunk line without end", chunks + "1;" + strings.Repeat("x", 600), 400, "chunk-line-length"},
	{"chunk extensions many CVE-2023-39326", chunks + strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\na\r\n", 50), 400, "chunk-extension"},
	{"trailer TE", chunks + "0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "trailer-forbidden"},
	{"trailer CL", chunks + "0\r\nContent-Length: 5\r\n\r\n", 400, "trailer-forbidden"},
	{"trailer Host", chunks + "0\r\nHost: b\r\n\r\n", 400, "trailer-forbidden"},
	{"trailer Authorization", chunks + "0\r\nauthorization: x\r\n\r\n", 400, "trailer-forbidden"},
	{"trailer X-Forwarded-For", chunks + "0\r\nX-Forwarded-For: x\r\n\r\n", 400, "trailer-forbidden"},
	{"trailer underscore", chunks + "0\r\ncontent_length: 5\r\n\r\n", 400, "underscore"},
	{"trailer folded", chunks + "0\r\nA: b\r\n c\r\n\r\n", 400, "obs-fold"},
	{"trailer long", chunks + "0\r\nA: " + strings.Repeat("x", maxTrailer) + "\r\n\r\n", 400, "trailer-length"},
	{"trailer many", chunks + "0\r\n" + strings.Repeat("A: b\r\n", 129) + "\r\n", 431, "field-count"},
	{"trailer announces CL", post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n", 400, "trailer-forbidden"},

	// Lines and fields.
	{"bare LF in head", "GET / HTTP/1.1\nHost: example.com\n\n", 400, "bare-lf"},
	{"bare LF ends head", get + "\n", 400, "bare-lf"},
	{"bare CR line", get + "\rA: b\r\n\r\n", 400, "bare-cr"},
	{"empty line first", "\r\n" + get + "\r\n", 400, "start-line"},
	{"space first", " " + get + "\r\n", 400, "start-line"},
	{"TLS to a plain port", "\x16\x03\x01\x02\x00", 400, "start-line"},
	{"first field folded", "GET / HTTP/1.1\r\n Host: example.com\r\n\r\n", 400, "obs-fold"},
	{"field name empty", get + ": x\r\n\r\n", 400, "field-name"},
	{"field name NUL", get + "A\x00: x\r\n\r\n", 400, "field-name"},
	{"field name not ASCII", get + "H\u00f6st: x\r\n\r\n", 400, "field-name"},
	{"field name parenthesis", get + "A(b): x\r\n\r\n", 400, "field-name"},
	{"field without colon CVE-2019-20444", get + "Transfer-Encoding\r\n\r\n", 400, "field-without-colon"},
	{"field name with CR CVE-2020-8201", get + "Host\r: b\r\n\r\n", 400, "field-name"},
	{"field value NUL", get + "A: b\x00c\r\n\r\n", 400, "field-value"},
	{"field value CR", get + "A: b\rc\r\n\r\n", 400, "field-value"},
	{"field value DEL", get + "A: b\x7f\r\n\r\n", 400, "field-value"},
	{"field value ESC in logs", get + "A: a long value with \x1b[2J\r\n\r\n", 400, "field-value"},
	{"underscore for a proxy's field", get + "X_Forwarded_For: 127.0.0.1\r\n\r\n", 400, "underscore"},
	{"Authorization twice", get + "Authorization: a\r\nAuthorization: b\r\n\r\n", 400, "field-twice"},
	{"Content-Type twice", get + "Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", 400, "field-twice"},
	{"Connection strips X-Forwarded-For CVE-2022-31813 CVE-2021-33197",
		get + "Connection: close, X-Forwarded-For\r\n\r\n", 400, "connection-names-protected"},
	{"Connection strips Authorization", get + "Connection: authorization\r\n\r\n", 400, "connection-names-protected"},
	{"Connection strips Content-Length", post + "Connection: Content-Length\r\nContent-Length: 1\r\n\r\na", 400, "connection-names-protected"},
	{"Connection strips Transfer-Encoding", get + "Connection: transfer-encoding\r\n\r\n", 400, "connection-names-protected"},
	{"Connection strips Host", get + "Connection: Host\r\n\r\n", 400, "connection-names-protected"},
	{"Connection not a token", get + "Connection: a b\r\n\r\n", 400, "connection-token"},

	// The request line.
	{"method lower case", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"},
	{"method mixed case", "Post / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"},
	{"method not a token", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "method"},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target-form"},
	{"space in target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target-character"},
	{"tab as space", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, "start-line"},
	{"HTTP/0.9", "GET /\r\nHost: a\r\n\r\n", 400, "start-line"},
	{"version of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"},
	{"version 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "version"},
	{"version lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", 400, "start-line"},
	{"version digits", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, "start-line"},
	{"space behind version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "start-line"},
	{"start line long", "GET /" + strings.Repeat("a", 16<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, "start-line-length"},
	{"start line without end", "GET /" + strings.Repeat("a", 17<<10), 414, "start-line-length"},
	{"head long", get + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 66) + "\r\n", 431, "head-length"},
	{"head without end", get + "A: " + strings.Repeat("b", 65<<10), 431, "head-length"},
	{"fields many", get + strings.Repeat("A: b\r\n", 128) + "\r\n", 431, "field-count"},

	// Host.
	{"Host missing", "GET / HTTP/1.1\r\n\r\n", 400, "host-missing"},
	{"Host missing in 1.0", "GET / HTTP/1.0\r\n\r\n", 400, "host-missing"},
	{"Host twice", get + "Host: example.com\r\n\r\n", 400, "host-twice"},
	{"Host twice, cases", get + "hOST: other.example.com\r\n\r\n", 400, "host-twice"},
	{"Host empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "host"},
	{"Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "host"},
	{"Host user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, "host"},
	{"Host path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "host"},
	{"Host escape", "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", 400, "host"},
	{"Host port word", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, "host-port"},
	{"Host port range", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400, "host-port"},
	{"Host port empty", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400, "host-port"},
	{"Host two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400, "host-port"},
	{"Host zone CVE-2025-22870", "GET / HTTP/1.1\r\nHost: [fe80::1%25a]\r\n\r\n", 400, "host"},
	{"Host bracket open", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "host"},
	{"Host IPv4 in brackets CVE-2025-47912", "GET / HTTP/1.1\r\nHost: [127.0.0.1]\r\n\r\n", 400, "host"},
	{"Host IPv6 behind a name CVE-2026-25679", "GET / HTTP/1.1\r\nHost: a[::1]\r\n\r\n", 400, "host-port"},
	{"Host behind IPv6 CVE-2026-25679", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", 400, "host-port"},
	{"Host dots", "GET / HTTP/1.1\r\nHost: a..\r\n\r\n", 400, "host"},
	{"Host long", "GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 300) + "\r\n\r\n", 400, "host"},
	{"absolute target differs from Host", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, "host-differs"},
	{"absolute target differs in port", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-differs"},
	{"absolute target with user", "GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host"},
	{"absolute target, backslash in host", "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host"},
	{"absolute target, other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target-form"},
	{"absolute target without host", "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host"},
	{"CONNECT without port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-port"},
	{"CONNECT differs from Host", "CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", 400, "host-differs"},
	{"CONNECT to a path", "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host"},
	{"asterisk for GET", getting("*"), 400, "target-form"},
	{"relative target", getting("a"), 400, "target-form"},

	// The path.
	{"%2F CVE-2021-29492 CVE-2021-31920", getting("/a%2fb"), 400, "encoded-slash"},
	{"%5C CVE-2021-29492", getting("/a%5cb"), 400, "encoded-slash"},
	{"backslash", getting("/a\\b"), 400, "backslash"},
	{"%00", getting("/a%00"), 400, "encoded-control"},
	{"%0d%0a", getting("/a%0d%0aSet-Cookie:x"), 400, "encoded-control"},
	{"%7f", getting("/%7f"), 400, "encoded-control"},
	{"dot segment", getting("/a/../b"), 400, "dot-segment"},
	{"dot segment at the end", getting("/a/.."), 400, "dot-segment"},
	{"single dot segment", getting("/./a"), 400, "dot-segment"},
	{"dot segment encoded CVE-2021-41773", getting("/a/.%2e/b"), 400, "dot-segment"},
	{"dot segment all encoded", getting("/%2E%2e"), 400, "dot-segment"},
	{"dot segment with parameter CVE-2020-5902", getting("/a/..;x=1/b"), 400, "dot-segment"},
	{"dot segment encoded with parameter", getting("/a/%2e%2e;/b"), 400, "dot-segment"},
	{"dot segment before query", getting("/a/..?b"), 400, "dot-segment"},
	{"overlong slash CVE-2008-2938", getting("/..%c0%af"), 400, "path-utf8"},
	{"overlong dots CVE-2008-2938", getting("/%c0%ae%c0%ae/"), 400, "path-utf8"},
	{"not UTF-8", getting("/%ff"), 400, "path-utf8"},
	{"two slashes CVE-2021-31920", getting("/a//b"), 400, "empty-segment"},
	{"two slashes first", getting("//b"), 400, "empty-segment"},
	{"fragment CVE-2021-32779 CVE-2021-39156", getting("/a#b"), 400, "fragment"},
	{"fragment behind query", getting("/a?b#c"), 400, "fragment"},
	{"escape cut", getting("/%2"), 400, "escape"},
	{"escape wrong", getting("/%zz"), 400, "escape"},
	{"escape IIS", getting("/%u002f"), 400, "escape"},
	{"escape wrong in query", getting("/?a=%"), 400, "escape"},
	{"not ASCII", getting("/\u00e9"), 400, "target-character"},
	{"NUL", getting("/\x00"), 400, "target-character"},
	{"quote", getting("/\""), 400, "target-character"},
	{"control in query", getting("/?a\x01"), 400, "target-character"},
}

func TestAttacksAreRefused(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			req, body, err := readAll(a.raw, Rules{})
			var refused *Error
			if !errors.As(err, &refused) || refused.Status != a.status || refused.Reason != a.reason {
				t.Errorf("%v, want %d %s\n%+v %q", err, a.status, a.reason, req, body)
			}
		})
	}
}

// What is cut off is no message, however far it came.
func TestCutOffIsNoEnd(t *testing.T) {
	for _, raw := range []string{chunks + "5\r\nhello\r\n0\r\nA: b\r\n\r\n", post + "Content-Length: 5\r\n\r\nhello"} {
		for cut := 1; cut < len(raw); cut++ {
			if _, _, err := readAll(raw[:cut], Rules{}); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: %v", raw[:cut], err)
			}
		}
	}
	if _, _, err := readAll("", Rules{}); err != io.EOF {
		t.Error(err)
	}
}

var hostileAnswers = []struct{ name, method, raw, reason string }{
	{"response splitting", "GET", "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "bare-lf"},
	{"CL and TE", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "length-and-coding"},
	{"CL twice", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "content-length-twice"},
	{"TE gzip", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer-coding"},
	{"TE in 1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-coding-in-1.0"},
	{"body of 204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "body-not-allowed"},
	{"chunks of 204", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "body-not-allowed"},
	{"body of 100", "GET", "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello", "body-not-allowed"},
	{"100 in 1.0", "GET", "HTTP/1.0 100 Continue\r\n\r\n", "interim-in-1.0"},
	{"101 not asked for", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "upgrade-not-asked-for"},
	{"1xx without end", "GET", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9), "interim-count"},
	{"status of two digits", "GET", "HTTP/1.1 20 OK\r\n\r\n", "start-line"},
	{"status of four digits", "GET", "HTTP/1.1 2000 OK\r\n\r\n", "start-line"},
	{"status signed", "GET", "HTTP/1.1 +20 OK\r\n\r\n", "status"},
	{"status 600", "GET", "HTTP/1.1 600 OK\r\n\r\n", "status"},
	{"status 099", "GET", "HTTP/1.1 099 OK\r\n\r\n", "status"},
	{"version 2", "GET", "HTTP/2.0 200 OK\r\n\r\n", "version"},
	{"ICY", "GET", "ICY 200 OK\r\n\r\n", "start-line"},
	{"reason with CR", "GET", "HTTP/1.1 200 O\rK\r\n\r\n", "start-line"},
	{"folded", "GET", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "obs-fold"},
	{"empty line first", "GET", "\r\nHTTP/1.1 200 OK\r\n\r\n", "start-line"},
	{"Connection strips Set-Cookie", "GET", "HTTP/1.1 200 OK\r\nConnection: Set-Cookie\r\n\r\n", "connection-names-protected"},
	{"chunk of bare LF", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n", "chunk-bare-lf"},
	{"trailer Set-Cookie", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a\r\n\r\n", "trailer-forbidden"},
}

func TestHostileAnswersAreRefused(t *testing.T) {
	for _, a := range hostileAnswers {
		t.Run(a.name, func(t *testing.T) {
			r, req := NewReader(strings.NewReader(a.raw), Rules{}), &http.Request{Method: a.method}
			resp, err := r.ReadResponse(req)
			for err == nil && resp.StatusCode < 200 {
				resp, err = r.ReadResponse(req)
			}
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			var refused *Error
			if !errors.As(err, &refused) || refused.Status != 502 || refused.Reason != a.reason {
				t.Errorf("%v, want %s", err, a.reason)
			}
		})
	}
}
