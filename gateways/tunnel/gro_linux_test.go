package tunnel

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// loopbackUDP is a socket on loopback.
func loopbackUDP(tb testing.TB, host string) *net.UDPConn {
	tb.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = udp.Close() })
	return udp
}

// control is one control message.
func control(level, kind int32, body ...byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(body)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(body))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[unix.CmsgLen(0):], body)
	return b
}

// needOffload skips a test that shows nothing on a kernel without UDP_SEGMENT and UDP_GRO.
func needOffload(t *testing.T) {
	t.Helper()
	udp := loopbackUDP(t, "127.0.0.1")
	raw, err := udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT) })
	if err != nil || !enableGRO(udp) {
		t.Skip("this kernel does not send or coalesce UDP packets in trains (Linux 5.0): QUIC costs more here")
	}
}

func TestSegmentSize(t *testing.T) {
	tos, gro := control(unix.IPPROTO_IP, unix.IP_TOS, 2), control(unix.IPPROTO_UDP, unix.UDP_GRO, 0xac, 5, 0, 0)
	info := control(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12)...)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		in   []byte
		size int
		rest []byte
	}{
		"none":              {nil, 0, nil},
		"no train":          {join(tos, info), 0, join(tos, info)},
		"train":             {join(gro, tos, info), 1452, join(tos, info)},
		"in the middle":     {join(tos, gro, info), 1452, join(tos, info)},
		"last":              {join(tos, gro), 1452, tos},
		"size cut":          {join(control(unix.IPPROTO_UDP, unix.UDP_GRO, 1), tos), 0, tos},
		"negative":          {control(unix.IPPROTO_UDP, unix.UDP_GRO, 255, 255, 255, 255), -1, nil},
		"one is not whole":  {join(gro, tos[:len(tos)-8]), 1452, nil},
		"less than a head":  {join(gro, []byte{1, 2, 3}), 1452, nil},
		"length of nothing": {join(gro, make([]byte, 16)), 1452, nil},
	} {
		if size, rest := segmentSize(bytes.Clone(c.in)); size != c.size || !bytes.Equal(rest, c.rest) {
			t.Errorf("%s: %d, %x", name, size, rest)
		}
	}
}

func FuzzSegmentSize(f *testing.F) {
	f.Add(append(control(unix.IPPROTO_UDP, unix.UDP_GRO, 0xac, 5, 0, 0), control(unix.IPPROTO_IP, unix.IP_TOS, 2)...), []byte("payload"))
	f.Add([]byte{16, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 104, 0, 0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, oob, payload []byte) {
		r := &trains{left: []ipv4.Message{{Buffers: [][]byte{payload}, N: len(payload), OOB: oob, NN: len(oob)}}}
		var got []byte
		for data, rest, _ := r.next(); data != nil; data, rest, _ = r.next() {
			if got = append(got, data...); len(data) == 0 {
				t.Fatal("an empty packet")
			}
			for len(rest) > 0 { // as QUIC does
				_, _, after, err := unix.ParseOneSocketControlMessage(rest)
				if err != nil {
					t.Fatal(err)
				}
				rest = after
			}
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("%d of %d octets", len(got), len(payload))
		}
	})
}

// TestTrainOfManyClasses sends one train of more packets than QUIC takes at once, of all classes, and expects every one of them
// where it belongs, once, in order and with the address it came to.
func TestTrainOfManyClasses(t *testing.T) {
	needOffload(t)
	for _, host := range []string{"0.0.0.0", "::"} {
		t.Run(host, func(t *testing.T) {
			s := newSocket(loopbackUDP(t, host))
			port := s.transports[classFlow].Conn.(*udpPort)
			reads := &countingBatch{batchConn: port.trains.conn}
			port.trains.conn = reads
			raw, _ := port.SyscallConn()
			_ = raw.Control(func(fd uintptr) { // as QUIC does
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			})
			const size, packets = 1200, 40
			var train []byte
			for i := range packets {
				p := make([]byte, size)
				p[0], p[1], p[2], p[3] = 0x40, byte(1+i%3), byte(i), byte(i)
				if i == packets-1 {
					p = p[:100]
				}
				train = append(train, p...)
			}
			from := loopbackUDP(t, "127.0.0.1")
			to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.conn.LocalAddr().(*net.UDPAddr).Port}
			if _, _, err := from.WriteMsgUDP(train, control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, size&0xff, size>>8), to); err != nil {
				t.Fatal(err)
			}
			_ = port.SetReadDeadline(time.Now().Add(5 * time.Second))
			for next := 0; next < packets; {
				ms := make([]ipv4.Message, 8)
				for i := range ms {
					ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
				}
				n, err := port.ReadBatch(ms, 0)
				if err != nil || n == 0 {
					t.Fatalf("after %d packets: %d, %v", next, n, err)
				}
				for _, m := range ms[:n] {
					b := m.Buffers[0][:m.N]
					var cm ipv4.ControlMessage
					if err := cm.Parse(m.OOB[:m.NN]); err != nil || !cm.Dst.Equal(to.IP) {
						t.Fatalf("control messages %x: %+v, %v", m.OOB[:m.NN], cm, err)
					}
					want := size
					if next == packets-1 {
						want = 100
					}
					if int(b[2]) != next || len(b) != want || b[1] != byte(classFlow) || m.Addr.String() != from.LocalAddr().String() {
						t.Fatalf("packet %d, %d octets, from %v in place of %d", b[2], len(b), m.Addr, next)
					}
					next += 3
				}
			}
			if reads.calls.Load() != 1 {
				t.Errorf("%d reads for one train", reads.calls.Load())
			}
			for i := range packets {
				if c := class(1 + i%3); c != classFlow {
					if p := <-port.others.sides[c].in; int(p.data[2]) != i || len(p.oob) == 0 {
						t.Fatalf("packet %d in place of %d, %d octets of control messages", p.data[2], i, len(p.oob))
					}
				}
			}
		})
	}
}

// countingBatch counts system calls that read.
type countingBatch struct {
	batchConn
	calls, messages atomic.Int64
}

func (c *countingBatch) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	n, err := c.batchConn.ReadBatch(ms, flags)
	c.calls.Add(1)
	c.messages.Add(int64(n))
	return n, err
}

// countingPort counts packets and system calls of a port, and can refuse to send trains as some network cards do.
type countingPort struct {
	*udpPort
	noTrains      bool
	packets       atomic.Int64 // received
	writes, bytes atomic.Int64
	refused       atomic.Int64
}

func (p *countingPort) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	n, err := p.udpPort.ReadBatch(ms, flags)
	p.packets.Add(int64(n))
	return n, err
}

func (p *countingPort) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if all, _ := unix.ParseSocketControlMessage(oob); p.noTrains {
		for _, m := range all {
			if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == unix.UDP_SEGMENT {
				p.refused.Add(1)
				return 0, 0, &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmsg", unix.EIO)}
			}
		}
	}
	p.writes.Add(1)
	p.bytes.Add(int64(len(b)))
	return p.udpPort.WriteMsgUDP(b, oob, addr)
}

// counted makes a socket whose flow transport counts.
func counted(t *testing.T) (*socket, *countingPort, *countingBatch) {
	t.Helper()
	s := newSocket(loopbackUDP(t, "127.0.0.1"), classFlow)
	t.Cleanup(s.close)
	port := &countingPort{udpPort: s.transports[classFlow].Conn.(*udpPort)}
	reads := &countingBatch{batchConn: port.trains.conn}
	port.trains.conn, s.transports[classFlow].Conn = reads, port
	return s, port, reads
}

// carry sends octets from one socket to the other over QUIC.
func carry(t *testing.T, from, to *socket, octets int) {
	t.Helper()
	client, server := newAuthority(t, west), newAuthority(t, east)
	introduce(t, client, server)
	l, err := to.transports[classFlow].Listen(server.ServerTLS(protoFlow), quicConfig(classFlow, false))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	clientTLS, err := client.ClientTLS(east, protoFlow)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan int64, 1)
	go func() {
		defer close(received)
		if c, err := l.Accept(t.Context()); err == nil {
			if stream, err := c.AcceptStream(t.Context()); err == nil {
				n, _ := io.Copy(io.Discard, stream)
				received <- n
			}
		}
	}()
	conf := quicConfig(classFlow, true)
	c, err := from.transports[classFlow].Dial(t.Context(), to.conn.LocalAddr(), clientTLS, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseWithError(0, "") }()
	stream, err := c.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	for rest := octets; rest > 0; rest -= 128 << 10 {
		if _, err := stream.Write(make([]byte, min(rest, 128<<10))); err != nil {
			t.Fatal(err)
		}
	}
	_ = stream.Close()
	if n := <-received; n != int64(octets) {
		t.Fatalf("%d of %d octets", n, octets)
	}
}

// TestBulkTravelsInTrains is what keeps a change of QUIC's, or of the port, from switching either offload off without a word.
func TestBulkTravelsInTrains(t *testing.T) {
	needOffload(t)
	from, sender, _ := counted(t)
	to, receiver, reads := counted(t)
	carry(t, from, to, 8<<20)
	written, read := float64(sender.bytes.Load())/float64(sender.writes.Load()), float64(receiver.packets.Load())/float64(reads.calls.Load())
	t.Logf("%.0f octets for each write, %.1f packets for each read", written, read)
	if written < 2*1452 {
		t.Errorf("%.0f octets for each write: packets are not sent in trains", written)
	}
	if read < 2 {
		t.Errorf("%.1f packets for each read: they are not received in trains", read)
	}
	if perMessage := float64(receiver.packets.Load()) / float64(reads.messages.Load()); perMessage < 2 {
		t.Errorf("%.1f packets for each message of the kernel: it does not coalesce", perMessage)
	}
}

// TestKernelWithoutTrains is the port on a kernel that does not coalesce.
func TestKernelWithoutTrains(t *testing.T) {
	from, _, _ := counted(t)
	to, receiver, reads := counted(t)
	raw, _ := receiver.SyscallConn()
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0) })
	for i := range receiver.trains.room {
		receiver.trains.room[i].Buffers[0] = make([]byte, packetSize)
	}
	carry(t, from, to, 1<<20)
	if reads.messages.Load() < receiver.packets.Load() {
		t.Errorf("%d packets in %d messages", receiver.packets.Load(), reads.messages.Load())
	}
}

func TestSocketBuffersAreWhatTheKernelGranted(t *testing.T) {
	udp := loopbackUDP(t, "127.0.0.1")
	granted := growBuffers(udp, socketBuffer)
	raw, _ := udp.SyscallConn()
	_ = raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if have, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); err != nil || have/2 < granted || granted <= 0 {
				t.Errorf("%d octets of %d, %v", granted, have/2, err)
			}
		}
	})
}
