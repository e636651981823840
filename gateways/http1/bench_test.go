package http1

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
)

const typicalRequest = "GET /api/v1/orders/4711?expand=items&limit=50 HTTP/1.1\r\nHost: orders.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: application/json\r\nAccept-Encoding: gzip, br\r\n" +
	"Authorization: Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0\r\n" +
	"X-Request-Id: 0af7651916cd43dd8448eb211c80319c\r\n" +
	"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nCookie: session=8c2f3c1b; theme=dark\r\n\r\n"

const typicalResponse = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n" +
	"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" +
	"Cache-Control: no-store\r\nServer: example\r\nVary: Accept-Encoding\r\nX-Request-Id: 0af7651916cd43dd8448eb211c80319c\r\n" +
	"Etag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\n\r\n{}"

// again returns the same message whenever it is read.
type again string

func (a again) Read(p []byte) (int, error) { return copy(p, a), nil }

func BenchmarkReadRequest(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(typicalRequest)))
	r := NewReader(again(typicalRequest), Rules{})
	for b.Loop() {
		if _, err := r.ReadRequest(); err != nil {
			b.Fatal(err)
		}
	}
}

// Fourteen fields do not fit the smallest map.
func BenchmarkReadRequestOfBrowser(b *testing.B) {
	b.ReportAllocs()
	more := "Cache-Control: no-cache\r\nPragma: no-cache\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n" +
		"Accept-Language: en\r\nReferer: https://www.example.com/\r\n\r\n"
	r := NewReader(again(typicalRequest[:len(typicalRequest)-2]+more), Rules{})
	for b.Loop() {
		if _, err := r.ReadRequest(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadRequestNetHTTP(b *testing.B) {
	b.ReportAllocs()
	r := bufio.NewReader(again(typicalRequest))
	for b.Loop() {
		if _, err := http.ReadRequest(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadResponse(b *testing.B) {
	b.ReportAllocs()
	var body [8]byte
	r := NewReader(again(typicalResponse), Rules{})
	for b.Loop() {
		resp, err := r.ReadResponse(nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := resp.Body.Read(body[:]); err != io.EOF {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	b.ReportAllocs()
	req, err := NewReader(strings.NewReader(typicalRequest), Rules{}).ReadRequest()
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	for b.Loop() {
		if dst, err = AppendRequest(dst[:0], req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	b.ReportAllocs()
	resp, err := NewReader(strings.NewReader(typicalResponse), Rules{}).ReadResponse(nil)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var dst []byte
	for b.Loop() {
		if dst, err = AppendResponse(dst[:0], resp); err != nil {
			b.Fatal(err)
		}
	}
}
