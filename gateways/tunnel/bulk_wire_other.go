//go:build !linux

package tunnel

// wireReader has nothing to do here.
type wireReader struct{}

// fill reads what there is.
func (w *wire) fill() error {
	b := wireBuffers.Get().(*[wireBuffer]byte)
	n, err := w.TCPConn.Read(b[:])
	if n == 0 {
		wireBuffers.Put(b)
		return err
	}
	w.in, w.from, w.to, w.full = b, 0, n, n >= gatherFrom // an error comes again
	return nil
}
