package l7

import (
	"sync/atomic"
	"time"
)

// clocked is a connection that is cut off when nothing moves. Setting a deadline costs as much as a small copy, so one that is late
// enough stays: who is silent is cut off after seven eighths of the time at least.
type clocked struct {
	Conn
	direct *direct       // reads and writes in its place; nil: there is none
	idle   time.Duration // 0: for ever
	mode   clockMode
	held   atomic.Bool // the deadline of writing stays
	ended  atomic.Bool // see interrupt

	readBy, writeBy time.Time // as they are set
}

type clockMode uint8

const (
	running clockMode = iota // a message is under way: each read has the idle timeout
	resting                  // a message is awaited: the deadline that is set, and after the first octets headTimeout
	begun                    // a head has begun, and is not whole
	fixed                    // the deadline that is set stays
)

// expect gives the next message so long.
func (c *clocked) expect(d time.Duration) {
	c.mode = fixed
	_ = c.SetReadDeadline(time.Now().Add(d))
}

// await waits for a message to begin.
func (c *clocked) await() {
	c.mode = resting
	c.readWithin(c.idle)
}

// goOn lets a message go on.
func (c *clocked) goOn() { c.mode = running }

// until holds the deadline of both directions at t; zero: as the idle timeout has it.
func (c *clocked) until(t time.Time) {
	c.mode = running
	if c.held.Store(!t.IsZero()); !t.IsZero() {
		c.mode = fixed
		_, _ = c.SetReadDeadline(t), c.SetWriteDeadline(t)
	}
}

// stop takes the clock away.
func (c *clocked) stop() {
	c.mode = fixed
	c.held.Store(true)
	_, _ = c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{})
}

// wait lets a read that waits for a message wait for so long only. Unlike the others it may be called at any time.
func (c *clocked) wait(d time.Duration) { _ = c.Conn.SetReadDeadline(time.Now().Add(d)) }

// forget has the next read set its deadline anew, after wait.
func (c *clocked) forget() { c.readBy = past }

// interrupt ends a read that is under way, and every later one. It may be called at any time.
func (c *clocked) interrupt() {
	c.ended.Store(true)
	_ = c.Conn.SetReadDeadline(past)
}

// SetReadDeadline implements Conn.
func (c *clocked) SetReadDeadline(t time.Time) error {
	if t.IsZero() && c.readBy.IsZero() {
		return nil
	}
	c.readBy = t
	err := c.Conn.SetReadDeadline(t)
	if c.ended.Load() {
		return c.Conn.SetReadDeadline(past)
	}
	return err
}

// SetWriteDeadline implements Conn.
func (c *clocked) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && c.writeBy.IsZero() {
		return nil
	}
	c.writeBy = t
	return c.Conn.SetWriteDeadline(t)
}

// readWithin gives the next read d, or a little less.
func (c *clocked) readWithin(d time.Duration) {
	if t, late := due(c.readBy, d); late {
		_ = c.SetReadDeadline(t)
	}
}

// due returns the deadline in d from now, and whether it has to be set where there is one already.
func due(set time.Time, d time.Duration) (t time.Time, late bool) {
	if d == 0 {
		return time.Time{}, !set.IsZero()
	}
	if left := time.Until(set); left >= d-d/8 && left <= d { // until there is a deadline, set is the year 1
		return set, false
	}
	return time.Now().Add(d), true
}

func (c *clocked) Read(p []byte) (int, error) {
	switch c.mode {
	case running:
		c.readWithin(c.idle)
	case begun:
		c.expect(headTimeout)
	}
	var n int
	var err error
	if c.direct != nil {
		n, err = c.direct.Read(p)
	} else {
		n, err = c.Conn.Read(p)
	}
	if c.mode == resting && n > 0 {
		c.mode = begun
	}
	return n, err
}

func (c *clocked) Write(p []byte) (int, error) {
	if !c.held.Load() {
		if t, late := due(c.writeBy, c.idle); late {
			_ = c.SetWriteDeadline(t)
		}
	}
	if c.direct != nil {
		return c.direct.Write(p)
	}
	return c.Conn.Write(p)
}
