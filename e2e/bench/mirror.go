package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Mirrored flows: each sends bytes that can be computed again, gets them back from the backend and checks every one, in order, to
// the end. Every other flow is paced, so that it stays small; the rest send as fast as they may.

// mirrorChunk is how much a paced flow sends at a time, rate times a second, in octets.
const mirrorChunk = 1 << 10

// lastWait is how long a flow that has sent all may take to get the rest back. A flow that hangs counts as reset after it.
const lastWait = 30 * time.Second

// noise is the content of a flow, the same for the same flow each time.
type noise struct{ *rand.PCG }

func newNoise(flow uint64) noise { return noise{rand.NewPCG(flow, 0x7472616465)} }

// fill writes the next bytes. Both ends must ask for multiples of eight; only the last chunk may be cut.
func (n noise) fill(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], n.Uint64())
	}
}

// mirror keeps flows going until the window ends, each to its own end; a flow that dies is counted and replaced.
func (l *load) mirror(ctx context.Context) (r reading, err error) {
	end := time.Now().Add(l.window)
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range l.flows {
		wg.Go(func() {
			paced := i%2 == 1
			for time.Now().Before(end) && ctx.Err() == nil {
				got, wrong, err := l.reflect(ctx, newNoise(next.Add(1)).twin(), paced, end)
				mu.Lock()
				r.Requests++
				r.Bytes += float64(got)
				r.Wrong += wrong
				switch {
				case err == nil:
				case got > 0:
					r.Resets++
					r.Last = err.Error()
				default:
					r.Errors++ // it never began
				}
				mu.Unlock()
				if err != nil && !wait(ctx, time.Now().Add(100*time.Millisecond)) {
					return
				}
			}
		})
	}
	wg.Wait()
	r.Seconds = l.window.Seconds()
	return r, ctx.Err()
}

// twin returns the content twice: to send, and to compare with.
func (n noise) twin() [2]noise {
	again := *n.PCG
	return [2]noise{n, {&again}}
}

// reflect runs one flow until end. It returns how many octets came back, how many of them were wrong, and why it died, if it did.
func (l *load) reflect(ctx context.Context, content [2]noise, paced bool, end time.Time) (got int64, wrong int, err error) {
	c, err := l.dial(ctx, l.address, kindMirror)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(end.Add(lastWait)); err != nil {
		return 0, 0, err
	}
	type sum struct {
		octets int64
		err    error
	}
	sent := make(chan sum, 1)
	go func() {
		var s sum
		s.octets, s.err = l.send(ctx, c, content[0], paced, end)
		sent <- s
	}()
	got, wrong, err = compare(c, content[1])
	if err != nil {
		c.Close() // ends the sender too
	}
	s := <-sent
	if err = errors.Join(err, s.err); err == nil && got != s.octets {
		err = io.ErrUnexpectedEOF
	}
	return got, wrong, err
}

func (l *load) send(ctx context.Context, c net.Conn, content noise, paced bool, end time.Time) (sent int64, err error) {
	size := 64 << 10
	if paced {
		size = mirrorChunk
	}
	buf := make([]byte, size)
	for time.Now().Before(end) {
		content.fill(buf)
		n, err := c.Write(buf)
		sent += int64(n)
		if err != nil {
			return sent, err
		}
		if paced && !wait(ctx, time.Now().Add(time.Duration(float64(time.Second)/l.rate))) {
			return sent, ctx.Err()
		}
	}
	return sent, c.(*net.TCPConn).CloseWrite()
}

// compare reads to the end and counts the octets that are not those of content.
func compare(r io.Reader, content noise) (got int64, wrong int, err error) {
	buf, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(r, buf)
		content.fill(want)
		if !bytes.Equal(buf[:n], want[:n]) {
			for i, b := range buf[:n] {
				if b != want[i] {
					wrong++
				}
			}
		}
		got += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return got, wrong, nil
		}
		if err != nil {
			return got, wrong, err
		}
	}
}
