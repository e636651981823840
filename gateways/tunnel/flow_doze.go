package tunnel

// Doze blocks until there may be something to read, or the read deadline has passed, and consumes nothing. Unlike AwaitRead it does
// so within the 2 KiB of stack that a goroutine begins with, where that is possible: many flows are idle.
func (f *Flow) Doze() {
	f.readMu.Lock()
	defer f.readMu.Unlock()
	l := f.only.Load()
	if l == nil || l.headerN > 0 || l.left > 0 || f.readErr != nil {
		return // in the middle of something, which goes on at once
	}
	if c, ok := l.c.(*quicCarrier); ok {
		c.wait()
	}
}

// wait blocks until the stream has something to read, an end, or an error, which the next Read meets again.
func (c *quicCarrier) wait() {
	var b [1]byte
	_, _ = c.Peek(b[:])
}

// awaitFrame is step. It waits for the frame here, because a goroutine that waits further down takes twice the stack.
func (f *Flow) awaitFrame(l *leg) error {
	if l.headerN == 0 && !f.in.Ended() {
		n, err := l.c.Read(l.header[:])
		l.headerN = int8(n)
		if n == 0 && err != nil {
			return f.readFailed(l, err)
		}
	}
	return f.step()
}
