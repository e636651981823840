package poll

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Client returns a client of an API over transport. It reads at most so many bytes of an answer, and follows nobody elsewhere: the
// credentials would go along.
func Client(transport http.RoundTripper, most int64) *http.Client {
	return &http.Client{
		Transport:     bounding{transport, most},
		Timeout:       30 * time.Second, // a full page takes seconds; a peer that needs longer has gone
		CheckRedirect: stay,
	}
}

// MaxMetadata is the most that is read of one answer of a metadata service. The longest, of an ECS task with many containers, is some
// kilobytes.
const MaxMetadata = 64 << 10

// MetadataClient returns a client for metadata services. They are at link-local addresses, of which a proxy would ask its own host, and
// send nobody elsewhere.
func MetadataClient() *http.Client {
	return &http.Client{Transport: bounding{&http.Transport{Proxy: nil, DisableKeepAlives: true}, MaxMetadata}, CheckRedirect: stay}
}

func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// bounding refuses answers of more than most bytes.
type bounding struct {
	http.RoundTripper
	most int64
}

func (b bounding) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > b.most {
		resp.Body.Close()
		return nil, fmt.Errorf("read the answer: its %d bytes are more than the %d that are read", resp.ContentLength, b.most)
	}
	resp.Body = &boundedBody{resp.Body, b.most, b.most}
	return resp, nil
}

// CloseIdleConnections lets http.Client's reach the transport below.
func (b bounding) CloseIdleConnections() {
	if t, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// boundedBody is a body that is cut off with an error after most bytes.
type boundedBody struct {
	io.ReadCloser
	left, most int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("read the answer: it is longer than the %d bytes that are read", b.most)
	}
	return n, err
}

// RetryAfter reads the header in seconds, up to an hour. Its other form, a date, none of the providers uses.
func RetryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 || seconds > 3600 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// Clip makes what a server says fit to be shown: one line, at most 256 octets of it.
func Clip(s string) string {
	const most = 256
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
