package peering

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// link is a session with its queues. It has one reader, which hands frames to the owner one at a time, so that a busy owner
// slows the peer down instead of filling memory; and up to four writers, started when first used, so that a lane that the
// peer does not drain holds up no other.
type link struct {
	session Session
	dialled bool // by us
	since   time.Time
	frames  chan frame    // to the owner; no buffer
	dead    chan struct{} // closed when the session has ended, whatever ended it
	once    sync.Once
	cause   *federation.Diagnostic      // why; written before dead is closed
	queues  [len(queueSizes)]chan frame // nil until first used; touched by the owner only

	mu      sync.Mutex
	sealed  bool // no writer may start any more
	writers sync.WaitGroup
}

type frame struct {
	lane exchange.Lane
	data []byte
}

// Which queue a lane's frames go through, and how many frames a queue holds. Bulk and membership are windowed by the
// exchange and never needed at the same time, so they share one.
var (
	queueOf = [exchange.Lanes]int{
		exchange.LaneControl: 0, exchange.LaneUrgent: 1, exchange.LaneHealth: 2, exchange.LaneMembership: 3, exchange.LaneBulk: 3,
	}
	queueSizes = [4]int{256, 64, 64, 64} // 1 MiB of control, 4 MiB of each other
)

func newLink(s Session, dialled bool) *link {
	return &link{session: s, dialled: dialled, frames: make(chan frame), dead: make(chan struct{})}
}

// end closes the session, once; later calls change nothing. err is nil when the end was decided here.
func (l *link) end(code uint64, reason string, err error) {
	l.once.Do(func() {
		d := &federation.Diagnostic{Code: federation.CodeSessionEnded, What: "session closed here", Why: reason, Err: err}
		if err != nil {
			d.What, d.Why = "session ended", printable(err.Error(), maxDetail)
		}
		if code == CodeSlow {
			d.Code = federation.CodeLaneBlocked
		}
		l.cause = d
		close(l.dead)
		l.session.Close(code, reason)
	})
}

// read hands frames to the owner until the session ends. It runs on the goroutine that brought the session.
func (l *link) read(ctx context.Context) {
	for {
		lane, data, err := l.session.Receive(ctx)
		switch {
		case ctx.Err() != nil:
			l.end(CodeShutdown, "the gateway ends", nil)
			return
		case err != nil:
			l.end(exchange.CodeNone, "", err)
			return
		case lane >= exchange.Lanes || len(data) > exchange.MaxFrameOn(lane):
			l.end(exchange.CodeLimit, "frame is too long or on no lane", nil)
			return
		}
		select {
		case l.frames <- frame{lane, data}:
		case <-l.dead:
			return
		}
	}
}

// send queues a frame. It never blocks: a queue that is full belongs to a lane that does not drain, and ends the session.
func (l *link) send(ctx context.Context, f frame) {
	if int(f.lane) >= len(queueOf) {
		return
	}
	i := queueOf[f.lane]
	if l.queues[i] == nil {
		l.queues[i] = make(chan frame, queueSizes[i])
		l.startWriter(ctx, l.queues[i])
	}
	select {
	case l.queues[i] <- f:
	default:
		l.end(CodeSlow, fmt.Sprintf("%s lane does not drain: %d frames wait", f.lane, queueSizes[i]), nil)
	}
}

func (l *link) startWriter(ctx context.Context, queue <-chan frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.sealed {
		l.writers.Go(func() { l.write(ctx, queue) })
	}
}

func (l *link) write(ctx context.Context, queue <-chan frame) {
	for {
		select {
		case <-l.dead:
			return
		case f := <-queue:
			if !l.writeOne(ctx, f) {
				return
			}
		}
	}
}

func (l *link) writeOne(ctx context.Context, f frame) bool {
	limited, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	err := l.session.Send(limited, f.lane, f.data)
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil:
		l.end(CodeShutdown, "the gateway ends", nil)
	case errors.Is(err, context.DeadlineExceeded):
		l.end(CodeSlow, fmt.Sprintf("%s lane does not drain: a frame waited for %v", f.lane, sendTimeout), nil)
	default:
		l.end(exchange.CodeNone, "", err)
	}
	return false
}

// wait returns after the writers have ended, which they do soon after dead is closed.
func (l *link) wait() {
	l.mu.Lock()
	l.sealed = true // the owner may not know yet that the session is over
	l.mu.Unlock()
	l.writers.Wait()
}
