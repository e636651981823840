package splice

import (
	"errors"
	"io"
	"sync"
	"time"
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
func (p *pair) move(d direction) (n int64, at half, err error) {
	if src, dst, ok := kernelPair(d.src, d.dst); ok {
		return moveInKernel(src, dst)
	}
	next := newSource(d.src)
	put := newSink(d.dst)
	for {
		b, size, rerr := next()
		if size > 0 {
			p.progress.Store(int64(time.Since(p.start)))
			wrote, werr := put(b, size)
			n += int64(wrote)
			if werr == nil && wrote < size {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				buffers.Put(b)
				return n, writing, werr
			}
			p.progress.Store(int64(time.Since(p.start)))
		}
		if b != nil {
			buffers.Put(b)
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return n, reading, nil
		case rerr != nil:
			return n, reading, rerr
		}
	}
}

// source waits for bytes and returns them in a pooled buffer's payload; the caller puts the buffer back. A nil buffer means
// that there are none.
type source func() (b *buffer, n int, err error)

func newSource(c Conn) source {
	if s, ok := rawSource(c); ok {
		return s
	}
	if a, ok := c.(Awaiter); ok {
		return func() (*buffer, int, error) {
			if err := a.AwaitRead(); err != nil {
				return nil, 0, err
			}
			b := buffers.Get().(*buffer)
			n, err := c.Read(b.payload())
			return b, n, err
		}
	}
	return plainSource(c)
}

// plainSource reads from a conn that needs a buffer to wait with: a small one, until a read has filled it.
func plainSource(c Conn) source {
	small, bulk := make([]byte, smallRead), false
	return func() (*buffer, int, error) {
		if bulk {
			b := buffers.Get().(*buffer)
			n, err := c.Read(b.payload())
			bulk = n >= smallRead
			return b, n, err
		}
		n, err := c.Read(small)
		bulk = n == smallRead
		if n == 0 {
			return nil, 0, err
		}
		b := buffers.Get().(*buffer)
		copy(b.payload(), small[:n])
		return b, n, err
	}
}

// sink writes the first n octets of b's payload.
type sink func(b *buffer, n int) (int, error)

func newSink(c Conn) sink {
	if h, ok := c.(HeadroomWriter); ok && h.Headroom() <= MaxHeadroom {
		skip := MaxHeadroom - h.Headroom()
		return func(b *buffer, n int) (int, error) { return h.WriteHeadroom(b[skip : MaxHeadroom+n]) }
	}
	return func(b *buffer, n int) (int, error) { return c.Write(b[MaxHeadroom : MaxHeadroom+n]) }
}
