package tunnel

import (
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are what the whole transport counts.
type counts struct {
	revoked atomic.Uint64 // connections closed because their chain was no longer good
	foreign atomic.Uint64 // flows refused because of a source outside of the peer's trust domain
}

var (
	descUp       = describe("up", "Whether a flow to the peer would be sent at once (1) or there is no live session (0).", "peer")
	descRTT      = describe("rtt_seconds", "Smoothed round trip time to the gateway that a flow to the peer would go to.", "peer")
	descLoss     = describe("loss_ratio", "Smoothed share of packets to the same gateway that were lost.", "peer")
	descSessions = describe("sessions", "Sessions with gateways of the peer, in either direction, by what they are made of.", "peer", "lane")
	descLanes    = describe("lanes", "TLS connections of the sessions over TCP, by whether they carry a flow.", "peer", "state")
	descDialled  = describe("lanes_dialled_total", "TLS connections made for the sessions over TCP.", "peer")
	descDied     = describe("lanes_died_total", "TLS connections of the sessions over TCP that ended by themselves, or went silent.", "peer")
	descWaited   = describe("handshakes_on_request_path_total", "Flows that had to wait for a TLS connection to be made.", "peer")
	descFlows    = describe("flows", "Flows with the peer that are open, in either direction.", "peer")
	descBulk     = describe("bulk_flows", "Bulk transfers that this gateway sends to the peer, by what carries them.", "peer", "lane")
	descBytes    = describe("bytes_total", "Bytes of flows with the peer, headers not counted.", "peer", "direction")
	descBare     = describe("flows_unkept_total", "How often a flow went on without keeping what it sends, because flows with the peer keep too much: until that is acknowledged it cannot move to another lane.", "peer")
	descCopies   = describe("copies_total", "Datagrams with a copy of something small, sent because the path loses packets, and those of the peer's that came before what they are copies of.", "peer", "direction")
	descFailures = describe("dial_failures_total", "Attempts to reach a gateway of the peer that failed.", "peer")
	descRevoked  = describe("revoked_sessions_total", "Connections closed because the certificate they were made with was no longer good.")
	descForeign  = describe("foreign_source_total", "Flows refused because a peer named a source outside of its own trust domain.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tradewind_tunnel_"+name, help, labels, nil)
}

// collector reads the figures where they are kept, when they are asked for: nothing is looked up on the way of the bytes.
type collector struct{ t *Transport }

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descUp, descRTT, descLoss, descSessions, descLanes, descDialled, descDied, descWaited, descFlows, descBulk, descBytes, descBare, descCopies,
		descFailures, descRevoked, descForeign,
	} {
		out <- d
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for region, p := range *c.t.peers.Load() {
		name, path := string(region), p.path()
		up := 0.0
		if path.Up {
			up = 1
		}
		gauge(descUp, up, name)
		rtt := math.NaN() // no session: no distance
		if path.RTT > 0 {
			rtt = path.RTT.Seconds()
		}
		gauge(descRTT, rtt, name)
		gauge(descLoss, path.Loss, name)
		gauge(descSessions, float64(path.QUIC), name, LaneQUIC)
		gauge(descSessions, float64(path.TCP), name, LaneTCP)
		idle, busy := p.lanes()
		gauge(descLanes, float64(idle), name, "idle")
		gauge(descLanes, float64(busy), name, "busy")
		counter(descDialled, p.dialled.Load(), name)
		counter(descDied, p.died.Load(), name)
		counter(descWaited, p.waited.Load(), name)
		gauge(descFlows, float64(path.Flows), name)
		gauge(descBulk, float64(p.bulk[kindQUIC].Load()), name, LaneQUIC)
		gauge(descBulk, float64(p.bulk[kindTCP].Load()), name, LaneTCP)
		counter(descBytes, p.in.Load(), name, "in")
		counter(descBytes, p.out.Load(), name, "out")
		counter(descBare, p.bare.Load(), name)
		counter(descCopies, p.copied.Load(), name, "out")
		counter(descCopies, p.needed.Load(), name, "in")
		counter(descFailures, p.failures.Load(), name)
	}
	counter(descRevoked, c.t.counts.revoked.Load())
	counter(descForeign, c.t.counts.foreign.Load())
}
