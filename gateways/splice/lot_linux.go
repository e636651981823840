package splice

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Run waits until ctx ends. Directions that are parked then wait in goroutines of their own again. It is called once at a time.
func (l *Lot) Run(ctx context.Context) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an epoll for idle connections: %w", err)
	}
	_ = unix.SetNonblock(epoll, true) // so that the runtime polls it: an epoll may be watched by another one, and no thread waits
	file := os.NewFile(uintptr(epoll), "epoll")
	defer file.Close()
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetReadDeadline(never)
	}
	if err != nil {
		return fmt.Errorf("watch an epoll for idle connections: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(past) })()
	l.open(epoll)
	defer l.close()
	var events [128]unix.EpollEvent
	for ctx.Err() == nil {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch idle connections: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			l.wake(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
		}
	}
	return nil
}

// notify has epoll report once, as spot, that the socket has something to read, an end, or an error.
func (r *rawReader) notify(epoll int, spot uint64) (ok bool) {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(spot), Pad: int32(spot >> 32)}
	err := r.conn.Control(func(fd uintptr) {
		err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(fd), &event)
		if errors.Is(err, unix.EEXIST) { // it was here before: a socket that has reported stays, and reports no more
			err = unix.EpollCtl(epoll, unix.EPOLL_CTL_MOD, int(fd), &event)
		}
		ok = err == nil
	})
	return ok && err == nil
}
