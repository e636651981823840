package tunnel

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// wireReader reads into a buffer that is taken once there is something to read.
type wireReader struct {
	conn syscall.RawConn
	try  func(fd uintptr) (done bool)
	err  error
}

// fill reads what there is, and waits for it without a buffer.
func (w *wire) fill() error {
	r := &w.reader
	if r.conn == nil {
		var err error
		if r.conn, err = w.SyscallConn(); err != nil {
			return err
		}
		r.try = w.tryRead
	}
	if err := r.conn.Read(r.try); err != nil {
		return err
	}
	if r.err == nil && w.to == 0 {
		r.err = io.EOF
	}
	if r.err != nil {
		wireBuffers.Put(w.in)
		w.in = nil
		return r.err
	}
	w.full = w.to >= gatherFrom
	return nil
}

func (w *wire) tryRead(fd uintptr) (done bool) {
	w.in = wireBuffers.Get().(*[wireBuffer]byte)
	n, err := syscall.Read(int(fd), w.in[:])
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(int(fd), w.in[:])
	}
	if errors.Is(err, syscall.EAGAIN) {
		wireBuffers.Put(w.in)
		w.in = nil
		return false
	}
	w.from, w.to, w.reader.err = 0, max(n, 0), os.NewSyscallError("read", err)
	return true
}
