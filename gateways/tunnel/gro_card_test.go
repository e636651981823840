//go:build linux && !race

package tunnel

import "testing"

// quic-go 0.65 notes a network card without trains in a variable that two goroutines use without a lock (send_conn.go,
// gotGSOError). Nothing hangs on which of them is first, but the race detector sees it: hence the build constraint.

// TestCardWithoutTrains is a network card that cannot send trains, which the kernel says with EIO: QUIC then sends packets.
func TestCardWithoutTrains(t *testing.T) {
	needOffload(t)
	from, sender, _ := counted(t)
	to, _, _ := counted(t)
	sender.noTrains = true
	carry(t, from, to, 1<<20)
	if n := sender.refused.Load(); n == 0 || n > 16 {
		t.Errorf("%d trains refused", n)
	}
}
