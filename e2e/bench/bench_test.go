package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Stat
	}{
		{[]float64{3}, Stat{3, 3, 3, 1}},
		{[]float64{4, 2}, Stat{3, 2, 4, 2}},
		{[]float64{9, 1, 5}, Stat{5, 1, 9, 3}},
		{[]float64{4, 1, 3, 2}, Stat{2.5, 1, 4, 4}},
	} {
		if got := stat(c.values); got != c.want {
			t.Errorf("stat(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

// The nearest rank: at least p percent of the values are at or below it, and it is one of them.
func TestPercentileIsANearestRank(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(0, 1e6), 1, 200).Draw(t, "values")
		p := rapid.Float64Range(0, 100).Draw(t, "p")
		slices.Sort(values)
		got := percentile(values, p)
		if !slices.Contains(values, got) {
			t.Fatalf("%v is none of the values", got)
		}
		below, _ := slices.BinarySearch(values, math.Nextafter(got, math.Inf(1)))
		if float64(below) < p/100*float64(len(values))-1e-9 {
			t.Fatalf("only %d of %d values are at or below the percentile %v", below, len(values), p)
		}
	})
	if percentile(nil, 50) != 0 {
		t.Error("no values must give 0")
	}
}

// Ratios are made of neighbours, so that a machine that gets slower between rounds does not get into them.
func TestRatiosAreOfNeighbours(t *testing.T) {
	s := newSeries("case", "")
	for _, speed := range []float64{1, 10, 100} {
		s.pair("a", figures{rate: 3 * speed, failures: 0}, "b", figures{rate: 2 * speed, failures: 0})
	}
	if got := stat(s.ratios["b"][rate]); got != (Stat{1.5, 1.5, 1.5, 3}) {
		t.Errorf("ratios are %v, want 1.5 throughout", got)
	}
	if _, made := s.ratios["b"][failures]; made {
		t.Error("a ratio to 0 was made")
	}
}

// measured returns series that meet every goal exactly, as if by chance.
func measured() map[string]*series {
	all := map[string]*series{}
	for _, g := range goals {
		if all[g.series] == nil {
			all[g.series] = newSeries(g.series, "")
			all[g.series].add("tradewind", nil)
		}
		s := all[g.series]
		switch {
		case g.id == "G4/stretch": // the same figure as G4
		case g.to == "":
			s.values["tradewind"][g.metric] = []float64{g.bound}
		default:
			if s.ratios[g.to] == nil {
				s.ratios[g.to] = map[string][]float64{}
			}
			s.ratios[g.to][g.metric] = []float64{g.bound + g.minus}
		}
	}
	return all
}

func TestGoalsAreJudged(t *testing.T) {
	all := measured()
	verdicts := judge(all)
	if len(verdicts) != len(goals) {
		t.Errorf("%d goals judged of %d", len(verdicts), len(goals))
	}
	if got := missed(verdicts, 0); !slices.Equal(got, []string{"G4/stretch"}) {
		t.Errorf("figures on their bounds miss %v", got)
	}
	ratios := all[newFlows].ratios[plainTCP.name]
	ratios[rate], ratios[requestCPU] = []float64{1.0, 1.05, 1.2}, []float64{0.95}
	verdicts = judge(all)
	for id, want := range map[string]float64{"G1": 1.05, "G2": 0.95} {
		if v := verdicts[id]; v.OK || v.Value != want {
			t.Errorf("%s is %+v, want it missed with %v", id, v, want)
		}
	}
	if got := missed(verdicts, 0.1); slices.Contains(got, "G1") || slices.Contains(got, "G2") {
		t.Errorf("with a slack of a tenth %v are missed", got)
	}
}

// What was not measured has no verdict: neither met nor missed.
func TestNoVerdictWithoutFigures(t *testing.T) {
	all := measured()
	delete(all, bulkQUIC)
	delete(all[newFlows].ratios, haproxy.name)
	all[idleFlows] = newSeries(idleFlows, "")
	verdicts := judge(all)
	for _, id := range []string{"G7", "G1/haproxy", "G2/haproxy", "G11", "G11/10k"} {
		if v, there := verdicts[id]; there {
			t.Errorf("%s has the verdict %+v without a figure", id, v)
		}
	}
	if _, there := verdicts["G1"]; !there {
		t.Error("G1 was measured and has no verdict")
	}
}

func TestReport(t *testing.T) {
	out := filepath.Join(t.TempDir(), "results.json")
	b := &bench{options: options{out: out, bin: t.TempDir()}, all: map[string]*series{}, versions: map[string]string{}}
	b.note("a note")
	b.series(newFlows, "new flows").
		pair("tradewind", figures{rate: 12000, requestCPU: 12}, plainTCP.name, figures{rate: 10000, requestCPU: 15})
	var text bytes.Buffer
	if err := b.report(&text); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	var last struct{ Goals map[string]Verdict }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("the last line is no JSON: %v", err)
	}
	want := map[string]Verdict{"G1": {Value: 1.2, Goal: 1.1, Least: true, OK: true}, "G2": {Value: 0.8, Goal: 0.9, OK: true}}
	if len(last.Goals) != len(want) || last.Goals["G1"] != want["G1"] || last.Goals["G2"] != want["G2"] {
		t.Errorf("the last line says %v, want %v", last.Goals, want)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var r Results
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cases) != 1 || r.Cases[0].Subjects[1].Ratios[rate].Median != 1.2 || r.Schema != 1 || r.Notes[0] != "a note" {
		t.Errorf("the results are %+v", r)
	}
	b.options.strict = true
	b.series(newFlows, "").ratios[plainTCP.name][requestCPU] = []float64{0.95}
	if err := b.report(&text); err == nil || !strings.Contains(err.Error(), "G2") {
		t.Errorf("a strict report of a missed G2 says %v", err)
	}
	b.options.slack = 0.1
	if err := b.report(&text); err != nil {
		t.Errorf("a strict report with slack says %v", err)
	}
}

// Every goal names a case that some plan measures and a metric that has a column.
func TestGoalsCanBeMeasured(t *testing.T) {
	b := &bench{}
	cases := map[string][]string{idleFlows: {}, handOver: {}}
	for _, p := range b.plans() {
		for _, s := range p.others {
			cases[p.name] = append(cases[p.name], s.name)
		}
	}
	for _, p := range b.pathPlans() {
		for _, percent := range p.losses {
			for _, s := range p.others {
				cases[at(p.name, percent)] = append(cases[at(p.name, percent)], s.name)
			}
		}
	}
	for _, g := range goals {
		others, planned := cases[g.series]
		if !planned || g.to != "" && !slices.Contains(others, g.to) {
			t.Errorf("%s: nothing measures %s against %q", g.id, g.series, g.to)
		}
		if !slices.Contains(metricOrder, g.metric) {
			t.Errorf("%s: %s has no column", g.id, g.metric)
		}
	}
}
