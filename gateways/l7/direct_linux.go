//go:build linux && !race

package l7

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// maxDirect bounds one system call that nothing in this process can interrupt to what takes microseconds. A head and a short body are less.
const maxDirect = 16 << 10

// direct reads and writes a socket by system calls of which the scheduler is not told. They never block, because the runtime has made the
// socket non-blocking, so it need not be: being told costs as much as reading a head, and wakes the thread that looks for calls that take
// long whenever the process had nothing to do before. That is a third of what a request costs that comes alone. The race detector,
// which learns from the others that what was written is read later, has to do without.
type direct struct {
	conn     net.Conn
	raw      syscall.RawConn
	in, out  half
	readable func(fd uintptr) bool // in.read, made once
	writable func(fd uintptr) bool
}

// half is one direction. One goroutine at a time uses it.
type half struct {
	b     []byte
	n     int // of it are done
	errno syscall.Errno
}

// newDirect returns nil if c is no socket.
func newDirect(c Conn) *direct {
	d := &direct{}
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		d.conn = c
		d.raw, err = c.SyscallConn()
	case *net.UnixConn:
		d.conn = c
		d.raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	d.readable, d.writable = d.in.read, d.out.write
	return d
}

// read tries once; false: there is nothing, and the runtime waits for more.
func (h *half) read(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(h.b))), uintptr(len(h.b)))
		switch errno {
		case 0:
			h.n = int(n)
			return true
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			h.errno = errno
			return true
		}
	}
}

// write goes on until all is written; false: there is no room.
func (h *half) write(fd uintptr) bool {
	for h.n < len(h.b) {
		left := h.b[h.n:]
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(left))), uintptr(len(left)))
		switch errno {
		case 0:
			h.n += int(n)
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			h.errno = errno
			return true
		}
	}
	return true
}

// Read implements io.Reader.
func (d *direct) Read(p []byte) (int, error) {
	if len(p) == 0 || len(p) > maxDirect {
		return d.conn.Read(p)
	}
	d.in.b, d.in.n, d.in.errno = p, 0, 0
	err := d.raw.Read(d.readable)
	d.in.b = nil
	if err != nil || d.in.errno != 0 {
		return 0, d.failed("read", err, d.in.errno)
	}
	if d.in.n == 0 {
		return 0, io.EOF
	}
	return d.in.n, nil
}

// Write implements io.Writer.
func (d *direct) Write(p []byte) (int, error) {
	if len(p) == 0 || len(p) > maxDirect {
		return d.conn.Write(p)
	}
	d.out.b, d.out.n, d.out.errno = p, 0, 0
	err := d.raw.Write(d.writable)
	d.out.b = nil
	if err != nil || d.out.errno != 0 {
		return d.out.n, d.failed("write", err, d.out.errno)
	}
	return d.out.n, nil
}

// failed is the error that the connection's own method would have returned: err, of waiting, or errno.
func (d *direct) failed(op string, err error, errno syscall.Errno) error {
	if errno != 0 {
		err = &net.OpError{Op: op, Err: &os.SyscallError{Syscall: op, Err: errno}}
	}
	var failed *net.OpError
	if !errors.As(err, &failed) {
		return err
	}
	local := d.conn.LocalAddr()
	return &net.OpError{Op: op, Net: local.Network(), Source: local, Addr: d.conn.RemoteAddr(), Err: failed.Err}
}
