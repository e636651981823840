//go:build !linux

package splice

import "context"

// Run waits until ctx ends: there is no way here to wait for many sockets in one goroutine that Go does not use itself.
func (*Lot) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (*rawReader) notify(int, uint64) bool { return false }
