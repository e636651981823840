package tunnel

import (
	"net"
	"sync"
)

const (
	// wireBuffer holds a full copy buffer in TLS records, with their overhead.
	wireBuffer = 160 << 10
	// gatherFrom is what is written in one record and system call without any help.
	gatherFrom = 16 << 10
	// wholeRecord is the most octets that a TLS record takes (RFC 8446, section 5.2): with so much at hand a read cannot block.
	wholeRecord = 5 + 16<<10 + 256
)

var wireBuffers = sync.Pool{New: func() any { return new([wireBuffer]byte) }}

// wire is the TCP connection below a TLS one. crypto/tls makes a system call for each record, of 16 KiB at most; wire gathers those
// of one write, and reads many at once while a transfer goes on. It holds no buffer while nothing comes or goes.
type wire struct {
	*net.TCPConn

	mu     sync.Mutex // crypto/tls also writes by itself, for whoever reads
	gather bool
	out    *[wireBuffer]byte
	outN   int

	// Of whoever reads.
	reader   wireReader
	in       *[wireBuffer]byte
	from, to int
	full     bool // the last read was: more waits
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gather {
		return w.TCPConn.Write(b)
	}
	if w.outN+len(b) > wireBuffer {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if w.out == nil {
		w.out = wireBuffers.Get().(*[wireBuffer]byte)
	}
	n := copy(w.out[w.outN:], b) // one record always fits
	w.outN += n
	return n, nil
}

// hold begins to gather what is written.
func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather = true
}

// let sends what has been gathered.
func (w *wire) let() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather = false
	return w.flush()
}

func (w *wire) flush() error {
	if w.out == nil {
		return nil
	}
	_, err := w.TCPConn.Write(w.out[:w.outN])
	wireBuffers.Put(w.out)
	w.out, w.outN = nil, 0
	return err
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if w.in == nil {
		if !w.full {
			n, err := w.TCPConn.Read(b)
			w.full = n == len(b) && n >= gatherFrom
			return n, err
		}
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, w.in[w.from:w.to])
	if w.from += n; w.from == w.to {
		wireBuffers.Put(w.in)
		w.in = nil
	}
	return n, nil
}

// whole reports whether a record is at hand, so that it can be read without waiting.
func (w *wire) whole() bool { return w.in != nil && w.to-w.from >= wholeRecord }
