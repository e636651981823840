package tunnel

import (
	"fmt"

	"github.com/tradewind-mesh/tradewind/federation"
)

// usefulBuffer is what a socket must have to be quiet about it: 16 ms at 1 Gbit/s, which the reader of a busy host can take
// to get a processor. Since Linux 6.18 the kernel grants twice as much to everybody, before that a tenth.
const usefulBuffer = 2 << 20

// reportBuffers says once when the kernel grants less than what a burst needs. The sockets of connections that are dialled
// later are under the same limits.
func (t *Transport) reportBuffers() {
	for _, s := range t.sockets {
		if s.buffer > 0 && s.buffer < usefulBuffer {
			t.log.Warn("UDP socket buffers are small: bursts will lose packets", "code", federation.CodeSocketBuffers,
				"granted", fmt.Sprintf("%d KiB", s.buffer>>10), "wanted", fmt.Sprintf("%d KiB", socketBuffer>>10),
				"fix", fmt.Sprintf("sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d, then restart", socketBuffer, socketBuffer))
			return
		}
	}
}
