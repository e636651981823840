package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A bench is one run: what it was asked for, and what it has measured so far.
type bench struct {
	options     options
	self        string // this program
	dir         string // everything the run writes beside its results; removed at the end
	begin       time.Time
	congestion  string
	descriptors int // that each process may have open
	all         map[string]*series
	order       []string
	versions    map[string]string
	notes       []string
}

// enough is how many files a process here had better be allowed to have open: a proxy has two for each of 10,000 flows.
const enough = 65536

// raiseDescriptors raises the limit of open files, of this process and those it starts, as far as it may, and returns it.
func raiseDescriptors() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	if wider := (unix.Rlimit{Cur: enough, Max: enough}); limit.Max < enough && unix.Setrlimit(unix.RLIMIT_NOFILE, &wider) == nil {
		return enough, nil
	}
	limit.Cur = min(limit.Max, enough)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return int(limit.Cur), nil
}

func newBench(o options) (*bench, error) {
	b := &bench{options: o, begin: time.Now(), all: map[string]*series{}, versions: map[string]string{}}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find the own program: %w", err)
	}
	if b.options.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, fmt.Errorf("find the programs: %w", err)
	}
	if b.congestion, err = settle(o.isolated); err != nil {
		return nil, err
	}
	if b.congestion == "bbr" {
		b.note("TCP uses BBR here, which slows the TCP yardsticks on loopback: compare them in a namespace")
	}
	if b.descriptors, err = raiseDescriptors(); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "tradewind-bench-"); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	return b, nil
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) }

// run measures. Its error says what could not be measured.
func (b *bench) run(ctx context.Context) error {
	b.say("TCP congestion control: %s (measured in: %s)", b.congestion, b.options.isolated)
	if !b.options.quick {
		if os.Geteuid() != 0 || b.options.isolated != inNamespace {
			return errors.New("the emulated link needs root: run sudo make bench, or make bench-quick without")
		}
		for _, s := range []subject{haproxy, nginx} {
			if missing := s.missing(); len(missing) > 0 {
				return fmt.Errorf("%s is not installed: make bench installs it from Debian", strings.Join(missing, ", "))
			}
		}
	}
	if err := errors.Join(b.loopback(ctx), b.idleness(ctx)); err != nil || b.options.quick {
		return err
	}
	return errors.Join(b.overLink(ctx), b.deathsUnderLoad(ctx))
}

// say prints a line for whoever watches.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// note keeps a line that belongs to the results.
func (b *bench) note(text string) { b.notes = append(b.notes, text) }

func (b *bench) wanted(name string) bool {
	return b.options.only == "" || slices.Contains(strings.Split(b.options.only, ","), name)
}

// seconds is a time of the plan, a tenth of it for the smoke run.
func (b *bench) seconds(n float64) time.Duration {
	if b.options.smoke {
		n /= 10
	}
	return time.Duration(n * float64(time.Second))
}

func (b *bench) rounds(n int) int {
	switch {
	case b.options.smoke:
		return 1
	case b.options.rounds > 0:
		return min(n, b.options.rounds)
	}
	return n
}

func (b *bench) series(name, what string) *series {
	if b.all[name] == nil {
		b.all[name] = newSeries(name, what)
		b.order = append(b.order, name)
	}
	return b.all[name]
}

// noteVersion keeps which version of a program was measured.
func (b *bench) noteVersion(s subject) {
	if len(s.version) == 0 || b.versions[s.name] != "" {
		return
	}
	if out, err := exec.Command(s.version[0], s.version[1:]...).CombinedOutput(); err == nil {
		first, _, _ := bytes.Cut(out, []byte("\n"))
		b.versions[s.name] = string(first)
	}
}

// machine says what the figures were found on.
func (b *bench) machine() Machine {
	m := Machine{Processors: runtime.NumCPU(), Congestion: b.congestion, MeasuredIn: b.options.isolated}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	field := func(file, key string) string {
		data, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(data), key)
		line, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(strings.TrimLeft(line, "\t: "))
	}
	m.CPU, m.Memory = field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal:")
	return m
}

// jsonLine is the last line of the output, for scripts: the goals and nothing else.
func jsonLine(verdicts map[string]Verdict) ([]byte, error) {
	short := map[string]Verdict{}
	for id, v := range verdicts {
		v.What = ""
		short[id] = v
	}
	line, err := json.Marshal(map[string]any{"goals": short})
	if err != nil {
		return nil, fmt.Errorf("encode the goals: %w", err)
	}
	return line, nil
}
