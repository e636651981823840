package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

// The hand-over case kills lanes from outside, as a network does: it destroys single TCP connections between the gateways, blocks
// UDP, blocks TCP, cuts everything off, and makes the NAT before a gateway forget its mappings. The gateways know nothing of it.
const (
	mirrorFlows = 64
	mirrorRate  = 8.0                    // chunks a second of a paced flow: it stays below what makes a flow bulk for two minutes
	killEvery   = 500 * time.Millisecond // several round trips: what died has moved, or never will
	killAtOnce  = 12
	cutFor      = 2 * time.Second // longer than a gateway may take to see that a path is dead
	cutEvery    = 10              // looks between two cuts
	cutRest     = 5               // looks at least: the gateways connect again, and flows go back to where they were
)

// A lane is a TCP connection between the gateways with what it has carried so far.
type lane struct {
	local, remote string
	octets        uint64
	since         uint64 // of them, since the look before
}

var (
	laneAddresses = regexp.MustCompile(`^\d+\s+\d+\s+(\S+)\s+(\S+)`)
	laneOctets    = regexp.MustCompile(`\bbytes_(?:acked|received):(\d+)`)
)

// parseLanes reads what ss -tinOH prints: a line for each connection.
func parseLanes(out string) map[string]lane {
	lanes := map[string]lane{}
	for line := range strings.Lines(out) {
		ends := laneAddresses.FindStringSubmatch(strings.TrimSpace(line))
		if ends == nil {
			continue
		}
		l := lane{local: ends[1], remote: ends[2]}
		for _, count := range laneOctets.FindAllStringSubmatch(line, -1) {
			n, _ := strconv.ParseUint(count[1], 10, 64) // digits; more than 64 bits of them would have taken centuries
			l.octets += n
		}
		lanes[l.local+" "+l.remote] = l
	}
	return lanes
}

// busiest returns the n lanes that carried most between two looks, and something.
func busiest(before, after map[string]lane, n int) []lane {
	var all []lane
	for key, l := range after {
		if l.since = l.octets - min(l.octets, before[key].octets); l.since > 0 {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b lane) int { return cmp.Compare(b.since, a.since) })
	return all[:min(n, len(all))]
}

// busyLanes is the gateway's own count of the TCP connections that carry a flow. From outside they look like those that only wait
// or that carry pings and acknowledgements; so as many are taken for busy as the gateway says, those that carried most.
const busyLanes = `tradewind_tunnel_lanes{peer="far",state="busy"}`

// A killer ends lanes under flows in progress and counts them.
type killer struct {
	path   *path
	near   *running // the gateway there
	flows  int      // in progress
	seen   map[string]lane
	single int // TCP connections destroyed while a flow was on them
	cut    int // lanes of flows that cuts took: the busy TCP lanes, and a QUIC lane for each flow that had none of those
}

func (k *killer) ss(ctx context.Context, args ...string) (string, error) {
	line := k.path.near.inside("ss", args...)
	out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask ss: %w: %s", err, out)
	}
	return string(out), nil
}

// look returns the TCP lanes that carried flows since the last look.
func (k *killer) look(ctx context.Context) ([]lane, error) {
	out, err := k.ss(ctx, "-tinOH", "state", "established", "dst", k.path.far.address)
	if err != nil {
		return nil, err
	}
	n, err := k.near.sum(ctx, busyLanes)
	if err != nil {
		return nil, err
	}
	now := parseLanes(out)
	all := busiest(k.seen, now, int(n))
	k.seen = now
	return all, nil
}

// strike destroys up to killAtOnce of the lanes.
func (k *killer) strike(ctx context.Context, lanes []lane) error {
	for _, l := range lanes[:min(len(lanes), killAtOnce)] {
		out, err := k.ss(ctx, "-KtnH", "state", "established", "src", l.local, "dst", l.remote)
		if err != nil {
			return err
		}
		k.single += len(parseLanes(out)) // empty when it was gone before
	}
	return nil
}

// A cut is what happens to the whole path for cutFor.
type cut struct {
	name     string
	change   func(*link.Profile) // nil: the NAT before the near gateway forgets its mappings, which is no death
	way      link.Direction
	udp, tcp bool // what dies of it
}

// cuts are made in turn.
var cuts = []cut{
	{name: "UDP blocked", change: func(p *link.Profile) { p.BlockUDP = true }, way: link.Both, udp: true},
	{name: "NAT mappings forgotten"},
	{name: "UDP blocked one way", change: func(p *link.Profile) { p.BlockUDP = true }, way: link.BToA, udp: true},
	{name: "TCP blocked", change: func(p *link.Profile) { p.BlockTCP = true }, way: link.Both, tcp: true},
	{name: "nothing passes", change: func(p *link.Profile) { p.Blackhole = true }, way: link.Both, udp: true, tcp: true},
}

// kill goes on until end: single lanes most of the time, and a cut when its turn has come or few flows are on TCP.
func (k *killer) kill(ctx context.Context, b *bench, end time.Time) error {
	if _, err := k.look(ctx); err != nil {
		return err
	}
	for made, ticks := 0, 1; time.Until(end) > 2*cutFor; ticks++ {
		if !wait(ctx, time.Now().Add(killEvery)) {
			return ctx.Err()
		}
		lanes, err := k.look(ctx)
		if err != nil {
			return err
		}
		if ticks < cutRest || ticks < cutEvery && len(lanes) >= killAtOnce {
			if err := k.strike(ctx, lanes); err != nil {
				return err
			}
			continue
		}
		c := cuts[made%len(cuts)]
		b.say("%s: %s; %d busy TCP lanes, %d lanes dead so far", handOver, c.name, len(lanes), k.single+k.cut)
		if err := k.apply(ctx, c, len(lanes)); err != nil {
			return err
		}
		made, ticks = made+1, 0
	}
	return nil
}

// apply makes one cut and counts the flows whose lane it took.
func (k *killer) apply(ctx context.Context, c cut, busy int) error {
	if c.change == nil {
		k.path.Rebind(link.A)
		return nil
	}
	if c.udp {
		k.cut += max(0, k.flows-busy)
	}
	if c.tcp {
		k.cut += busy
	}
	profile := quality(0)
	c.change(&profile)
	if err := k.path.Set(c.way, profile); err != nil {
		return err
	}
	wait(ctx, time.Now().Add(cutFor))
	return k.path.Set(link.Both, quality(0))
}

// deathsUnderLoad measures what becomes of flows while their lanes die.
func (b *bench) deathsUnderLoad(ctx context.Context) (err error) {
	if !b.wanted(handOver) {
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
	b.say("%s: starting tradewind", handOver)
	up, err := r.launch(ctx, tradewind("tradewind"))
	if err != nil {
		return err
	}
	defer up.close()
	window := b.seconds(130)
	type outcome struct {
		reading
		err error
	}
	done := make(chan outcome, 1)
	end := time.Now().Add(window)
	go func() {
		got, err := r.load(ctx, load{kind: "mirror", address: up.sink, flows: mirrorFlows, rate: mirrorRate, window: window})
		done <- outcome{got, err}
	}()
	k := &killer{path: p, near: &running{sockets: up.sockets[1:]}, flows: mirrorFlows}
	err = k.kill(ctx, b, end)
	o := <-done
	if err = errors.Join(err, o.err); err != nil {
		return fmt.Errorf("case %s: %w", handOver, err)
	}
	f := figures{deaths: float64(k.single + k.cut), resets: float64(o.Resets), failures: float64(o.Errors), corrupted: float64(o.Wrong),
		mirrored: o.Bytes / 1e9}
	b.series(handOver, fmt.Sprintf("%d flows with every octet checked, half of them paced, while lanes are killed from outside", mirrorFlows)).
		add(up.name, f)
	if o.Resets > 0 {
		b.note(fmt.Sprintf("%s: the last flow that was reset died of: %s", handOver, o.Last))
	}
	b.say("%s: %d TCP lanes destroyed, %d lanes cut off, %d flows reset, %d octets wrong",
		handOver, k.single, k.cut, o.Resets, o.Wrong)
	return nil
}
