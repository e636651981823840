package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// idleSettle is how long flows idle before memory is read: a few rounds of a garbage collector that has nothing else to do.
const idleSettle = 3 * time.Second

// idle opens flows, echoes one byte on each, lets them idle and reads the memory of the processes, stage by stage.
func (l *load) idle(ctx context.Context) (r reading, err error) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for _, stage := range append([]int{0}, l.stages...) {
		more, err := l.open(ctx, stage-len(conns))
		conns = append(conns, more...)
		if err != nil {
			return r, fmt.Errorf("open flow %d: %w", len(conns)+1, err)
		}
		if !wait(ctx, time.Now().Add(idleSettle)) {
			return r, ctx.Err()
		}
		mb, err := pssMB(l.pids)
		if err != nil {
			return r, err
		}
		r.Memory = append(r.Memory, mb)
	}
	return r, nil
}

func (l *load) open(ctx context.Context, n int) ([]net.Conn, error) {
	conns := make([]net.Conn, max(n, 0))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range conns {
		group.Go(func() error {
			c, err := l.dial(ctx, l.address, kindEcho)
			if err != nil {
				return err
			}
			conns[i] = c
			if err := c.SetDeadline(time.Now().Add(perFlow)); err != nil {
				return err
			}
			if _, err := c.Write([]byte{'?'}); err != nil {
				return err
			}
			_, err = io.ReadFull(c, make([]byte, 1))
			return err
		})
	}
	err := group.Wait()
	if err != nil {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, err
	}
	return conns, nil
}

// wrk lets wrk make the requests: it costs half the processor time of the generator here, so more is left to the proxies.
func (l *load) wrk(ctx context.Context) (r reading, err error) {
	args := []string{"-t1", "-c" + strconv.Itoa(l.flows), fmt.Sprintf("-d%ds", int(max(l.window, time.Second)/time.Second)), "--latency"}
	if l.fresh {
		args = append(args, "-H", "Connection: close")
	}
	before, err := cpuSeconds(l.pids)
	if err != nil {
		return r, err
	}
	out, err := exec.CommandContext(ctx, "wrk", append(args, "http://"+l.address+"/")...).CombinedOutput()
	if err != nil {
		return r, fmt.Errorf("run wrk: %w\n%s", err, out)
	}
	after, err := cpuSeconds(l.pids)
	if err != nil {
		return r, err
	}
	r, err = parseWrk(string(out))
	r.CPU = after - before
	return r, err
}

var (
	wrkCounts = regexp.MustCompile(`(\d+) requests in ([0-9.a-z]+)`)
	wrkSocket = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkRanks  = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([0-9.]+(?:us|ms|s|m))\s*$`)
	wrkMax    = regexp.MustCompile(`(?m)^\s+Latency\s+\S+\s+\S+\s+(\S+)`)
)

// parseWrk reads what wrk prints.
func parseWrk(out string) (r reading, err error) {
	counts, ranks, most := wrkCounts.FindStringSubmatch(out), wrkRanks.FindAllStringSubmatch(out, -1), wrkMax.FindStringSubmatch(out)
	if counts == nil || len(ranks) != 2 || most == nil {
		return r, fmt.Errorf("wrk printed something else than expected:\n%s", out)
	}
	took := make([]time.Duration, 4)
	for i, text := range []string{counts[2], ranks[0][2], ranks[1][2], most[1]} {
		if took[i], err = time.ParseDuration(text); err != nil {
			return r, fmt.Errorf("parse what wrk printed: %w", err)
		}
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	r.Seconds, r.P50, r.P99, r.Max = took[0].Seconds(), ms(took[1]), ms(took[2]), ms(took[3])
	if r.Requests, err = strconv.Atoi(counts[1]); err != nil {
		return r, fmt.Errorf("parse what wrk printed: %w", err)
	}
	if failed := wrkSocket.FindStringSubmatch(out); failed != nil {
		for _, text := range failed[1:] {
			n, err := strconv.Atoi(text)
			if err != nil {
				return r, fmt.Errorf("parse what wrk printed: %w", err)
			}
			r.Errors += n
		}
	}
	if r.Requests == 0 {
		return r, fmt.Errorf("no request was answered:\n%s", out)
	}
	return r, nil
}
