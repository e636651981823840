//go:build unix

package splice

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// ReadNow reads what c has received already and does not wait for more. When there is nothing, or c cannot tell, it returns
// 0 and nil.
func ReadNow(c Conn, b []byte) (n int, err error) {
	raw, ok := rawConn(c)
	if !ok {
		return 0, nil
	}
	var look struct { // one allocation and not two
		n   int
		err error
	}
	if err := raw.Read(func(fd uintptr) bool { look.n, look.err = readOnce(fd, b); return true }); err != nil {
		return 0, err
	}
	switch {
	case errors.Is(look.err, syscall.EAGAIN):
		return 0, nil
	case look.err != nil:
		return 0, os.NewSyscallError("read", look.err)
	case look.n == 0:
		return 0, io.EOF
	}
	return look.n, nil
}

// rawConn returns c's descriptor, if c is a socket that the runtime polls.
func rawConn(c Conn) (syscall.RawConn, bool) {
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err := c.SyscallConn()
		return raw, err == nil
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		return raw, err == nil
	}
	return nil, false
}

// rawReader reads a socket that the runtime polls: the buffer is taken once the socket is known to have bytes, so that an idle
// connection holds none.
type rawReader struct {
	conn syscall.RawConn // nil: not open
	try  func(fd uintptr) (done bool)

	// What the last try brought.
	b   *buffer
	n   int
	err error
}

// open reports whether c is such a socket.
func (r *rawReader) open(c Conn) bool {
	raw, ok := rawConn(c)
	if ok {
		r.conn, r.try = raw, r.tryRead
	}
	return ok
}

func (r *rawReader) read() (*buffer, int, error) {
	r.b, r.n, r.err = nil, 0, nil
	if err := r.conn.Read(r.try); err != nil {
		return nil, 0, err // closed, or past its deadline
	}
	switch {
	case r.err != nil:
		return r.b, 0, os.NewSyscallError("read", r.err)
	case r.n == 0:
		return r.b, 0, io.EOF
	}
	return r.b, r.n, nil
}

// await waits until the socket has something to read, an end, or an error.
func (r *rawReader) await() { _ = r.conn.Read(hasNews) }

func (r *rawReader) tryRead(fd uintptr) (done bool) {
	r.b = buffers.Get().(*buffer)
	r.n, r.err = readOnce(fd, r.b.payload())
	if errors.Is(r.err, syscall.EAGAIN) {
		buffers.Put(r.b)
		r.b = nil
		return false // the runtime waits until the socket is readable, then calls again
	}
	return true
}

func readOnce(fd uintptr, b []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(int(fd), b); !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
