package tunnel

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

// enableGRO asks the kernel to coalesce what arrives at udp, and reports whether it will.
func enableGRO(udp *net.UDPConn) bool {
	raw, err := udp.SyscallConn()
	if err != nil {
		return false
	}
	refused := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) })
	return refused == nil && err == nil
}

// segmentSize finds the size of a train's segments in its control messages; 0: it is a single packet. rest are the other
// messages, in order and whole: QUIC stops reading its socket for good when it meets one that it cannot parse, so none is
// passed on when one of them is not whole. oob is overwritten.
func segmentSize(oob []byte) (size int, rest []byte) {
	rest = oob[:0]
	for len(oob) >= unix.SizeofCmsghdr { // the parser takes that for granted
		h, body, after, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return size, nil
		}
		if whole := oob[:len(oob)-len(after)]; h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
			rest = append(rest, whole...)
		} else if len(body) >= 4 {
			size = int(int32(binary.NativeEndian.Uint32(body)))
		}
		oob = after
	}
	return size, rest
}
