package ingress

import (
	"bytes"
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

const (
	// minCompressed is what is worth it: less fits into a packet or two anyway.
	minCompressed = 1 << 10

	// readAtOnce is how much of an instance's body is read before it is compressed, and about what is sent at once.
	readAtOnce = 16 << 10

	// maxCompressed is how many responses are compressed at once: a compressor holds 800 KiB for as long as its caller takes. The others
	// are sent as they are.
	maxCompressed = 256
)

// compressible are types that compression makes smaller, beside all of text and what ends in +json, +xml or +text. What already is
// compressed (pictures, fonts, archives) is not among them.
var compressible = []string{"application/json", "application/javascript", "application/x-javascript", "application/xml", "application/ecmascript",
	"application/wasm", "application/manifest+json", "application/x-ndjson", "application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/bmp"}

// compress has res sent by gzip if the caller takes it and that may be done and is worth it.
func (s *Server) compress(res *http.Response, takes bool) {
	if !mayCompress(res) {
		return
	}
	vary(res.Header, "Accept-Encoding")
	if !takes || res.Body == nil || res.Body == http.NoBody {
		return
	}
	if s.compressing.Add(1) > maxCompressed {
		s.compressing.Add(-1)
		return
	}
	res.Header["Content-Encoding"] = []string{"gzip"}
	delete(res.Header, "Content-Length")
	delete(res.Header, "Accept-Ranges") // they count octets of something else
	for i, tag := range res.Header["Etag"] {
		if strings.HasPrefix(tag, `"`) {
			res.Header["Etag"] = slices.Clone(res.Header["Etag"])
			res.Header["Etag"][i] = "W/" + tag // not octet by octet the same (RFC 9110 8.8.1)
		}
	}
	res.Body, res.ContentLength = &compressed{from: res.Body, done: func() { s.compressing.Add(-1) }}, -1
}

func mayCompress(res *http.Response) bool {
	h := res.Header
	switch {
	case res.StatusCode < 200, res.StatusCode == http.StatusNoContent, res.StatusCode == http.StatusPartialContent,
		res.StatusCode == http.StatusNotModified, res.ContentLength >= 0 && res.ContentLength < minCompressed:
		return false
	case len(h["Content-Encoding"]) > 0, len(h["Content-Range"]) > 0, lists(h["Cache-Control"], "no-transform"):
		return false
	case len(h["Content-Digest"])+len(h["Repr-Digest"])+len(h["Digest"])+len(h["Content-Md5"]) > 0: // they would not be true any more
		return false
	case len(h["Content-Type"]) != 1:
		return false
	}
	kind, _, err := mime.ParseMediaType(h["Content-Type"][0])
	switch {
	case err != nil, kind == "text/event-stream", strings.HasPrefix(kind, "application/grpc"):
		return false
	case strings.HasPrefix(kind, "text/"), strings.HasSuffix(kind, "+json"), strings.HasSuffix(kind, "+xml"), strings.HasSuffix(kind, "+text"):
		return true
	}
	return slices.Contains(compressible, kind)
}

// lists reports whether a field that is a list of directives holds one.
func lists(lines []string, directive string) bool {
	for _, line := range lines {
		for d := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(d), directive) {
				return true
			}
		}
	}
	return false
}

// takesGzip reports whether the caller says that it understands gzip (RFC 9110 12.5.3). By "*" alone it says nothing of the kind: who
// writes that has mostly not thought of it.
func takesGzip(h http.Header) bool {
	for _, line := range h["Accept-Encoding"] {
		for entry := range strings.SplitSeq(line, ",") {
			coding, weight, weighed := strings.Cut(entry, ";")
			if coding = strings.TrimSpace(coding); !strings.EqualFold(coding, "gzip") && !strings.EqualFold(coding, "x-gzip") {
				continue
			}
			if !weighed {
				return true
			}
			name, value, _ := strings.Cut(strings.TrimSpace(weight), "=")
			q, err := strconv.ParseFloat(value, 64)
			return strings.EqualFold(name, "q") && err == nil && q > 0
		}
	}
	return false
}

// writers are compressors, which are borrowed for the length of a response.
var writers = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

// compressed is a body by gzip. It is read by one goroutine.
type compressed struct {
	from io.ReadCloser
	to   *gzip.Writer // nil: not begun, or over
	out  bytes.Buffer // what has not been read yet
	in   []byte
	end  error  // of from
	done func() // called once; nil: it has been
}

// Read implements io.Reader. What the instance has sent so far can be read at once, so that what it sends bit by bit arrives so.
func (c *compressed) Read(p []byte) (int, error) {
	for c.out.Len() == 0 && c.end == nil {
		c.step()
	}
	if c.out.Len() > 0 {
		return c.out.Read(p)
	}
	return 0, c.end
}

// step compresses what one read of the instance's body gives.
func (c *compressed) step() {
	if c.in == nil {
		c.in = make([]byte, readAtOnce)
		c.to = writers.Get().(*gzip.Writer)
		c.to.Reset(&c.out)
	}
	n, err := c.from.Read(c.in)
	if n > 0 {
		_, _ = c.to.Write(c.in[:n]) // into a buffer: cannot fail
	}
	switch source, ok := c.from.(http1.Source); {
	case err == io.EOF:
		_ = c.to.Close()
	case err == nil && (!ok || !source.Ready()): // nothing more for now
		_ = c.to.Flush()
	}
	if c.end = err; err != nil {
		c.giveBack()
	}
}

func (c *compressed) giveBack() {
	if c.to != nil {
		c.to.Reset(io.Discard)
		writers.Put(c.to)
		c.to = nil
	}
}

// Close implements io.Closer.
func (c *compressed) Close() error {
	c.end = http.ErrBodyReadAfterClose
	c.out.Reset()
	c.giveBack()
	if c.done != nil {
		c.done()
		c.done = nil
	}
	return c.from.Close()
}
