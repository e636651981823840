package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

// growBuffers returns the sizes that are in force. The kernel reports twice what it was asked for (socket(7)).
func growBuffers(udp *net.UDPConn, size int) (read, write int, err error) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	grow := func(fd, option, force int) (int, error) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size)
		if have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err != nil || have >= 2*size {
			return have / 2, err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) // beyond the limit, with CAP_NET_ADMIN
		have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		return have / 2, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		if read, err = grow(int(fd), unix.SO_RCVBUF, unix.SO_RCVBUFFORCE); err == nil {
			write, err = grow(int(fd), unix.SO_SNDBUF, unix.SO_SNDBUFFORCE)
		}
	})
	if err == nil {
		err = controlErr
	}
	return read, write, err
}
