package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The first byte of a connection to the sink says what it is for.
const (
	kindSource = 'D' // bytes without end to the client
	kindEcho   = 'E' // small echo, for flows that then idle: 64 octets of buffer
	kindMirror = 'X' // echo with a large buffer, for flows under load
	kindAsk    = 'R' // a request is a length in 4 octets, big endian; the answer has that length
)

// maxAnswer bounds what a request to the sink may ask for.
const maxAnswer = 256 << 10

// backendMain is the service behind the second hop: HTTP on one address, the sink on the other.
func backendMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("backend", flag.ContinueOnError)
	web := flags.String("http", "", "address for HTTP")
	bytes := flags.String("sink", "", "address of the sink")
	if err := flags.Parse(args); err != nil {
		return err
	}
	sink, err := net.Listen("tcp", *bytes)
	if err != nil {
		return fmt.Errorf("listen for the sink: %w", err)
	}
	answers, err := newAnswerer(*web)
	if err != nil {
		sink.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve(ctx, sink, sinkConn) })
	group.Go(func() error { return answers.run(ctx) })
	return group.Wait()
}

// serve accepts until ctx ends and gives each connection a goroutine. When ctx ends it closes the connections and waits for them.
func serve(ctx context.Context, l net.Listener, each func(net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			each(c)
		})
	}
}

var zeros [maxAnswer]byte

func sinkConn(c net.Conn) {
	defer c.Close()
	var b [4]byte
	if _, err := io.ReadFull(c, b[:1]); err != nil {
		return
	}
	var err error
	switch b[0] {
	case kindSource:
		for err == nil {
			_, err = c.Write(zeros[:])
		}
	case kindEcho, kindMirror:
		size := 64
		if b[0] == kindMirror {
			size = 64 << 10
		}
		for buf, n := make([]byte, size), 0; err == nil; {
			if n, err = c.Read(buf); n > 0 {
				_, err = c.Write(buf[:n])
			}
		}
	case kindAsk:
		for err == nil {
			if _, err = io.ReadFull(c, b[:]); err == nil {
				_, err = c.Write(zeros[:min(binary.BigEndian.Uint32(b[:]), maxAnswer)])
			}
		}
	}
}

// body is what every HTTP request gets.
const body = "hello, federated world: 0123456789\n"

var (
	answerKeep  = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	answerClose = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	endOfHead   = []byte("\r\n\r\n")
)

// An answerer is an HTTP server as cheap as it can be, one thread around epoll, so that the processor is left to what is
// measured: net/http, or a goroutine for each connection, would cost as much as a proxy and hide the difference between two.
type answerer struct {
	listener, epoll int
	partial         map[int][]byte // requests that have not ended, by descriptor
}

func newAnswerer(address string) (*answerer, error) {
	tcp, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, fmt.Errorf("resolve the address for HTTP: %w", err)
	}
	a := &answerer{partial: map[int][]byte{}}
	if a.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open a socket for HTTP: %w", err)
	}
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		unix.Close(a.listener)
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	at := unix.SockaddrInet4{Port: tcp.Port}
	copy(at.Addr[:], tcp.IP.To4())
	err = errors.Join(
		unix.SetsockoptInt(a.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(a.listener, &at),
		unix.Listen(a.listener, 4096), // what haproxy and nginx are given too
		unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, a.listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(a.listener)}))
	if err != nil {
		unix.Close(a.listener)
		unix.Close(a.epoll)
		return nil, fmt.Errorf("listen for HTTP on %s: %w", address, err)
	}
	return a, nil
}

func (a *answerer) run(ctx context.Context) error {
	defer unix.Close(a.epoll)
	defer unix.Close(a.listener)
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(a.epoll, events, 200) // ms, to see that ctx has ended
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for HTTP requests: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if fd := int(e.Fd); fd == a.listener {
				a.accept()
			} else if !a.answer(fd, buf) {
				unix.Close(fd)
				delete(a.partial, fd)
			}
		}
	}
	return nil
}

func (a *answerer) accept() {
	for {
		fd, _, err := unix.Accept4(a.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // nobody else waits, or no descriptor is left: the client sees it
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}) != nil {
			unix.Close(fd)
		}
	}
}

// answer reads once and answers each request that has ended. It returns false when the connection is over.
func (a *answerer) answer(fd int, buf []byte) bool {
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || n <= 0 {
		return false
	}
	data := buf[:n]
	if before := a.partial[fd]; before != nil {
		data = append(before, data...)
		delete(a.partial, fd)
	}
	for {
		head, rest, ended := bytes.Cut(data, endOfHead)
		if !ended {
			break
		}
		last := strings.Contains(strings.ToLower(string(head)), "connection: close")
		answer := answerKeep
		if last {
			answer = answerClose
		}
		// An answer is far smaller than the send buffer of a client that has read the one before: a short write means it is gone.
		if n, err := unix.Write(fd, answer); err != nil || n < len(answer) || last {
			return false
		}
		data = rest
	}
	if len(data) > 0 && len(data) < len(buf) {
		a.partial[fd] = bytes.Clone(data)
	}
	return len(data) < len(buf)
}
