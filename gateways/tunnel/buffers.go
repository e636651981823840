package tunnel

import (
	"fmt"
	"net"

	"github.com/tradewind-mesh/tradewind/federation"
)

// tuneBuffers asks the kernel for socket buffers that a busy moment does not overflow, and says once when it grants less.
func (t *Transport) tuneBuffers(conns []net.PacketConn) {
	for _, conn := range conns {
		udp, ok := conn.(*net.UDPConn)
		if !ok {
			continue
		}
		read, write, err := growBuffers(udp, socketBuffer)
		if err != nil {
			t.log.Debug("size of the UDP socket buffers unknown", "err", err)
			continue
		}
		if granted := min(read, write); granted < socketBuffer {
			t.log.Warn("UDP socket buffers are smaller than asked for: bursts will lose packets", "code", federation.CodeSocketBuffers,
				"granted", fmt.Sprintf("%d KiB", granted>>10), "wanted", fmt.Sprintf("%d KiB", socketBuffer>>10),
				"fix", fmt.Sprintf("sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d, then restart", socketBuffer, socketBuffer))
			return
		}
	}
}
