//go:build unix

package splice

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawSource reads from a socket that the runtime polls: the buffer is taken once the socket is known to have bytes, so that
// an idle connection holds none.
func rawSource(c Conn) (source, bool) {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil, false
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, false
	}
	var (
		b    *buffer
		n    int
		rerr error
	)
	try := func(fd uintptr) (done bool) {
		b = buffers.Get().(*buffer)
		for {
			n, rerr = syscall.Read(int(fd), b.payload())
			if rerr != syscall.EINTR {
				break
			}
		}
		if rerr == syscall.EAGAIN {
			buffers.Put(b)
			b = nil
			return false // the runtime waits until the socket is readable, then calls again
		}
		return true
	}
	return func() (*buffer, int, error) {
		b, n, rerr = nil, 0, nil
		if err := raw.Read(try); err != nil {
			return nil, 0, err // closed, or past its deadline
		}
		switch {
		case rerr != nil:
			return b, 0, os.NewSyscallError("read", rerr)
		case n == 0:
			return b, 0, io.EOF
		}
		return b, n, nil
	}, true
}
