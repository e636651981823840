package l7

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

// bodyGrace is how long the octets of a body may be waited for, all in all, before their rate counts: as Apache's
// mod_reqtimeout has it, and long enough for a phone that changes its network.
const bodyGrace = 20 * time.Second

// meter counts a request's body.
type meter struct {
	limit  int64         // octets; 0: none
	rate   int64         // octets a second after bodyGrace; 0: any
	n      int64         // octets so far
	waited time.Duration // for them: when the instance is slow, the caller is not

	bad atomic.Pointer[http1.Error]
}

// measure sets m up for the body of r.
func (s *Server) measure(m *meter, r *http.Request) *meter {
	m.limit = s.MaxBody
	if r.ContentLength > 0 { // a stream may rest for as long as the idle timeout
		m.rate = s.MinRate
	}
	return m
}

// read reads from src what is still allowed.
func (m *meter) read(src io.Reader, p []byte) (int, error) {
	if bad := m.bad.Load(); bad != nil {
		return 0, bad
	}
	stop := m.clock()
	n, err := src.Read(p)
	stop()
	m.n += int64(n)
	if bad, ok := err.(*http1.Error); ok { //nolint:errorlint // http1 returns it bare
		m.bad.Store(bad)
		return n, err
	}
	switch {
	case m.limit > 0 && m.n > m.limit:
		return m.refuse(http.StatusRequestEntityTooLarge, "body-size")
	case m.rate > 0 && m.waited > bodyGrace && err == nil && float64(m.n) < float64(m.rate)*m.waited.Seconds():
		return m.refuse(http.StatusRequestTimeout, "body-rate")
	}
	return n, err
}

func (m *meter) refuse(status int, reason string) (int, error) {
	bad := &http1.Error{Status: status, Reason: reason}
	m.bad.Store(bad)
	return 0, bad
}

// await waits for src.
func (m *meter) await(src http1.Source) {
	defer m.clock()()
	src.Await()
}

// clock measures until its result is called.
func (m *meter) clock() (stop func()) {
	if m.rate == 0 {
		return func() {}
	}
	begun := time.Now()
	return func() { m.waited += time.Since(begun) }
}
