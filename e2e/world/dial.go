package world

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from inside the cloud's namespace. A socket belongs to the namespace of the thread that makes it, so one
// thread enters the namespace, dials, and is thrown away.
func (c *Cloud) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine and takes the namespace with it
		conn, err := c.dialHere(ctx, network, address)
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}

func (c *Cloud) dialHere(ctx context.Context, network, address string) (net.Conn, error) {
	ns, err := os.Open("/run/netns/" + c.Namespace)
	if err != nil {
		return nil, fmt.Errorf("open the namespace of %s: %w", c.Name, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the namespace of %s: %w", c.Name, err)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}
