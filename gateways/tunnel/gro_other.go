//go:build !linux

package tunnel

import "net"

// enableGRO does nothing: only Linux coalesces packets for a UDP socket.
func enableGRO(*net.UDPConn) bool { return false }

func segmentSize(oob []byte) (size int, rest []byte) { return 0, oob }
