package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// A plan is one case: a load that the first subject and each of the others get in turn.
type plan struct {
	name, what string
	subject    subject
	others     []subject
	load       load
	figures    func(reading) figures
	rounds     int
	counts     bool // handshakes that flows wait for
}

// requests are the figures of a request load.
func requests(r reading) figures {
	n := float64(r.Requests)
	return figures{rate: n / r.Seconds, p50: r.P50, p99: r.P99, requestCPU: r.CPU / n * 1e5, failures: float64(r.Errors)}
}

// transfer are the figures of a bulk load.
func transfer(r reading) figures {
	return figures{gbit: r.Bytes * 8 / 1e9 / r.Seconds, byteCPU: r.CPU / (r.Bytes / 1e9)}
}

// memory are the figures of flows that idle, as many as the stages say.
func memory(r reading, stages []int) figures {
	base := r.Memory[0]
	f := figures{idleBase: base}
	for i, n := range stages {
		f[idleFlow(n)], f[idleTotal(n)] = (r.Memory[i+1]-base)*1000/float64(n), r.Memory[i+1]
	}
	return f
}

// plans are the cases on loopback.
func (b *bench) plans() []plan {
	full := tradewind("tradewind")
	onQUIC := tradewind("tradewind-quic", "quic")
	second, pause := b.seconds(1), b.seconds(0.3)
	web := load{kind: "http", flows: 64, warm: pause, window: 2 * second}
	if _, err := exec.LookPath("wrk"); err == nil {
		web.kind = "wrk"
	}
	fresh, single := web, web
	fresh.fresh = true
	single.flows, single.window = 1, second
	bulk := load{kind: "bulk", flows: 1, warm: pause, window: 2 * second}
	many := bulk
	many.flows = 16
	if b.options.quick {
		return []plan{
			{newFlows, "a new connection for each request, 64 at a time", full, []subject{plainTCP}, fresh, requests, b.rounds(5), false},
			{oneRequest, "one keep-alive connection, one request at a time", full, []subject{direct}, single, requests, b.rounds(5), false},
			{bulkQUIC, "one download over QUIC, 1500 octet packets", onQUIC, []subject{naive}, bulk, transfer, b.rounds(5), false},
		}
	}
	carriers := []subject{plainTCP, tlsFlow, connect, naive, haproxy, nginx}
	return []plan{
		{newFlows, "a new connection for each request, 64 at a time", full, carriers, fresh, requests, b.rounds(3), true},
		{keepAlive, "64 keep-alive connections", full, carriers, web, requests, b.rounds(3), false},
		{oneRequest, "one keep-alive connection, one request at a time", full, append([]subject{direct}, carriers...), single,
			requests, b.rounds(3), false},
		{bulkOne, "one download", full, carriers, bulk, transfer, b.rounds(3), false},
		{bulkMany, "16 downloads", full, carriers, many, transfer, b.rounds(3), false},
		{bulkQUIC, "one download over QUIC, 1500 octet packets", onQUIC, []subject{naive}, bulk, transfer, b.rounds(5), false},
		{l7Many, "one hop that looks into requests, 64 keep-alive connections", gatewayHop, []subject{nginxHop}, web, requests, b.rounds(5), false},
		{l7One, "one hop that looks into requests, one at a time", gatewayHop, []subject{nginxHop, direct}, single, requests, b.rounds(5), false},
	}
}

// loopback runs the cases between sites on this machine's loopback.
func (b *bench) loopback(ctx context.Context) error {
	here := site{address: "127.0.0.1"}
	r, err := b.newRoute(ctx, here, here)
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
	for _, p := range b.plans() {
		if !b.wanted(p.name) {
			continue
		}
		if err := b.start(ctx, r, p, started); err != nil {
			return err
		}
		if err := b.turns(ctx, r, p, started); err != nil {
			return fmt.Errorf("case %s: %w", p.name, err)
		}
	}
	return nil
}

// start starts the subjects of a plan that do not run yet. Those of earlier plans stay: they idle.
func (b *bench) start(ctx context.Context, r *route, p plan, started map[string]*running) error {
	for _, s := range append([]subject{p.subject}, p.others...) {
		if started[s.name] != nil {
			continue
		}
		b.say("starting %s", s.name)
		up, err := r.launch(ctx, s)
		if err != nil {
			return err
		}
		started[s.name] = up
		b.noteVersion(s)
	}
	return nil
}

// turns measures the plan's subject against each of the others, neighbours in time, and the other way round in every second
// round: whatever drifts on the machine meets both alike.
func (b *bench) turns(ctx context.Context, r *route, p plan, started map[string]*running) error {
	s := b.series(p.name, p.what)
	for round := range p.rounds {
		for _, other := range p.others {
			order := []string{p.subject.name, other.name}
			if round%2 == 1 {
				order[0], order[1] = order[1], order[0]
			}
			got := map[string]figures{}
			for _, name := range order {
				f, err := b.measure(ctx, r, p, started[name])
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				got[name] = f
			}
			s.pair(p.subject.name, got[p.subject.name], other.name, got[other.name])
			b.say("%s, round %d of %d: %s", p.name, round+1, p.rounds, s.lastPair(p.subject.name, other.name))
		}
	}
	return nil
}

// between lets what one measurement left behind (closing connections, a collection of garbage) end before the next begins.
const between = 150 * time.Millisecond

func (b *bench) measure(ctx context.Context, r *route, p plan, s *running) (figures, error) {
	l := p.load
	l.address, l.pids = s.web, s.pids()
	if l.kind == "bulk" || l.kind == "ask" {
		l.address = s.sink
	}
	if l.bulk != "" {
		l.bulk = s.sink
	}
	if !wait(ctx, time.Now().Add(between)) {
		return nil, ctx.Err()
	}
	before, err := s.waits(ctx, p)
	if err != nil {
		return nil, err
	}
	got, err := r.load(ctx, l)
	if err != nil {
		return nil, err
	}
	after, err := s.waits(ctx, p)
	if err != nil {
		return nil, err
	}
	f := p.figures(got)
	if p.counts && len(s.sockets) > 0 {
		f[waited] = after - before
	}
	return f, nil
}

// waits is how many flows have waited for a handshake so far, where the plan wants it and the subject counts it.
func (s *running) waits(ctx context.Context, p plan) (float64, error) {
	if !p.counts || len(s.sockets) == 0 {
		return 0, nil
	}
	return s.sum(ctx, handshakes)
}

// idleness measures the memory of each subject afresh: what a load before it left in the heap is not the flows'.
func (b *bench) idleness(ctx context.Context) error {
	if !b.wanted(idleFlows) {
		return nil
	}
	subjects := []subject{tradewind("tradewind")}
	if !b.options.quick {
		subjects = append(subjects, connect, naive, tlsFlow, haproxy, nginx)
	}
	here := site{address: "127.0.0.1"}
	for _, s := range subjects {
		r, err := b.newRoute(ctx, here, here)
		if err != nil {
			return err
		}
		f, err := b.idle(ctx, r, s)
		r.close()
		if err != nil {
			return fmt.Errorf("case %s: %s: %w", idleFlows, s.name, err)
		}
		b.series(idleFlows, "flows that did one echo and then idle").add(s.name, f)
		b.say("%s: %s: %v", idleFlows, s.name, f)
	}
	return nil
}

func (b *bench) idle(ctx context.Context, r *route, s subject) (figures, error) {
	b.say("%s: starting %s", idleFlows, s.name)
	up, err := r.launch(ctx, s)
	if err != nil {
		return nil, err
	}
	defer up.close()
	b.noteVersion(s)
	stages := []int{1000, 9000, 10000}
	if b.descriptors < 2*stages[2]+1000 && s.name != "tradewind" {
		stages = stages[:2] // a proxy that opens a connection for each flow has two descriptors for it
	}
	if b.options.smoke {
		stages = []int{50, 100, 120}
	}
	got, err := r.load(ctx, load{kind: "idle", address: up.sink, pids: up.pids(), stages: stages})
	if err != nil {
		return nil, err
	}
	return memory(got, stages), nil
}

// lastPair is the newest pair of figures in one line, for whoever watches.
func (s *series) lastPair(subject, other string) string {
	var parts []string
	for _, metric := range metricOrder {
		of, to := s.values[subject][metric], s.values[other][metric]
		if len(of) > 0 && len(to) > 0 {
			parts = append(parts, fmt.Sprintf("%s %.4g and %.4g", metric, of[len(of)-1], to[len(to)-1]))
		}
	}
	return fmt.Sprintf("%s and %s: %s", subject, other, strings.Join(parts, ", "))
}
