//go:build !unix

package splice

// rawReader has no way here to wait for a socket without a buffer.
type rawReader struct{ conn *struct{} }

func (*rawReader) open(Conn) bool { return false }

func (*rawReader) await() {}

func (*rawReader) read() (*buffer, int, error) { return nil, 0, nil }

// ReadNow finds nothing, because there is no way here to look without waiting.
func ReadNow(Conn, []byte) (int, error) { return 0, nil }
