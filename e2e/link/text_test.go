package link

import (
	"strings"
	"testing"
	"time"
)

func TestAProfileInWords(t *testing.T) {
	var p Profile
	text := "delay 20ms jitter 2ms jitter-reorders on loss 1.5% burst 2% 4 rate 200M queue 1M reorder 3% 10ms duplicate 0.001 " +
		"blackhole on mtu 1400 udp off tcp off"
	if err := p.Change(strings.Fields(text)); err != nil {
		t.Fatal(err)
	}
	want := Profile{Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond, JitterReorders: true, Loss: 0.015, Burst: Bursts(0.02, 4),
		Rate: 200e6, Queue: 1e6, Reorder: 0.03, ReorderDelay: 10 * time.Millisecond, Duplicate: 0.001, Blackhole: true, MTU: 1400,
		BlockUDP: true, BlockTCP: true}
	if p != want {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	for _, bad := range []string{"", "speed 1", "delay", "delay 5", "loss 101%", "loss x", "rate 1", "rate 5Mk", "burst 1%", "burst 1% 0",
		"burst 50% NaN", "blackhole yes", "mtu 1e300", "reorder 1%", "delay 10ms loss 2", "queue -1"} {
		if err := p.Change(strings.Fields(bad)); err == nil || p != want {
			t.Errorf("%q: error %v, changed %v", bad, err, p != want)
		}
	}
	if err := p.Change([]string{"perfect", "udp", "on"}); err != nil || p != (Profile{}) {
		t.Errorf("perfect: %v, %+v", err, p)
	}
}

func FuzzChange(f *testing.F) {
	f.Add("delay 20ms loss 1% burst 100% 2")
	f.Fuzz(func(t *testing.T, text string) {
		var p Profile
		if p.Change(strings.Fields(text)) == nil && p.validate() != nil {
			t.Errorf("%q made %+v", text, p)
		}
	})
}
