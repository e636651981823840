package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

// growBuffers asks the kernel for socket buffers of size octets and returns what the smaller one has; 0: unknown.
func growBuffers(udp *net.UDPConn, size int) (granted int) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		granted = min(growBuffer(int(fd), size, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE),
			growBuffer(int(fd), size, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE))
	})
	return granted
}

// growBuffer halves what the kernel reports, which is twice what it was asked for (socket(7)).
func growBuffer(fd, size, option, force int) int {
	for _, set := range [...]int{option, force} { // the second goes beyond the limit, with CAP_NET_ADMIN
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, set, size)
		if have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err != nil || have >= 2*size {
			return have / 2
		}
	}
	have, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	return have / 2
}
