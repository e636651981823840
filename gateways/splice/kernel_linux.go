package splice

import (
	"errors"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelPair reports whether both conns are plain TCP, so that splice(2) can move the bytes without copying them here.
func kernelPair(a, b Conn) (x, y *net.TCPConn, ok bool) {
	x, okx := a.(*net.TCPConn)
	y, oky := b.(*net.TCPConn)
	return x, y, okx && oky
}

// moveInKernel is one direction by splice(2), which *net.TCPConn's ReadFrom uses for another TCP connection.
func moveInKernel(src, dst *net.TCPConn) (n int64, at half, err error) {
	n, err = dst.ReadFrom(src)
	if err != nil && isWriteError(err) {
		return n, writing, err
	}
	return n, reading, err
}

// isWriteError tells the two ends of a splice apart. ReadFrom wraps both in one OpError: only a write fails with EPIPE, and a
// reset is reported by whichever end of the splice met it, which cannot be told; it counts for the source.
func isWriteError(err error) bool { return errors.Is(err, syscall.EPIPE) }

// kernelQuiet is how long ago either connection received a byte: the bytes pass inside the kernel, so only it can know (tcp(7),
// TCP_INFO).
func kernelQuiet(a, b *net.TCPConn) time.Duration { return min(sinceReceived(a), sinceReceived(b)) }

// forever is long enough ago for every limit, and still leaves room for a clock reading.
const forever = 1 << 40 * time.Microsecond

func sinceReceived(c *net.TCPConn) time.Duration {
	raw, err := c.SyscallConn()
	if err != nil {
		return forever
	}
	age := time.Duration(forever)
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			age = time.Duration(info.Last_data_recv) * time.Millisecond
		}
	})
	return age
}

// hasNews looks whether there is something to read, and takes nothing. A raw system call needs a tenth of the stack of another, and
// this one does not block.
func hasNews(fd uintptr) bool {
	for {
		var b byte
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return errno != unix.EAGAIN
		}
	}
}
