//go:build !linux

package tunnel

import "net"

// growBuffers takes the kernel's word: only Linux says what it has granted in a way that is worth reading.
func growBuffers(udp *net.UDPConn, size int) (read, write int, err error) {
	if err := udp.SetReadBuffer(size); err != nil {
		return 0, 0, err
	}
	return size, size, udp.SetWriteBuffer(size)
}
