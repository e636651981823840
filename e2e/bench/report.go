package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Results is what -out writes.
type Results struct {
	Schema   int                `json:"schema"` // 1; grows when a reader of the old one would be misled
	Date     time.Time          `json:"date"`
	Seconds  float64            `json:"seconds"` // that the run took
	Quick    bool               `json:"quick"`
	Smoke    bool               `json:"smoke,omitempty"` // the figures mean nothing
	Machine  Machine            `json:"machine"`
	Versions map[string]string  `json:"versions"`
	Notes    []string           `json:"notes,omitempty"`
	Cases    []Case             `json:"cases"`
	Goals    map[string]Verdict `json:"goals"`
}

// Machine says what the figures were found on.
type Machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	Memory     string `json:"memory"`
	Kernel     string `json:"kernel"`
	Congestion string `json:"tcp_congestion_control"` // on loopback
	MeasuredIn string `json:"measured_in"`            // "namespace" or "host"
}

// Case is one kind of load.
type Case struct {
	Name     string    `json:"name"`
	What     string    `json:"what"`
	Subjects []Subject `json:"subjects"` // the first is what the ratios are of
}

// Subject is one program under that load.
type Subject struct {
	Name    string          `json:"name"`
	Figures map[string]Stat `json:"figures"`
	// Ratios are of the case's first subject to this one: each from two measurements that followed one another, then the median.
	Ratios map[string]Stat `json:"ratios,omitempty"`
}

// metricOrder is the order of columns.
var metricOrder = []string{rate, p50, p99, worst, requestCPU, gbit, byteCPU, p50RTT, p99RTT, linkShare, waited, failures,
	idleBase, idleFlow(1000), idleFlow(9000), idleTotal(10000), deaths, resets, corrupted, mirrored}

// String is the figures in one line, for whoever watches.
func (f figures) String() string {
	var parts []string
	for _, metric := range metricOrder {
		if v, ok := f[metric]; ok {
			parts = append(parts, fmt.Sprintf("%s %.4g", metric, v))
		}
	}
	return strings.Join(parts, ", ")
}

// cases turns what was gathered into what is written.
func (b *bench) cases() []Case {
	var all []Case
	for _, name := range b.order {
		s := b.all[name]
		c := Case{Name: s.name, What: s.what}
		for _, subject := range s.subjects {
			c.Subjects = append(c.Subjects, Subject{Name: subject, Figures: stats(s.values[subject]), Ratios: stats(s.ratios[subject])})
		}
		all = append(all, c)
	}
	return all
}

func stats(values map[string][]float64) map[string]Stat {
	out := map[string]Stat{}
	for metric, v := range values {
		if len(v) > 0 {
			out[metric] = stat(v)
		}
	}
	return out
}

// report writes the tables, the results and, last, one line of JSON with the goals.
func (b *bench) report(w io.Writer) error {
	b.versions["go"] = runtime.Version()
	if out, err := exec.Command(filepath.Join(b.options.bin, "tradewind-gateway"), "-version").Output(); err == nil {
		b.versions["tradewind"] = strings.TrimSpace(string(out))
	}
	r := Results{Schema: 1, Date: b.begin.UTC().Truncate(time.Second), Seconds: time.Since(b.begin).Seconds(), Quick: b.options.quick,
		Smoke: b.options.smoke, Machine: b.machine(), Versions: b.versions, Notes: b.notes, Cases: b.cases(), Goals: judge(b.all)}
	if b.options.out != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return fmt.Errorf("encode the results: %w", err)
		}
		if err := os.WriteFile(b.options.out, append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	if err := r.print(w); err != nil {
		return err
	}
	line, err := jsonLine(r.Goals)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n", line)
	if failed := missed(r.Goals, b.options.slack); b.options.strict && len(failed) > 0 {
		return fmt.Errorf("goals missed by more than %v: %s", b.options.slack, strings.Join(failed, ", "))
	}
	return nil
}

// print writes the tables that people read.
func (r *Results) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d processors, %s, Linux %s, loopback TCP: %s, %.0f s\n", r.Machine.CPU, r.Machine.Processors, r.Machine.Memory,
		r.Machine.Kernel, r.Machine.Congestion, r.Seconds)
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(w, "%s: %s\n", name, r.Versions[name])
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	for _, c := range r.Cases {
		if err := c.print(w); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "goal\tmeasured\t\tbound\t\twhat\n")
	for _, g := range goals {
		v, measured := r.Goals[g.id]
		if !measured {
			continue
		}
		verdict, relation := "MISSED", "at most"
		if v.OK {
			verdict = "ok"
		}
		if v.Least {
			relation = "at least"
		}
		fmt.Fprintf(table, "%s\t%.4g\t%s\t%.4g\t%s\t%s\n", g.id, v.Value, relation, v.Goal, verdict, v.What)
	}
	return table.Flush()
}

// print writes one case: a row for each subject with median and spread, and what the first one is relative to it.
func (c *Case) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s: %s\n", c.Name, c.What)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var metrics []string
	for _, metric := range metricOrder {
		if len(c.Subjects) > 0 && c.Subjects[0].Figures[metric].N > 0 {
			metrics = append(metrics, metric)
		}
	}
	fmt.Fprintf(table, "\t%s\n", strings.Join(metrics, "\t"))
	for _, s := range c.Subjects {
		row := s.Name
		for _, metric := range metrics {
			f, ok := s.Figures[metric]
			switch {
			case !ok:
				row += "\t-"
			case f.N == 1:
				row += fmt.Sprintf("\t%.4g", f.Median)
			default:
				row += fmt.Sprintf("\t%.4g (%.4g-%.4g)", f.Median, f.Min, f.Max)
			}
			if ratio, ok := s.Ratios[metric]; ok {
				row += fmt.Sprintf(" x%.3g", ratio.Median)
			}
		}
		fmt.Fprintln(table, row)
	}
	return table.Flush()
}
