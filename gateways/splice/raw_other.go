//go:build !unix

package splice

// rawSource has no way here to wait for a socket without a buffer.
func rawSource(Conn) (source, bool) { return nil, false }
