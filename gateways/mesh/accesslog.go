package mesh

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// flags say in Envoy's two to four letters how a connection ended; none is the good end.
type flags uint16

const (
	flagNoHealthy     flags = 1 << iota // UH: no healthy instance anywhere
	flagConnectFailed                   // UF: no instance could be reached
	flagOverflow                        // UO: a limit was reached
	flagNoRoute                         // NR: no such service, or not exported
	flagDownstream                      // DC: the caller broke the connection
	flagUpstream                        // UC: the called side broke the connection
	flagDenied                          // UAEX: an intention, or the lack of one, forbids it
	flagRetries                         // URX: gave up after several attempts
	flagIdle                            // SI: nothing was sent for the idle timeout
	flagLocal                           // LR: reset here: no longer allowed, or shutting down
	flagTimeout                         // UT: no response in time
	flagByRule                          // RL: a rule of the route has answered
	flagProtocol                        // DPE: the caller did not speak as it must (TLS, server name)
	flagHedged                          // HG: sent a second time while the first try was slow; alone it is a good end
)

var flagNames = [...]string{"UH", "UF", "UO", "NR", "DC", "UC", "UAEX", "URX", "SI", "LR", "UT", "RL", "DPE", "HG"}

// direction is which half of the data path a connection took here.
type direction string

const (
	outbound direction = "outbound" // from a local caller
	inbound  direction = "inbound"  // from a peer's gateway
)

// record is what the access log says about one connection.
type record struct {
	start        time.Time
	took         time.Duration
	direction    direction
	source       spiffeid.ID
	assurance    federation.Assurance
	destination  federation.ServiceName
	srcRegion    federation.Region
	dstRegion    federation.Region // where it went; before that, where it was meant to go
	peer         federation.Region // the region at the other end of the tunnel; empty for a local connection
	endpoint     string            // the instance, as far as this gateway knows it
	upstream     string            // the listener it came in by
	client       netip.Addr        // of a caller from outside the mesh
	decision     string            // "allow", "deny"; empty when nothing was decided
	intention    string            // the rule that decided; "default" when none matched
	shadow       string            // an intention in shadow mode that would have decided otherwise
	flags        flags
	failoverFrom federation.Region // the region that should have served it
	retries      int
	attempted    bool
	sent         int64       // octets to the caller
	received     int64       // octets from the caller
	http         *httpRecord // nil: not a request
	conn         *conn       // of a request
	quiet        bool        // not for the log: its requests are there
	reason       string      // why it ended as it did; empty for the good end
}

// attempt notes that an instance or a peer is about to be asked for a connection. Each one after the first is a retry.
func (r *record) attempt() {
	if r.attempted {
		r.retries++
	}
	r.attempted = true
}

// append writes r as one line of JSON. The order of the fields is fixed and every field is always there, so that a line
// can be cut by position and a column never vanishes.
func (r *record) append(b []byte) []byte {
	b = append(b, `{"start_time":"`...)
	b = appendTime(b, r.start)
	b = append(b, `","duration_ms":`...)
	b = appendMillis(b, r.took)
	b = appendField(b, "direction", string(r.direction))
	b = appendField(b, "source", r.sourceText())
	b = appendField(b, "assurance", r.assurance.String())
	b = appendService(b, "destination", r.destination)
	b = appendField(b, "src_region", string(r.srcRegion))
	b = appendField(b, "dst_region", string(r.dstRegion))
	b = appendField(b, "peer", string(r.peer))
	b = appendField(b, "endpoint", r.endpoint)
	b = appendField(b, "upstream", r.upstream)
	b = append(b, `,"client":"`...)
	if r.client.IsValid() {
		b = r.client.AppendTo(b)
	}
	b = append(b, '"')
	b = appendField(b, "decision", r.decision)
	b = appendField(b, "intention", r.intention)
	b = appendField(b, "shadow", r.shadow)
	b = append(b, `,"response_flags":"`...)
	b = r.flags.append(b)
	b = append(b, '"')
	b = appendField(b, "failover_from", string(r.failoverFrom))
	b = append(b, `,"retries":`...)
	b = strconv.AppendInt(b, int64(r.retries), 10)
	b = append(b, `,"bytes_sent":`...)
	b = strconv.AppendInt(b, r.sent, 10)
	b = append(b, `,"bytes_received":`...)
	b = strconv.AppendInt(b, r.received, 10)
	b = r.http.append(b)
	b = appendField(b, "reason", r.reason)
	return append(b, '}', '\n')
}

// httpRecord is what the access log says about one request.
type httpRecord struct {
	method  string
	target  string // path and query as forwarded, before a rule's rewrite
	version string
	status  int
	id      string // X-Request-Id
}

func (h *httpRecord) append(b []byte) []byte {
	if h == nil {
		h = &httpRecord{}
	}
	b = appendField(b, "protocol", h.version)
	b = appendField(b, "method", h.method)
	path, _, _ := strings.Cut(h.target, "?") // queries carry secrets
	b = appendField(b, "path", path)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(h.status), 10)
	return appendField(b, "request_id", h.id)
}

func (r *record) sourceText() string {
	if r.source.IsZero() {
		return ""
	}
	return r.source.String()
}

func (f flags) append(b []byte) []byte {
	first := true
	for i, name := range flagNames {
		if f&(1<<i) == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		b, first = append(b, name...), false
	}
	return b
}

// appendTime writes t in UTC, to the millisecond. For RFC 3339 the library has a way of its own, twice as fast as any other layout.
func appendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	ms := t.Nanosecond() / 1e6
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendMillis writes d in milliseconds, to the microsecond, as the shortest number.
func appendMillis(b []byte, d time.Duration) []byte {
	us := d.Microseconds()
	if us < 0 {
		b, us = append(b, '-'), -us
	}
	b = strconv.AppendInt(b, us/1000, 10)
	for rest, digit := us%1000, int64(100); rest > 0; rest, digit = rest%digit, digit/10 {
		if digit == 100 {
			b = append(b, '.')
		}
		b = append(b, byte('0'+rest/digit))
	}
	return b
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

// appendService writes a service as its String does, without building it.
func appendService(b []byte, name string, s federation.ServiceName) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':', '"')
	if s.Namespace != federation.DefaultNamespace && s.Namespace != "" {
		b = append(append(b, s.Namespace...), '/')
	}
	return append(append(b, s.Name...), '"') // a service name holds nothing that JSON escapes
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string (RFC 8259 section 7). Text from a peer or an operating system may hold anything,
// and a line break in a log line would forge one.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0 // s[plain:i] is written as it is
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[plain:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, "\ufffd"...)
			} else {
				b = append(b, s[i:i+size]...)
			}
			i += size - 1
		}
		i++
		plain = i
	}
	return append(append(b, s[plain:]...), '"')
}

// maxPending is how much of the log may wait for a slow writer: some 2,000 lines. Beyond it lines are dropped and counted,
// because no connection may ever wait for a disk.
const maxPending = 1 << 20

// logGather is how long lines gather between two writes: unnoticed by who follows the log, and 1,000 connections a second
// cost a fifth of the writes.
const logGather = 5 * time.Millisecond

// accessLog carries lines to a writer from one goroutine. Lines gather while a write is under way and for logGather after it,
// so under load one write takes many of them, and without load a line is out at once.
type accessLog struct {
	off     atomic.Bool // nobody reads it, and nothing is formatted
	out     sync.Mutex  // held while w is written to
	w       io.Writer
	log     *slog.Logger
	dropped prometheus.Counter
	lines   sync.Pool // of *[]byte
	spare   []byte    // of the writing goroutine, as is failing
	failing bool

	mu      sync.Mutex
	pending []byte
	wake    chan struct{} // capacity 1
}

func newAccessLog(w io.Writer, log *slog.Logger, dropped prometheus.Counter) *accessLog {
	l := &accessLog{
		log: log, dropped: dropped, wake: make(chan struct{}, 1),
		lines: sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }},
	}
	l.set(w)
	return l
}

// set changes the writer.
func (l *accessLog) set(w io.Writer) {
	l.out.Lock()
	defer l.out.Unlock()
	l.w = w
	l.off.Store(w == nil)
}

// write queues r. It never blocks for the writer.
func (l *accessLog) write(r *record) {
	if l.off.Load() {
		return
	}
	line := l.lines.Get().(*[]byte)
	*line = r.append((*line)[:0])
	l.mu.Lock()
	full := len(l.pending)+len(*line) > maxPending
	if !full {
		l.pending = append(l.pending, *line...)
	}
	l.mu.Unlock()
	l.lines.Put(line)
	if full {
		l.dropped.Inc()
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, then once more what is left.
func (l *accessLog) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-l.wake:
		case <-ctx.Done():
		}
		l.flush()
		select {
		case <-time.After(logGather):
		case <-ctx.Done():
		}
	}
	l.flush()
}

// flush writes what is pending.
func (l *accessLog) flush() {
	l.mu.Lock()
	batch := l.pending
	l.pending = l.spare[:0]
	l.mu.Unlock()
	l.out.Lock()
	defer l.out.Unlock()
	if len(batch) > 0 && l.w != nil {
		_, err := l.w.Write(batch)
		if err != nil && !l.failing { // once, not once a line
			l.log.Error("access log cannot be written", "error", err)
		}
		l.failing = err != nil
	}
	l.spare = batch
}
