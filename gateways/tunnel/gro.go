package tunnel

import (
	"net"

	"golang.org/x/net/ipv4"
)

const (
	// trainSize is the most that one read can return where the kernel coalesces packets. A smaller buffer would cut trains
	// without a word.
	trainSize = 64 << 10

	// packetSize is the same where it does not: more than any packet of QUIC over Ethernet.
	packetSize = 2 << 10

	// trainsAtOnce is how many trains, or single packets, are read by one system call.
	trainsAtOnce = 8

	// controlSize is for the control messages of one train: its segment size, ECN and the address it came to, of either
	// family, take 120 octets (recvmsg(2) would cut more).
	controlSize = 256
)

// batchConn is *ipv4.PacketConn, which reads sockets of either family.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
}

// trains reads a UDP socket and hands out packets. With UDP_GRO (udp(7), Linux 5.0) the kernel returns packets of one sender
// and one size that arrived together as one train, with the size of its segments beside it; where it knows no such thing, each
// train is one packet. It is for one goroutine.
type trains struct {
	conn      batchConn
	coalesced bool           // the kernel has agreed to UDP_GRO
	room      []ipv4.Message // for the next read
	left      []ipv4.Message // of the last one
	data      []byte         // left of the train at hand
	size      int            // of its segments
	oob       []byte         // its control messages, without the segment size
	from      net.Addr
}

func newTrains(udp *net.UDPConn) *trains {
	t := &trains{conn: ipv4.NewPacketConn(udp), room: make([]ipv4.Message, trainsAtOnce), coalesced: enableGRO(udp)}
	size := packetSize
	if t.coalesced {
		size = trainSize
	}
	for i := range t.room {
		t.room[i].Buffers, t.room[i].OOB = [][]byte{make([]byte, size)}, make([]byte, controlSize)
	}
	return t
}

// read waits for the next trains. It is called when next has returned nil.
func (t *trains) read(flags int) error {
	n, err := t.conn.ReadBatch(t.room, flags)
	if err != nil {
		return err
	}
	t.left = t.room[:n]
	return nil
}

// next returns the next packet with its control messages and its sender; nil when there is none without reading. The bytes
// are good until read.
func (t *trains) next() (data, oob []byte, from net.Addr) {
	for len(t.data) == 0 {
		if len(t.left) == 0 {
			return nil, nil, nil
		}
		m := &t.left[0]
		t.left = t.left[1:]
		t.data, t.from = m.Buffers[0][:m.N], m.Addr
		t.size, t.oob = segmentSize(m.OOB[:m.NN])
		if t.size <= 0 {
			t.size = len(t.data)
		}
	}
	n := min(t.size, len(t.data))
	data, t.data = t.data[:n], t.data[n:]
	return data, t.oob, t.from
}
