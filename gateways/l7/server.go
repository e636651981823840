package l7

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

// preface is what an HTTP/2 connection begins with (RFC 9113 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Server is how connections of callers are served.
type Server struct {
	Gateway bool // the callers are gateways: reserved fields are theirs to write, and the handler's to remove

	Handle func(*Exchange) // answers one request; of HTTP/2 many at a time

	// Refused is told of a request that was not handed over: the caller has been answered. Nil: nobody.
	Refused func(*http1.Error)

	Idle    time.Duration // a connection without a byte for so long is closed; 0: never
	MaxBody int64         // octets of a request's body; 0: any number
	MinRate int64         // octets a second of a body whose length was announced, after bodyGrace; 0: any rate
	Rules   http1.Rules
}

// Session is one connection of a caller.
type Session struct {
	server *Server
	conn   *clocked

	mu       sync.Mutex
	waiting  bool // for the next request
	draining bool
	closed   bool
	taken    bool // by an upgrade: the handler ends the connection
	two      *http.Server
}

// NewSession returns a session on c that does nothing yet.
func (s *Server) NewSession(c Conn) *Session {
	return &Session{server: s, conn: &clocked{Conn: c, direct: newDirect(c), idle: s.Idle}}
}

// Drain ends the session once the request at hand is answered. When there is none it waits for one for a moment, which is then told
// that it is the last: a request may be on its way, and would be lost with the connection. It returns at once.
func (s *Session) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	if s.waiting {
		s.conn.wait(drainWait)
	}
	if s.two != nil {
		at, stop := context.WithCancel(context.Background())
		stop()
		_ = s.two.Shutdown(at) // tells the caller, and waits for nobody
	}
}

// Close ends the session at once.
func (s *Session) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.conn.Close()
}

// Run serves the connection until it ends, and closes it. The context is that of the requests of HTTP/2; ending it ends nothing else.
func (s *Session) Run(ctx context.Context) {
	defer func() {
		if !s.taken {
			_ = s.conn.Close()
		}
	}()
	first := make([]byte, len(preface))
	s.conn.expect(headTimeout)
	if !s.next() {
		return
	}
	n, two, err := sniff(s.conn, first)
	s.got()
	if err != nil {
		return
	}
	if two {
		s.conn.stop() // a read waits for all requests at once: the library knows which idle timeout is meant
		s.serve2(ctx, &withPrefix{s.conn.Conn, first[:n]})
		return
	}
	s.serve1(&withPrefix{s.conn, first[:n]})
}

// sniff reads as much of a connection as is needed to know whether it begins with the preface.
func sniff(c io.Reader, into []byte) (n int, two bool, err error) {
	for n < len(preface) {
		k, err := c.Read(into[n:])
		n += k
		if string(into[:n]) != preface[:n] {
			return n, false, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, true, nil
}

// next says that the session waits for a request; false: it must not.
func (s *Session) next() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.closed {
		return false
	}
	s.waiting = true
	return true
}

// got says that a request has come, or that none will.
func (s *Session) got() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting = false; s.draining {
		s.conn.forget()
	}
}

func (s *Session) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// serve1 serves HTTP/1.
func (s *Session) serve1(c *withPrefix) {
	side := &side1{session: s, conn: c, reader: http1.NewReader(c, s.server.Rules)}
	defer side.reader.Release()
	defer side.watch.close()
	for first := true; ; first = false {
		if !first {
			s.conn.await()
		}
		if !s.next() {
			return
		}
		r, err := side.reader.ReadRequest()
		s.got()
		if err != nil {
			side.refuse(err)
			return
		}
		s.conn.goOn()
		if !side.exchange(r) {
			return
		}
		side.reader.Release()
	}
}

// side1 is a caller that speaks HTTP/1.
type side1 struct {
	session *Session
	conn    *withPrefix
	reader  *http1.Reader
	request *http.Request
	body    *body
	head    []byte
	last    bool // the response said that no other follows
	watch   watch
}

// served is what one request needs here, in one allocation. It is never used again for another one: who reads the body of a request may
// be late.
type served struct {
	Exchange
	measured meter
	own      body
}

// errConnect refuses CONNECT: what comes behind it is not HTTP any more, nobody could judge it, and the connection to the instance would be
// lost for others. A service that is a proxy is declared as tcp.
var errConnect = &http1.Error{Status: http.StatusNotImplemented, Reason: "connect"}

// exchange has one request answered and reports whether another one may follow.
func (d *side1) exchange(r *http.Request) bool {
	if r.Method == http.MethodConnect {
		d.refuse(errConnect)
		return false
	}
	s := &served{}
	x := &s.Exchange
	x.Request, x.side, x.meter = r, d, d.session.server.measure(&s.measured, r)
	if x.Upgrade = http1.UpgradeProtocol(r.Header); x.Upgrade != "" && (r.ContentLength != 0 || r.Method != http.MethodGet) {
		x.Upgrade = "" // RFC 9110 allows more; what instances then take for the first octets of the new protocol differs
	}
	if err := clean(r.Header, x.Upgrade != ""); err != nil {
		d.refuse(err)
		return false
	}
	if !d.session.server.Gateway {
		StripReserved(r.Header)
	}
	StripReserved(r.Trailer) // what it announces
	d.request, d.body, d.last = r, nil, r.Close
	r.Close = false // that concerned this connection only
	if r.ContentLength != 0 {
		d.body = &s.own
		d.body.src, d.body.meter, d.body.conn, d.body.trailer = r.Body, x.meter, d.session.conn, r.Trailer
		r.Body = d.body
	}
	d.session.server.Handle(x)
	d.watch.end(d.session, d.conn)
	if d.session.taken {
		return false
	}
	intact := d.body == nil || d.body.end()
	unread := d.body != nil && !d.body.done.Load()
	if x.refused || !x.begun || !intact || d.last {
		if x.begun && !x.refused && unread {
			d.linger(lingerTimeout)
		}
		return false
	}
	if unread {
		d.session.conn.expect(drainTimeout)
		return d.reader.Drain() == nil
	}
	return true
}

// linger reads what the caller still sends for a while, for closing a connection with unread octets resets it, and the response, which
// is whole, is lost with it.
func (d *side1) linger(limit time.Duration) {
	c := d.session.conn.Conn // as it is: nothing of it is used any more
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(limit))
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for {
		if _, err := c.Read(buf[:]); err != nil {
			return
		}
	}
}

// refuse answers a request that was not understood.
func (d *side1) refuse(err error) {
	var bad *http1.Error
	if !errors.As(err, &bad) {
		return // the caller has left
	}
	if d.session.server.Refused != nil {
		d.session.server.Refused(bad)
	}
	r := Text(bad.Status, "bad request: "+bad.Reason)
	r.Close = true
	d.request, d.body = nil, nil
	if _, err := d.respond(r); err == nil {
		d.linger(drainTimeout)
	}
}

func (d *side1) interim(r *http.Response) error {
	if d.request != nil && !d.request.ProtoAtLeast(1, 1) {
		return nil
	}
	r.Request = d.request
	head, err := http1.AppendResponse(d.head[:0], r)
	if err != nil {
		return err
	}
	d.head = head
	if _, err := d.conn.Write(head); err != nil {
		return &CallerError{err}
	}
	return nil
}

func (d *side1) respond(r *http.Response) (int64, error) {
	r.Request = d.request
	if r.Body != nil {
		defer r.Body.Close()
	}
	// A body that was not read to the end may never come: the connection is then closed, and the caller is told.
	if d.session.isDraining() || d.body != nil && d.body.mayStay(d.request) {
		r.Close = true
	}
	head, err := http1.AppendResponse(d.head[:0], r)
	if err != nil {
		return 0, err
	}
	d.head = head
	framing := http1.ResponseFraming(r)
	d.last = d.last || r.Close || framing == http1.UntilClose
	w := http1.NewBodyWriter(d.conn, head, framing)
	var n int64
	if r.Body != nil && framing != 0 {
		n, err = w.Copy(r.Body, r.Trailer)
	} else {
		err = w.Close(nil)
	}
	if failed, ok := err.(*http1.WriteError); ok { //nolint:errorlint // http1 returns it bare
		err = &CallerError{failed.Err}
	}
	return n, err
}

func (d *side1) upgrade(r *http.Response) (Conn, error) {
	r.Request = d.request
	head, err := http1.AppendResponse(d.head[:0], r)
	if err != nil {
		return nil, err
	}
	if _, err := d.conn.Write(head); err != nil {
		return nil, &CallerError{err}
	}
	d.watch.end(d.session, d.conn)
	d.session.taken = true
	d.session.conn.stop()
	return &withPrefix{d.session.conn.Conn, append(d.reader.Rest(), d.conn.prefix...)}, nil
}
