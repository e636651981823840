package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A diary is a network that notes what is done to it, and when.
type diary struct {
	begin    time.Time
	profiles [3]link.Profile
	entries  []string
}

func (d *diary) note(format string, args ...any) {
	d.entries = append(d.entries, fmt.Sprintf("%v ", time.Since(d.begin))+fmt.Sprintf(format, args...))
}

func (d *diary) Profile(way link.Direction) link.Profile { return d.profiles[way] }

func (d *diary) Set(way link.Direction, p link.Profile) error {
	d.profiles[way] = p
	d.note("%d delay %v loss %v", way, p.Delay, p.Loss)
	return nil
}

func (d *diary) Rebind(s link.Side) { d.note("rebind %d", s) }

func (d *diary) Stats() link.Stats {
	d.note("stats")
	return link.Stats{AToB: link.Counters{Lost: 3}}
}

func TestAScriptIsPlayedOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := `
# comment
at 5s both loss 1%
both delay 20ms
at 9s rebind b
at 7s a>b loss 0
at 9s stats
at 6s b>a jitter 30ms
at 6s go home
at soon stats
at 10s end
at 11s stats`
		d := &diary{begin: time.Now()}
		var out bytes.Buffer
		if err := play(t.Context(), read(t.Context(), strings.NewReader(script)), d, printer{out: &out}); err != nil {
			t.Fatal(err)
		}
		want := []string{"0s 1 delay 20ms loss 0", "0s 2 delay 20ms loss 0", "5s 1 delay 20ms loss 0.01", "5s 2 delay 20ms loss 0.01",
			"7s 1 delay 20ms loss 0", "9s rebind 1", "9s stats"}
		if got := strings.Join(d.entries, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		for _, said := range []string{`"at 6s go home" is none of`, `"soon" is no time`, "error at 6s",
			"jitter 30ms is not from 0 to the delay, 20ms", "a>b packets 0 octets 0 delivered 0 lost 3"} {
			if !strings.Contains(out.String(), said) {
				t.Errorf("it does not say %q:\n%s", said, out.String())
			}
		}
	})
}

func TestAScriptWithoutEndPlaysUntilItIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		begin := time.Now()
		var out bytes.Buffer
		if err := play(ctx, read(ctx, strings.NewReader("stats")), &diary{}, printer{out: &out, asJSON: true}); err != nil {
			t.Fatal(err)
		}
		var s link.Stats
		if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.AToB.Lost != 3 || time.Since(begin) != time.Hour {
			t.Errorf("%v after %v: %s", err, time.Since(begin), out.String())
		}
	})
}

// lockedBuffer is written by the command while the test reads it.
type lockedBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}
func (b *lockedBuffer) String() string { b.Lock(); defer b.Unlock(); return b.Buffer.String() }

// TestTheCommandRemovesWhatItMade ends it once by its script and once as a signal does.
func TestTheCommandRemovesWhatItMade(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("network namespaces need root: run sudo make e2e")
	}
	left, right := fmt.Sprintf("tw%d-left", os.Getpid()), fmt.Sprintf("tw%d-right", os.Getpid())
	if text, err := exec.Command("ip", "netns", "add", right).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	defer func() { _ = exec.Command("ip", "netns", "del", right).Run() }()
	args := []string{"-a", left + "=10.0.1.1/24,2001:db8::1/64", "-b", right + "=10.0.2.1/24,2001:db8::2/64", "-mtu", "1400", "-json"}
	for _, end := range []string{"end", ""} {
		ctx, stop := context.WithCancel(t.Context())
		in, lines := io.Pipe()
		var out lockedBuffer
		done := make(chan error, 1)
		go func() { done <- run(ctx, args, in, &out) }()
		fmt.Fprintln(lines, "now both blackhole on") // taken when it is ready
		for _, want := range [][]string{{"addr", "show", "dev", "eth0"}, {"route", "get", "10.0.2.1"}} {
			text, err := exec.Command("ip", append([]string{"-n", left}, want...)...).CombinedOutput()
			if err != nil || !strings.Contains(string(text), "eth0") || want[0] == "addr" && !strings.Contains(string(text), "mtu 1400") {
				t.Errorf("ip %v: %v: %s", want, err, text)
			}
		}
		if end == "" {
			stop()
		} else {
			fmt.Fprintln(lines, end)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		stop()
		lines.Close()
		if _, err := os.Stat("/run/netns/" + left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("namespace %s is still there: %v", left, err)
		}
		if _, err := os.Stat("/run/netns/" + right); err != nil {
			t.Errorf("namespace %s was there before, and is gone: %v", right, err)
		}
	}
}

func TestMistakesOfUse(t *testing.T) {
	for name, args := range map[string][]string{
		"no ends":        nil,
		"one end":        {"-a", "left=10.0.0.1/24"},
		"no address":     {"-a", "left", "-b", "right=10.0.0.2/24"},
		"a path":         {"-a", "../x=10.0.0.1/24", "-b", "right=10.0.0.2/24"},
		"the same twice": {"-a", "x=10.0.0.1/24", "-b", "x=10.0.0.2/24"},
		"more words":     {"-a", "x=10.0.0.1/24", "-b", "y=10.0.0.2/24", "now"},
	} {
		if err := run(t.Context(), args, strings.NewReader(""), io.Discard); err == nil || errors.Is(err, link.ErrNotRoot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
