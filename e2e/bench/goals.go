package main

import (
	"fmt"
	"maps"
	"slices"
)

// The names of the cases.
const (
	newFlows   = "new-64"
	keepAlive  = "keepalive-64"
	oneRequest = "keepalive-1"
	bulkOne    = "bulk-1"
	bulkMany   = "bulk-16"
	bulkQUIC   = "bulk-1-quic"
	idleFlows  = "idle"
	linkNew    = "link-new"
	linkMixed  = "link-mixed"
	linkBulk   = "link-bulk"
	handOver   = "hand-over"
)

// at names a link case at a share of lost packets in percent.
func at(name string, percent int) string { return fmt.Sprintf("%s-%d", name, percent) }

// A goal is a bound on one median: of a metric of the first subject of a case, or of its ratio to another subject.
type goal struct {
	id     string
	what   string
	series string
	metric string
	to     string  // the other subject; empty: the value itself
	minus  float64 // taken from the median: 1 makes of a ratio what was added to the other
	least  bool    // the bound is a lower one
	bound  float64
}

// goals is the list that is judged. The bounds were found with prototypes on one machine with two processors, as ratios so that
// they hold on others.
var goals = []goal{
	{id: "G1", what: "new flows a second, times plain two-hop TCP in Go",
		series: newFlows, metric: rate, to: plainTCP.name, least: true, bound: 1.1},
	{id: "G1/haproxy", what: "new flows a second, times haproxy with mTLS",
		series: newFlows, metric: rate, to: haproxy.name, least: true, bound: 8.5},
	{id: "G2", what: "CPU of a new flow, times plain two-hop TCP in Go",
		series: newFlows, metric: requestCPU, to: plainTCP.name, bound: 0.9},
	{id: "G2/haproxy", what: "CPU of a new flow, times haproxy with mTLS",
		series: newFlows, metric: requestCPU, to: haproxy.name, bound: 0.09},
	{id: "G3", what: "first answer of a new flow, p50 in round trips, no loss",
		series: at(linkNew, 0), metric: p50RTT, bound: 1.06},
	{id: "G3/p99", what: "first answer of a new flow, p99 in round trips, 1 % loss",
		series: at(linkNew, 1), metric: p99RTT, bound: 2.3},
	{id: "G4", what: "128 small flows beside a bulk flow, 1 % loss: p99 in round trips",
		series: at(linkMixed, 1), metric: p99RTT, bound: 2.5},
	{id: "G4/stretch", what: "the same, what is hoped for",
		series: at(linkMixed, 1), metric: p99RTT, bound: 1.2},
	{id: "G4/p50", what: "128 small flows beside a bulk flow, 1 % loss: p50 in round trips",
		series: at(linkMixed, 1), metric: p50RTT, bound: 1.15},
	{id: "G4/h2", what: "128 small flows beside a bulk flow, 1 % loss: p99, times HTTP/2 CONNECT",
		series: at(linkMixed, 1), metric: p99RTT, to: connect.name, bound: 0.25},
	{id: "G4/bulk", what: "bulk flow beside 128 small ones, 1 % loss: share of the link",
		series: at(linkMixed, 1), metric: linkShare, least: true, bound: 0.9},
	{id: "G5", what: "128 small flows beside a bulk flow, no loss: p99 in round trips",
		series: at(linkMixed, 0), metric: p99RTT, bound: 1.35},
	{id: "G5/bulk", what: "bulk flow beside 128 small ones, no loss: share of the link",
		series: at(linkMixed, 0), metric: linkShare, least: true, bound: 0.94},
	{id: "G6", what: "one bulk flow, 1 % loss: share of the link",
		series: at(linkBulk, 1), metric: linkShare, least: true, bound: 0.9},
	{id: "G6/3%", what: "one bulk flow, 3 % loss: share of the link",
		series: at(linkBulk, 3), metric: linkShare, least: true, bound: 0.9},
	{id: "G7", what: "CPU of a bulk flow over QUIC, times naive quic-go",
		series: bulkQUIC, metric: byteCPU, to: naive.name, bound: 0.75},
	{id: "G9", what: "bulk Gbit/s on a clean link, times haproxy with mTLS",
		series: bulkOne, metric: gbit, to: haproxy.name, least: true, bound: 0.9},
	{id: "G10", what: "p50 that is added to one keep-alive request, in loopback round trips",
		series: oneRequest, metric: p50, to: direct.name, minus: 1, bound: 2},
	{id: "G10/p99", what: "p99 of 64 keep-alive connections, times haproxy with mTLS",
		series: keepAlive, metric: p99, to: haproxy.name, bound: 0.1},
	{id: "G10/rate", what: "requests a second of 64 keep-alive connections, times haproxy with mTLS",
		series: keepAlive, metric: rate, to: haproxy.name, least: true, bound: 0.7},
	{id: "G11", what: "memory of an idle flow in KB, both gateways",
		series: idleFlows, metric: idleFlow(9000), bound: 16},
	{id: "G11/10k", what: "memory of both gateways with 10,000 idle flows in MB",
		series: idleFlows, metric: idleTotal(10000), bound: 200},
	{id: "G12", what: "new flows that waited for a handshake, 1 % loss",
		series: at(linkNew, 1), metric: waited, bound: 0},
	{id: "G13", what: "CPU of a request through one hop that looks into it, times nginx as a reverse proxy",
		series: l7Many, metric: requestCPU, to: nginxHop.name, bound: 2},
	{id: "G13/p50", what: "p50 of one request through one such hop, times nginx as a reverse proxy", // half as much again added
		series: l7One, metric: p50, to: nginxHop.name, bound: 1.35},
	{id: "hand-over/resets", what: "flows that were reset by lane deaths",
		series: handOver, metric: resets, bound: 0},
	{id: "hand-over/bytes", what: "octets that arrived wrong over lane deaths",
		series: handOver, metric: corrupted, bound: 0},
	{id: "hand-over/deaths", what: "lanes that died under flows in progress",
		series: handOver, metric: deaths, least: true, bound: 1000},
}

// A Verdict is a goal beside what was measured.
type Verdict struct {
	What  string  `json:"what,omitempty"`
	Value float64 `json:"value"`
	Goal  float64 `json:"goal"`
	Least bool    `json:"least,omitempty"` // the goal is a lower bound
	OK    bool    `json:"ok"`
}

// meets reports whether value keeps to the goal, missing it by at most slack (0.1: a tenth).
func (v Verdict) meets(slack float64) bool {
	if v.Least {
		return v.Value >= v.Goal*(1-slack)
	}
	return v.Value <= v.Goal*(1+slack)
}

// judge returns a verdict for each goal whose figures are there.
func judge(all map[string]*series) map[string]Verdict {
	verdicts := map[string]Verdict{}
	for _, g := range goals {
		s := all[g.series]
		if s == nil || len(s.subjects) == 0 {
			continue
		}
		values := s.values[s.subjects[0]][g.metric]
		if g.to != "" {
			values = s.ratios[g.to][g.metric]
		}
		if len(values) == 0 {
			continue
		}
		v := Verdict{What: g.what, Value: median(values) - g.minus, Goal: g.bound, Least: g.least}
		v.OK = v.meets(0)
		verdicts[g.id] = v
	}
	return verdicts
}

// missed lists the goals that are missed by more than slack.
func missed(verdicts map[string]Verdict, slack float64) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(verdicts)), func(id string) bool { return verdicts[id].meets(slack) })
}
