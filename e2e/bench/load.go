package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A load is one run of the generator, as its command line says.
type load struct {
	kind    string        // ping, bulk, ask, http, wrk, mirror or idle
	address string        // of the first hop
	bulk    string        // sink of the first hop, for a bulk flow beside; empty: none
	flows   int           // at a time
	size    int           // octets of an answer
	rate    float64       // requests a second of each flow, latency counted from when one was due; 0: as fast as answers come
	fresh   bool          // a new connection for each request
	warm    time.Duration // before the window that is measured
	window  time.Duration //
	pids    []int         // whose CPU time and memory are read
	stages  []int         // flows that idle, for each reading of the memory
}

// A reading is what a load measured.
type reading struct {
	Seconds  float64   `json:"seconds"`
	Requests int       `json:"requests"`
	Errors   int       `json:"errors"`
	Wrong    int       `json:"wrong"`  // octets of mirrored flows
	Resets   int       `json:"resets"` // mirrored flows that died after an octet had come back
	P50      float64   `json:"p50"`    // ms
	P99      float64   `json:"p99"`
	Max      float64   `json:"max"`
	Bytes    float64   `json:"bytes"`  // of bulk flows
	CPU      float64   `json:"cpu"`    // seconds
	Last     string    `json:"last"`   // why the last of them died
	Memory   []float64 `json:"memory"` // MB, before any flow and then at each stage
}

// perFlow bounds one request: far beyond any answer that counts.
const perFlow = 30 * time.Second

func loadMain(ctx context.Context, args []string) error {
	l, err := parseLoad(args)
	if err != nil {
		return err
	}
	kinds := map[string]func(context.Context) (reading, error){
		"ping": l.ping, "bulk": l.measureBulk, "ask": l.measureRequests, "http": l.measureRequests, "wrk": l.wrk, "idle": l.idle,
		"mirror": l.mirror,
	}
	run := kinds[l.kind]
	if run == nil {
		return fmt.Errorf("unknown kind of load %q", l.kind)
	}
	r, err := run(ctx)
	if err != nil {
		return fmt.Errorf("generate %s load: %w", l.kind, err)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func parseLoad(args []string) (*load, error) {
	var l load
	var pids, stages string
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.StringVar(&l.kind, "kind", "", "")
	flags.StringVar(&l.address, "address", "", "")
	flags.StringVar(&l.bulk, "bulk", "", "")
	flags.IntVar(&l.flows, "flows", 1, "")
	flags.IntVar(&l.size, "size", 64, "")
	flags.Float64Var(&l.rate, "rate", 0, "")
	flags.BoolVar(&l.fresh, "fresh", false, "")
	flags.DurationVar(&l.warm, "warm", 300*time.Millisecond, "")
	flags.DurationVar(&l.window, "window", 2*time.Second, "")
	flags.StringVar(&pids, "pids", "", "")
	flags.StringVar(&stages, "stages", "", "")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	var err error
	if l.pids, err = integers(pids); err != nil {
		return nil, err
	}
	l.stages, err = integers(stages)
	return &l, err
}

// args is the command line that parseLoad reads back.
func (l *load) args() []string {
	join := func(list []int) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]") }
	return []string{"load", "-kind", l.kind, "-address", l.address, "-bulk", l.bulk, "-flows", strconv.Itoa(l.flows),
		"-size", strconv.Itoa(l.size), "-rate", fmt.Sprint(l.rate), "-fresh=" + strconv.FormatBool(l.fresh), "-warm", l.warm.String(),
		"-window", l.window.String(), "-pids", join(l.pids), "-stages", join(l.stages)}
}

func integers(list string) ([]int, error) {
	var all []int
	for field := range strings.SplitSeq(list, ",") {
		if field == "" {
			continue
		}
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("parse %q: %w", list, err)
		}
		all = append(all, n)
	}
	return all, nil
}

// wait waits until at, or returns false when ctx ended before.
func wait(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// dial connects to the first hop and says what the connection is for.
func (l *load) dial(ctx context.Context, address string, kind byte) (net.Conn, error) {
	var d net.Dialer
	d.KeepAlive = -1 // no probe of ours beside what is measured
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if kind != 0 {
		if _, err := c.Write([]byte{kind}); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// ping returns when the address answers: the hop listens, its peer is reachable and the backend runs.
func (l *load) ping(ctx context.Context) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, l.window)
	defer cancel()
	one := *l
	one.fresh, one.kind = true, "ask"
	if l.bulk == "" { // an HTTP address
		one.kind = "http"
	}
	for {
		f := &client{load: &one}
		err := f.ask(ctx)
		f.close()
		if err == nil {
			return reading{Requests: 1}, nil
		}
		if !wait(ctx, time.Now().Add(20*time.Millisecond)) {
			return reading{}, fmt.Errorf("%s does not answer: %w", l.address, err)
		}
	}
}

// A meter counts what happens within the window.
type meter struct {
	bytes  atomic.Int64
	begin  time.Time
	cpu    float64
	before int64
}

// window runs the time that is measured; r gets what the meter and the processes did in it.
func (l *load) measure(ctx context.Context, begin time.Time, m *meter, r *reading) error {
	if !wait(ctx, begin) {
		return ctx.Err()
	}
	var err error
	if m.cpu, err = cpuSeconds(l.pids); err != nil {
		return err
	}
	m.begin, m.before = time.Now(), m.bytes.Load()
	if !wait(ctx, begin.Add(l.window)) {
		return ctx.Err()
	}
	r.Seconds, r.Bytes = time.Since(m.begin).Seconds(), float64(m.bytes.Load()-m.before)
	cpu, err := cpuSeconds(l.pids)
	r.CPU = cpu - m.cpu
	return err
}

// download keeps a bulk flow going until ctx ends.
func (l *load) download(ctx context.Context, address string, m *meter) error {
	c, err := l.dial(ctx, address, kindSource)
	if err != nil {
		return fmt.Errorf("open a bulk flow: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for buf := make([]byte, 256<<10); ; {
		n, err := c.Read(buf)
		m.bytes.Add(int64(n))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a bulk flow: %w", err)
		}
	}
}

func (l *load) measureBulk(ctx context.Context) (r reading, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var m meter
	begin := time.Now().Add(l.warm)
	failed := make(chan error, l.flows)
	for range l.flows {
		go func() { failed <- l.download(ctx, l.address, &m) }()
	}
	err = l.measure(ctx, begin, &m, &r)
	cancel()
	for range l.flows {
		err = errors.Join(err, <-failed)
	}
	return r, err
}

// A client is one flow of a request load.
type client struct {
	*load
	conn net.Conn
	buf  []byte
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

const (
	requestKeep  = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
	requestClose = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
)

// ask makes one request, on the client's connection or on a new one.
func (c *client) ask(ctx context.Context) (err error) {
	defer func() {
		if err != nil || c.fresh {
			c.close()
		}
	}()
	var request []byte
	switch {
	case c.kind == "http" && c.fresh:
		request = []byte(requestClose)
	case c.kind == "http":
		request = []byte(requestKeep)
	default:
		request = binary.BigEndian.AppendUint32(nil, uint32(c.size))
	}
	if c.conn == nil {
		if c.conn, err = c.dial(ctx, c.address, 0); err != nil {
			return err
		}
		if c.kind != "http" { // in one packet with the request
			request = append([]byte{kindAsk}, request...)
		}
	}
	if err := c.conn.SetDeadline(time.Now().Add(perFlow)); err != nil {
		return err
	}
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	if c.buf == nil {
		c.buf = make([]byte, max(c.size, 1024))
	}
	switch {
	case c.kind == "http" && c.fresh: // the server closes, as it does with wrk
		// What looks into requests writes a head of its own in front of the body.
		n, err := io.ReadFull(c.conn, c.buf)
		if !errors.Is(err, io.ErrUnexpectedEOF) || n < len(answerClose) || !bytes.HasSuffix(c.buf[:n], []byte(body)) {
			return fmt.Errorf("an answer of %d octets: %w", n, err)
		}
		return nil
	case c.kind == "http":
		_, err = io.ReadFull(c.conn, c.buf[:len(answerKeep)])
	default:
		_, err = io.ReadFull(c.conn, c.buf[:c.size])
	}
	return err
}

// loop asks until end; latencies of what was due in the window go to took.
func (c *client) loop(ctx context.Context, begin time.Time, phase float64, took *[]float64) (failures int, last error) {
	defer c.close()
	due := time.Now().Add(time.Duration(phase * float64(time.Second)))
	for end := begin.Add(c.window); due.Before(end) && ctx.Err() == nil; {
		if c.rate > 0 {
			if !wait(ctx, due) {
				break
			}
		}
		if err := c.ask(ctx); err != nil {
			failures, last = failures+1, err
			if !wait(ctx, time.Now().Add(time.Millisecond)) { // a refusal is instant; do not spin on it
				break
			}
		} else if !due.Before(begin) {
			*took = append(*took, float64(time.Since(due))/float64(time.Millisecond))
		}
		if c.rate > 0 {
			due = due.Add(time.Duration(float64(time.Second) / c.rate))
		} else {
			due = time.Now()
		}
	}
	return failures, last
}

func (l *load) measureRequests(ctx context.Context) (r reading, err error) {
	begin := time.Now().Add(l.warm)
	bulkCtx, stopBulk := context.WithCancel(ctx)
	defer stopBulk()
	var m meter
	failed := make(chan error, 1)
	if l.bulk != "" {
		go func() { failed <- l.download(bulkCtx, l.bulk, &m) }()
	} else {
		failed <- nil
	}
	var mu sync.Mutex
	var all []float64
	var last error
	var wg sync.WaitGroup
	for i := range l.flows {
		wg.Go(func() {
			var took []float64
			c := &client{load: l}
			phase := 0.0
			if l.rate > 0 {
				phase = float64(i) / float64(l.flows) / l.rate
			}
			failures, err := c.loop(ctx, begin, phase, &took)
			mu.Lock()
			defer mu.Unlock()
			all, r.Errors = append(all, took...), r.Errors+failures
			if err != nil {
				last = err
			}
		})
	}
	err = l.measure(ctx, begin, &m, &r)
	wg.Wait()
	stopBulk()
	if err = errors.Join(err, <-failed); err != nil {
		return r, err
	}
	if len(all) == 0 {
		return r, fmt.Errorf("no request was answered, %d failed: %w", r.Errors, last)
	}
	slices.Sort(all)
	r.Requests = len(all)
	r.P50, r.P99, r.Max = percentile(all, 50), percentile(all, 99), all[len(all)-1]
	return r, nil
}
