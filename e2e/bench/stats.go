package main

import (
	"fmt"
	"math"
	"slices"
)

// A Stat is what several rounds of one measurement gave.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"` // rounds
}

// stat summarises values, of which there must be at least one.
func stat(values []float64) Stat {
	return Stat{Median: median(values), Min: slices.Min(values), Max: slices.Max(values), N: len(values)}
}

// median is the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// percentile is the nearest-rank percentile of sorted values; 0 when there are none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// figures are the values of one measurement by the name of the metric.
type figures map[string]float64

// The metrics. A ratio between two programs is made of each of them.
const (
	rate       = "requests_per_second"
	p50        = "p50_ms"
	p99        = "p99_ms"
	worst      = "max_ms"
	requestCPU = "cpu_seconds_per_100k_requests" // both gateways
	gbit       = "gbit_per_second"
	byteCPU    = "cpu_seconds_per_gb" // both gateways; 1 GB is 1e9 bytes
	idleBase   = "pss_mb_without_flows"
	p50RTT     = "p50_round_trips"
	p99RTT     = "p99_round_trips"
	linkShare  = "share_of_link"     // of the bulk flow
	waited     = "flows_that_waited" // for a handshake
	failures   = "failed_requests"
	resets     = "resets"
	corrupted  = "corrupted_bytes"
	deaths     = "lane_deaths"
	mirrored   = "gb_checked"
)

// idleFlow is the metric of what one of n idle flows costs, both gateways; idleTotal that of all the memory with n of them.
func idleFlow(n int) string  { return fmt.Sprintf("pss_kb_per_flow_at_%d", n) }
func idleTotal(n int) string { return fmt.Sprintf("pss_mb_at_%d", n) }

// A series gathers the rounds of one case.
type series struct {
	name, what string
	subjects   []string // in the order of their first measurement
	values     map[string]map[string][]float64
	ratios     map[string]map[string][]float64 // of the first subject to the others, from neighbours in time
}

func newSeries(name, what string) *series {
	return &series{name: name, what: what, values: map[string]map[string][]float64{}, ratios: map[string]map[string][]float64{}}
}

func (s *series) add(subject string, f figures) {
	if s.values[subject] == nil {
		s.subjects = append(s.subjects, subject)
		s.values[subject] = map[string][]float64{}
	}
	for metric, v := range f {
		s.values[subject][metric] = append(s.values[subject][metric], v)
	}
}

// pair adds two measurements that were made one after the other, and their ratio.
func (s *series) pair(subject string, f figures, other string, g figures) {
	s.add(subject, f)
	s.add(other, g)
	if s.ratios[other] == nil {
		s.ratios[other] = map[string][]float64{}
	}
	for metric, v := range f {
		if w, ok := g[metric]; ok && w > 0 {
			s.ratios[other][metric] = append(s.ratios[other][metric], v/w)
		}
	}
}
