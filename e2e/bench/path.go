package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

// The emulated path: a good one between two clouds of different continents, slow enough that two processors fill it and can still
// run the proxies.
const (
	roundTrip = 40 * time.Millisecond
	linkRate  = 200e6 // bit/s each way
	linkQueue = 1e6   // octets: one product of rate and delay
)

// quality is the profile of both directions with a share of lost packets in percent.
func quality(percent int) link.Profile {
	return link.Profile{Delay: roundTrip / 2, Rate: linkRate, Queue: linkQueue, Loss: float64(percent) / 100}
}

// A path is two namespaces that reach each other over the emulator only.
type path struct {
	*link.Link
	near, far site
	stop      context.CancelFunc
	done      chan error
}

// congestion over the path: BBR is the best that the TCP yardsticks can have on a path that loses packets, so where the host has
// it they get it, and Tradewind with them.
const pathCongestion = "bbr"

func (b *bench) newPath(ctx context.Context) (*path, error) {
	prefix := fmt.Sprintf("twb%d", os.Getpid()%100000)
	p := &path{near: site{prefix + "-near", "192.0.2.11"}, far: site{prefix + "-far", "192.0.2.12"}, done: make(chan error, 1)}
	for _, s := range []site{p.near, p.far} {
		if out, err := exec.CommandContext(ctx, "ip", "netns", "add", s.namespace).CombinedOutput(); err != nil {
			p.remove()
			return nil, fmt.Errorf("make namespace %s: %w: %s", s.namespace, err, out)
		}
		got := pathCongestion
		err := link.Inside(s.namespace, func() error {
			if os.WriteFile(congestionFile, []byte(pathCongestion), 0o644) == nil {
				return nil
			}
			now, err := os.ReadFile(congestionFile)
			got = strings.TrimSpace(string(now))
			return err
		})
		if err != nil {
			p.remove()
			return nil, fmt.Errorf("choose the congestion control: %w", err)
		}
		if note := "congestion control of TCP over the emulated link: " + got; !slices.Contains(b.notes, note) {
			b.note(note)
		}
	}
	end := func(s site) link.End {
		return link.End{Namespace: s.namespace, Addresses: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(s.address), 24)}}
	}
	var err error
	if p.Link, err = link.New(link.Config{A: end(p.near), B: end(p.far), AToB: quality(0), BToA: quality(0)}); err != nil {
		p.remove()
		return nil, err
	}
	// Not the caller's context: what still runs when that ends may use the path until it is closed.
	var carrying context.Context
	carrying, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() { p.done <- p.Run(carrying) }()
	return p, nil
}

func (p *path) close() error {
	p.stop()
	err := <-p.done
	p.remove()
	return err
}

func (p *path) remove() {
	for _, s := range []site{p.near, p.far} {
		_ = exec.Command("ip", "netns", "del", s.namespace).Run() // it may never have been made
	}
}

// strain says what the emulator itself did to the packets of a measurement; empty when nothing.
func strain(before, after link.Stats) string {
	count := func(f func(link.Counters) uint64) uint64 {
		return f(after.AToB) + f(after.BToA) - f(before.AToB) - f(before.BToA)
	}
	late := count(func(c link.Counters) uint64 { return c.Late })
	packets := count(func(c link.Counters) uint64 { return c.Packets })
	dropped := count(func(c link.Counters) uint64 { return c.Overruns + c.Overflow })
	if dropped == 0 && late*100 < packets {
		return ""
	}
	return fmt.Sprintf("the emulator was late for %d of %d packets and dropped %d of its own", late, packets, dropped)
}

// overPath is what a reading means on the emulated path.
func overPath(r reading) figures {
	trips := func(ms float64) float64 { return ms * float64(time.Millisecond) / float64(roundTrip) }
	f := figures{p50RTT: trips(r.P50), p99RTT: trips(r.P99), failures: float64(r.Errors)}
	if r.Bytes > 0 {
		f[linkShare] = r.Bytes * 8 / r.Seconds / linkRate
	}
	return f
}

// pathPlans are the cases over the emulated path, each at the losses it is made for.
func (b *bench) pathPlans() []pathPlan {
	full := tradewind("tradewind")
	fresh := load{kind: "ask", fresh: true, flows: 32, rate: 5, size: 1024, warm: b.seconds(1), window: b.seconds(12)}
	mixed := load{kind: "ask", flows: 128, rate: 2, size: 1024, bulk: "beside", warm: b.seconds(4), window: b.seconds(10)}
	bulk := load{kind: "bulk", flows: 1, warm: b.seconds(4), window: b.seconds(8)}
	share := func(r reading) figures { return figures{linkShare: r.Bytes * 8 / r.Seconds / linkRate} }
	tls := []subject{tlsFlow}
	both := append([]subject{connect}, tls...)
	return []pathPlan{
		{plan{linkNew, "a new flow for each request, 32 clients at 5/s", full, both, fresh, overPath, b.rounds(2), true}, []int{0, 1}},
		{plan{linkMixed, "128 keep-alive flows at 2/s, 1 KiB answers, beside a bulk download", full, both, mixed, overPath, b.rounds(2), false},
			[]int{0, 1}},
		{plan{linkBulk, "one download", full, tls, bulk, share, b.rounds(3), false}, []int{1, 3}},
	}
}

// A pathPlan is a plan and the losses, in percent, it is made at.
type pathPlan struct {
	plan
	losses []int
}

// overLink runs the cases over the emulated path.
func (b *bench) overLink(ctx context.Context) (err error) {
	plans := slices.DeleteFunc(b.pathPlans(), func(p pathPlan) bool {
		return !slices.ContainsFunc(p.losses, func(percent int) bool { return b.wanted(at(p.name, percent)) })
	})
	if len(plans) == 0 {
		return nil
	}
	p, err := b.newPath(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	r, err := b.newRoute(ctx, p.near, p.far)
	if err != nil {
		return err
	}
	defer r.close()
	started := map[string]*running{}
	defer func() {
		for _, s := range started {
			s.close()
		}
	}()
	for _, c := range plans {
		if err := b.start(ctx, r, c.plan, started); err != nil {
			return err
		}
		for _, percent := range c.losses {
			one := c.plan
			one.name, one.what = at(c.name, percent), fmt.Sprintf("%s; 40 ms, 200 Mbit/s, %d %% lost each way", c.what, percent)
			if !b.wanted(one.name) {
				continue
			}
			if err := p.Set(link.Both, quality(percent)); err != nil {
				return err
			}
			before := p.Stats()
			if err := b.turns(ctx, r, one, started); err != nil {
				return fmt.Errorf("case %s: %w", one.name, err)
			}
			if s := strain(before, p.Stats()); s != "" {
				b.note(one.name + ": " + s)
			}
		}
		if err := p.Set(link.Both, quality(0)); err != nil {
			return err
		}
	}
	return nil
}
