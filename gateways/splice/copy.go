package splice

import (
	"errors"
	"io"
	"sync"
)

const (
	bufferSize = 128 << 10 // beyond this a larger copy buffer gains nothing measurable, below it every system call moves less
	smallRead  = 4 << 10   // what a connection that cannot wait without a buffer holds while it is idle
)

// buffer has room in front of the payload for a HeadroomWriter's header.
type buffer [MaxHeadroom + bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func (b *buffer) payload() []byte { return b[MaxHeadroom:] }

// reading and writing say which half of a copy failed.
type half bool

const (
	reading half = false
	writing half = true
)

// move copies src to dst until src ends (nil) or either fails.
func (p *Pair) move(d *direction, from, to Conn) (at half, err error) {
	if src, dst, ok := kernelPair(from, to); ok {
		d.n, at, err = moveInKernel(src, dst)
		return at, err
	}
	src, dst := source{conn: from}, sink{conn: to}
	src.open(&d.raw)
	dst.open()
	for {
		b, size, rerr := src.next()
		if size > 0 {
			p.progress.Store(now())
			if d.phase.Load() == dozing {
				d.phase.Store(busy)
			}
			wrote, werr := dst.write(b, size)
			d.n += int64(wrote)
			if werr == nil && wrote < size {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				buffers.Put(b)
				return writing, werr
			}
			p.progress.Store(now())
		}
		if b != nil {
			buffers.Put(b)
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return reading, nil
		case rerr != nil:
			return reading, rerr
		}
	}
}

// source waits for bytes of a conn and returns them in a pooled buffer's payload.
type source struct {
	conn    Conn
	raw     *rawReader // a socket is waited for by its descriptor
	awaiter Awaiter    // any other conn as it can: nil, with a small buffer
	small   []byte     // that
	bulk    bool       // it was full the last time
}

func (s *source) open(raw *rawReader) {
	if raw.conn != nil || raw.open(s.conn) {
		s.raw = raw
		return
	}
	s.awaiter, _ = s.conn.(Awaiter)
}

// next returns a buffer with n octets, which the caller puts back; nil when there are none.
func (s *source) next() (b *buffer, n int, err error) {
	switch {
	case s.raw != nil:
		return s.raw.read()
	case s.awaiter != nil:
		if err := s.awaiter.AwaitRead(); err != nil {
			return nil, 0, err
		}
		b = buffers.Get().(*buffer)
		n, err = s.conn.Read(b.payload())
		return b, n, err
	}
	return s.plain()
}

// plain reads a conn that needs a buffer to wait with: a small one, until a read has filled it.
func (s *source) plain() (b *buffer, n int, err error) {
	if s.bulk {
		b = buffers.Get().(*buffer)
		n, err = s.conn.Read(b.payload())
		s.bulk = n >= smallRead
		return b, n, err
	}
	if s.small == nil {
		s.small = make([]byte, smallRead)
	}
	n, err = s.conn.Read(s.small)
	s.bulk = n == smallRead
	if n == 0 {
		return nil, 0, err
	}
	b = buffers.Get().(*buffer)
	copy(b.payload(), s.small[:n])
	return b, n, err
}

// sink writes to a conn.
type sink struct {
	conn   Conn
	framer HeadroomWriter // nil: the conn frames nothing, or wants more room than there is
	skip   int            // octets of the headroom that it does not want
}

func (s *sink) open() {
	if h, ok := s.conn.(HeadroomWriter); ok && h.Headroom() <= MaxHeadroom {
		s.framer, s.skip = h, MaxHeadroom-h.Headroom()
	}
}

// write writes the first n octets of b's payload.
func (s *sink) write(b *buffer, n int) (int, error) {
	if s.framer != nil {
		return s.framer.WriteHeadroom(b[s.skip : MaxHeadroom+n])
	}
	return s.conn.Write(b[MaxHeadroom : MaxHeadroom+n])
}
