package peering

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// TestSessionsWithoutEndAreRefused: a peer that opens sessions as fast as it can costs neither a log nor its own last services,
// and comes back when it has calmed down.
func TestSessionsWithoutEndAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var lines lineCount
		a := w.add("a", func(n *node) { n.log = slog.New(slog.NewTextHandler(&lines, nil)) })
		b, c := w.add("b"), w.add("c")
		w.join(a, b)
		w.join(a, c)
		pass(20 * time.Second)
		w.partition("a", "b")
		w.killSessions("b")
		pass(time.Second)
		w.heal()
		lines.n.Store(0)
		var accepting sync.WaitGroup
		for range 1000 {
			p := newPipe(b, a)
			accepting.Go(func() { a.m.Accept(t.Context(), "b", p.b) })
			_ = p.a.Send(t.Context(), exchange.LaneControl, []byte("noise"))
			pass(10 * time.Millisecond)
			p.die(errors.New("left"))
		}
		accepting.Wait()
		if n := lines.n.Load(); n > 100 {
			t.Errorf("%d lines in the log within 10 s", n)
		}
		if s := a.show("b"); s.Alarm == nil || s.Alarm.Code != exchange.DiagLimit {
			t.Errorf("alarm: %+v", s.Alarm)
		}
		if s := a.show("c"); s.State != federation.PeeringActive {
			t.Errorf("c is %v", s.State)
		}
		a.mustImport("b", "b-shop")
		a.await("b", federation.PeeringActive, time.Minute)
	})
}

// lineCount counts what is written to it.
type lineCount struct{ n atomic.Int64 }

func (l *lineCount) Write(b []byte) (int, error) {
	l.n.Add(1)
	return len(b), nil
}

// TestBundlesThatAreRefusedDoNotFloodTheLog: each is refused, and said once a minute.
func TestBundlesThatAreRefusedDoNotFloodTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var lines lineCount
		a := w.add("a", func(n *node) {
			n.log = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelError}))
		})
		b := w.add("b")
		w.join(a, b)
		a.stop()
		a.trust = refusingTrust{a.authority, errors.New("it is no bundle")}
		a.start()
		a.await("b", federation.PeeringActive, time.Minute)
		for i := range 20 {
			if err := b.authority.Revoke(t.Context(), fmt.Sprintf("spiffe://b.mesh.internal/gw/gw-%d", i), "test"); err != nil {
				t.Fatal(err)
			}
			pass(2 * time.Second)
		}
		if n := lines.n.Load(); n != 1 {
			t.Errorf("%d alarms within 40 s", n)
		}
	})
}
