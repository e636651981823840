package tunnel

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// bbr is the congestion control that keeps its rate under loss that is not congestion (draft-ietf-ccwg-bbr).
const bbr = "bbr"

// offersBBR reports whether this process may choose it, which the kernel says of a socket without connection too.
func offersBBR() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, bbr) == nil
}

// bbrFrom is the distance from which BBR is chosen. Nearer than that a loss is repaired in no time by any congestion control, and
// BBR's pacing costs a third more of a processor.
const bbrFrom = time.Millisecond

// tuneTCP asks the kernel for what helps a lane and returns its congestion control. The size of the send buffer is left to the
// kernel, which knows the path. TCP_USER_TIMEOUT stays off: it would also end a flow whose reader over there pauses.
func tuneTCP(c *net.TCPConn) (congestion string) {
	_ = onSocket(c, func(fd int) {
		if i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || time.Duration(i.Rtt)*time.Microsecond >= bbrFrom {
			_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, bbr)
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
		congestion, _ = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	return congestion
}

// giveUp makes the kernel end c when what was sent has not been acknowledged for so long (RFC 5482). It is for the control
// connection, whose reader never pauses.
func giveUp(c *net.TCPConn, after time.Duration) {
	_ = onSocket(c, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	})
}

// setPacing bounds the rate at which c sends, in octets a second; 0 takes the bound away.
func setPacing(c *net.TCPConn, rate uint64) error {
	if rate == 0 {
		rate = ^uint64(0)
	}
	var set error
	err := onSocket(c, func(fd int) { set = unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate) })
	if err == nil {
		err = set
	}
	return err
}

// sampleTCP asks the kernel how c fares; ok is false when it does not say.
func sampleTCP(c *net.TCPConn) (s tcpSample, ok bool) {
	err := onSocket(c, func(fd int) {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		ok = true
		s = tcpSample{
			RTT: time.Duration(i.Rtt) * time.Microsecond, MinRTT: time.Duration(i.Min_rtt) * time.Microsecond,
			DeliveryRate: i.Delivery_rate, Acked: i.Bytes_acked, Delivered: i.Bytes_acked + uint64(i.Sacked)*uint64(i.Snd_mss), Unacked: i.Unacked, NotSent: i.Notsent_bytes,
			SilentFor: time.Duration(i.Last_ack_recv) * time.Millisecond,
			Sent:      i.Data_segs_out, Retransmitted: i.Total_retrans, Lost: i.Lost, Heard: i.Segs_in,
		}
	})
	return s, ok && err == nil
}

// stillOpen reports whether c, on which nothing is due to come, has neither ended nor anything to read.
func stillOpen(c *net.TCPConn) bool {
	var b [1]byte
	quiet := false
	err := onSocket(c, func(fd int) {
		_, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}

func onSocket(c *net.TCPConn, f func(fd int)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}
