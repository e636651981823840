package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/federation"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	web     = federation.ServiceName{Namespace: "default", Name: "web"}
	address = netip.MustParseAddrPort("192.0.2.1:80")
	errDown = errors.New("down")
)

// bench runs a Checker inside a synctest bubble against a scripted answer and writes down when it asked and what it reported.
type bench struct {
	*Checker
	start time.Time
	stop  context.CancelFunc
	ended chan error

	mu       sync.Mutex
	asked    []time.Duration // since start
	reports  []federation.HealthReport
	answer   func(at time.Duration) outcome
	takes    time.Duration
	parallel int
	most     int
}

// newBench returns a running bench whose phases are all random: 0 puts the second attempt a whole interval after the first.
func newBench(t *testing.T, random float64, cfg Config) *bench {
	t.Helper()
	cfg.Rand = func() float64 { return random }
	b := &bench{Checker: New(cfg), start: time.Now(), ended: make(chan error, 1), answer: func(time.Duration) outcome { return outcome{} }}
	b.probe = func(ctx context.Context, _ *check) outcome {
		b.mu.Lock()
		at := time.Since(b.start)
		b.asked = append(b.asked, at)
		b.parallel++
		b.most = max(b.most, b.parallel)
		takes, answer := b.takes, b.answer
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			b.parallel--
			b.mu.Unlock()
		}()
		if takes > 0 {
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				return outcome{err: ctx.Err()}
			}
		}
		return answer(at)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	go func() {
		b.ended <- b.Run(ctx, func(r federation.HealthReport) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.reports = append(b.reports, r)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-b.ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	return b
}

// advance lets d of the bubble's time pass.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *bench) times() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// story returns the reports as "after 1s failing".
func (b *bench) story() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, r := range b.reports {
		out = append(out, r.Since.Sub(b.start).String()+" "+r.Health.String())
	}
	return out
}

// last returns the newest report.
func (b *bench) last() federation.HealthReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reports[len(b.reports)-1]
}

func (b *bench) say(answer func(time.Duration) outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

func watch(spec ...federation.CheckSpec) federation.CheckTarget {
	return federation.CheckTarget{Service: web, Instance: "1", Version: 1, Address: address, Checks: spec}
}

func ms(n ...int) []time.Duration {
	var out []time.Duration
	for _, v := range n {
		out = append(out, time.Duration(v)*time.Millisecond)
	}
	return out
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestFirstAttemptAtOnceThenAFixedPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0.75, Config{}) // the phase is a quarter of the interval after the first attempt
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP}))
		advance(1700 * time.Millisecond)
		same(t, "attempts", b.times(), ms(0, 125, 625, 1125, 1625))
		same(t, "reports", b.story(), []string{"0s unknown", "0s passing"})
	})
}

func TestThresholdsAndTheirTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.say(func(at time.Duration) outcome {
			switch {
			case at == 500*time.Millisecond, at >= 1500*time.Millisecond && at < 3*time.Second:
				return outcome{err: errDown}
			}
			return outcome{}
		})
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP, HealthyAfter: 3, UnhealthyAfter: 2}))
		advance(5 * time.Second)
		// One lost attempt at 0.5 s changes nothing; the second in a row at 2 s does; three good ones from 3 s on undo it at 4 s.
		got := b.story()
		same(t, "reports", got[len(got)-3:], []string{"0s passing", "2s failing", "4s passing"})
	})
}

func TestRefusedConnectionNeedsNoSecondAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.say(func(at time.Duration) outcome {
			if at > 0 {
				return outcome{err: errDown, definitive: true}
			}
			return outcome{}
		})
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP, UnhealthyAfter: 5}))
		advance(time.Second)
		got := b.story()
		same(t, "reports", got[len(got)-2:], []string{"0s passing", "500ms failing"})
	})
}

func TestSlowAnswersNeverOverlapAndKeepThePhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.takes = 700 * time.Millisecond
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP}))
		advance(3 * time.Second)
		same(t, "attempts", b.times(), ms(0, 1000, 2000, 3000))
		if b.most != 1 {
			t.Errorf("%d attempts of one check at a time", b.most)
		}
	})
}

func TestAttemptsInFlightAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{Concurrency: 4})
		b.takes = 100 * time.Millisecond
		for i := range 40 {
			b.Watch(federation.CheckTarget{Service: web, Instance: federation.InstanceID(rune('A' + i)), Address: address,
				Checks: []federation.CheckSpec{{Kind: federation.CheckTCP, Interval: federation.Duration(time.Minute)}}})
		}
		advance(950 * time.Millisecond)
		if s := b.Stats(); s.InFlight != 4 || s.Instances != 40 {
			t.Errorf("stats are %+v", s)
		}
		advance(100 * time.Millisecond)
		if n := len(b.times()); n != 40 || b.most != 4 {
			t.Errorf("%d attempts, at most %d at a time; want 40 and 4", n, b.most)
		}
	})
}

// TestChecksThatBeginTogetherSpread watches a thousand instances at once, as after a restart.
func TestChecksThatBeginTogetherSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		next := 0.0
		b.rand, b.takes = func() float64 { next = math.Mod(next+0.618, 1); return next }, time.Millisecond
		for i := range 1000 {
			to := watch(federation.CheckSpec{Kind: federation.CheckTCP, Interval: federation.Duration(time.Second)})
			to.Instance = federation.InstanceID(fmt.Sprint(i))
			b.Watch(to)
		}
		advance(5 * time.Second)
		var tenths [50]int
		for _, at := range b.times() {
			tenths[min(at/(100*time.Millisecond), 49)]++
		}
		if b.most > 256 {
			t.Errorf("%d attempts at a time", b.most)
		}
		for i, n := range tenths[20:] {
			if n < 90 || n > 110 {
				t.Errorf("%d attempts in the tenth of a second after %d00ms, want about 100", n, i+20)
			}
		}
	})
}

func TestLateChecksAreAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{Concurrency: 1})
		slow := federation.CheckSpec{Kind: federation.CheckTCP, Timeout: federation.Duration(10 * time.Second)}
		b.takes = time.Minute // nobody answers
		for _, id := range []federation.InstanceID{"1", "2"} {
			to := watch(slow)
			to.Instance = id
			b.Watch(to)
		}
		advance(900 * time.Millisecond)
		if d := b.Problem(); d != nil {
			t.Errorf("after 900ms: %v", d)
		}
		advance(200 * time.Millisecond)
		if d := b.Problem(); d == nil || d.Code != federation.CodeChecksLate || !strings.Contains(d.What, "late by 1.1s") {
			t.Errorf("after 1.1s: %v", d)
		}
	})
}

func TestFailureOfTheDataPathBringsTheCheckForwardAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		if b.ReportFailure(web, "1", "reset") {
			t.Error("an unknown instance has a check to make")
		}
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP, Interval: federation.Duration(10 * time.Second)}))
		advance(time.Second)
		b.say(func(time.Duration) outcome { return outcome{err: errDown, definitive: true} })
		for range 50 { // 50 failed calls in 250 ms
			b.ReportFailure(web, "1", "connection reset")
			advance(5 * time.Millisecond)
		}
		advance(time.Second)
		same(t, "attempts", b.times(), ms(0, 1000, 1100, 1200, 1300))
		got := b.story()
		same(t, "last report", got[len(got)-1], "1s failing")
	})
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		if b.Beat(web, "1", federation.HealthPassing, "") {
			t.Error("an unknown instance has a TTL check")
		}
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTTL, TTL: federation.Duration(10 * time.Second)}))
		advance(9 * time.Second)
		b.Beat(web, "1", federation.HealthPassing, "all is well")
		advance(10*time.Second - time.Nanosecond)
		same(t, "reports", b.story(), []string{"0s passing"})
		advance(time.Nanosecond) // exactly one TTL after the beat
		same(t, "reports", b.story(), []string{"0s passing", "19s failing"})
		b.Beat(web, "1", federation.HealthPassing, "")
		synctest.Wait()
		same(t, "reports", b.story(), []string{"0s passing", "19s failing", "19s passing"})
		b.Beat(web, "1", federation.HealthFailing, "disk \x1b[31mfull")
		advance(time.Hour) // silence does not make it better
		same(t, "reports", b.story(), []string{"0s passing", "19s failing", "19s passing", "19s failing"})
		if s := b.Status(web, "1")[0]; s.Reason != "no heartbeat within 10s" || s.Health != federation.HealthFailing {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestChangedTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		spec := federation.CheckSpec{Kind: federation.CheckTCP}
		b.Watch(watch(spec))
		advance(time.Second)

		// The same check at the same address keeps its state and its phase; the new version is reported.
		next := watch(spec)
		next.Version = 2
		b.Watch(next)
		synctest.Wait()
		last := b.last()
		if last.Version != 2 || last.Health != federation.HealthPassing {
			t.Errorf("report of the second version is %+v", last)
		}
		same(t, "attempts", b.times(), ms(0, 500, 1000))

		// Another address is another thing: unknown until it has answered, and an answer of the former one does not count.
		b.mu.Lock()
		b.takes = 200 * time.Millisecond
		b.mu.Unlock()
		advance(500 * time.Millisecond) // in flight from 1.5 s to 1.7 s
		b.say(func(time.Duration) outcome { return outcome{err: errDown} })
		next.Version, next.Address = 3, netip.MustParseAddrPort("192.0.2.2:80")
		b.Watch(next)
		advance(100 * time.Millisecond)
		last = b.last()
		if last.Version != 3 || last.Health != federation.HealthUnknown {
			t.Errorf("report of the third version is %+v", last)
		}
		advance(200 * time.Millisecond)
		last = b.last()
		if last.Version != 3 || last.Health != federation.HealthFailing {
			t.Errorf("report of the third version's check is %+v", last)
		}

		b.Watch(federation.CheckTarget{Service: web, Instance: "1"})
		before := len(b.times())
		advance(time.Minute)
		if len(b.times()) != before || b.Status(web, "1") != nil {
			t.Error("a forgotten instance is still checked")
		}
	})
}

func TestSeveralChecksAreAsGoodAsTheWorst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.probe = func(_ context.Context, k *check) outcome {
			if k.spec.Kind == federation.CheckHTTP {
				return outcome{err: errDown, output: "not today"}
			}
			return outcome{}
		}
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP}, federation.CheckSpec{Kind: federation.CheckHTTP, Path: "/ready"}))
		synctest.Wait()
		last := b.last()
		if last.Health != federation.HealthFailing || last.Reason != "http 192.0.2.1:80/ready: down" {
			t.Errorf("report is %+v", last)
		}
		s := b.Status(web, "1")
		if s[0].Health != federation.HealthPassing || s[1].Output != "not today" || s[1].Failures != 1 {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestRunEndsWithItsAttemptsAndCanRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.takes = time.Second
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP}))
		advance(100 * time.Millisecond)
		b.stop()
		if err := <-b.ended; err != nil || b.parallel != 0 {
			t.Errorf("Run ended with %v and %d attempts in flight", err, b.parallel)
		}
		if h := b.Status(web, "1")[0].Health; h != federation.HealthUnknown {
			t.Errorf("an attempt that was broken off made the check %v", h)
		}
		ctx, cancel := context.WithCancel(t.Context())
		b.takes = 0
		go func() { b.ended <- b.Run(ctx, func(federation.HealthReport) {}) }()
		advance(time.Second)
		cancel()
		if h := b.Status(web, "1")[0].Health; h != federation.HealthPassing {
			t.Errorf("after a second Run the check is %v", h)
		}
	})
}

func TestTargetsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		bad := watch(federation.CheckSpec{Kind: federation.CheckHTTP})
		bad.Address = netip.MustParseAddrPort("169.254.169.254:80")
		b.Watch(bad)
		odd := watch(federation.CheckSpec{Kind: "ping"})
		odd.Instance = "2"
		b.Watch(odd)
		advance(time.Minute)
		if len(b.times()) != 0 {
			t.Error("a refused target was asked")
		}
		for id, want := range map[federation.InstanceID]string{"1": "TW-5010 ", "2": "TW-5011 "} {
			s := b.Status(web, id)[0]
			if s.Health != federation.HealthFailing || len(s.Reason) < 8 || s.Reason[:8] != want {
				t.Errorf("status of %s is %+v", id, s)
			}
		}
	})
}

func TestFailureDuringAnAttemptAsksForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.takes = 300 * time.Millisecond
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP, Interval: federation.Duration(time.Minute)}))
		advance(50 * time.Millisecond)
		if !b.ReportFailure(web, "1", "reset") {
			t.Error("no check to make")
		}
		advance(time.Second)
		same(t, "attempts", b.times(), ms(0, 300))
	})
}

func TestForgottenAttemptIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0, Config{})
		b.takes = time.Hour
		b.Watch(watch(federation.CheckSpec{Kind: federation.CheckTCP}))
		advance(50 * time.Millisecond)
		b.Watch(federation.CheckTarget{Service: web, Instance: "1"})
		synctest.Wait()
		if s := b.Stats(); s.InFlight != 0 || s.Instances != 0 || s.Waiting != 0 {
			t.Errorf("stats are %+v", s)
		}
	})
}

// page is a buffer that is written to while it is read.
type page struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

func TestChangesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines page
		b := newBench(t, 0, Config{Log: slog.New(slog.NewTextHandler(&lines, nil))})
		b.say(func(at time.Duration) outcome {
			if at >= time.Second && at < 2*time.Second {
				return outcome{err: errDown, definitive: true}
			}
			return outcome{}
		})
		const instances = maxLines + 5
		for i := range instances {
			to := watch(federation.CheckSpec{Kind: federation.CheckTCP})
			to.Instance = federation.InstanceID(fmt.Sprint(i))
			b.Watch(to)
		}
		advance(500 * time.Millisecond)
		same(t, "lines while all is well", lines.String(), "")
		advance(3 * time.Second)
		log := lines.String()
		for text, want := range map[string]int{`level=WARN msg="instance fails its checks" service=web`: maxLines,
			`reason="tcp 192.0.2.1:80: down"`: maxLines, `level=INFO msg="instance no longer fails its checks"`: maxLines,
			"health=passing after=1s": maxLines, `msg="more instances change"`: 2} {
			if got := strings.Count(log, text); got != want {
				t.Errorf("%q stands there %d times, want %d\n%s", text, got, want, log)
			}
		}
	})
}
