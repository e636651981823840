package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

const (
	sampleSize  = 320 // requests by which a split is measured: 10 % of them are told from 3 % and from 17 %
	sampleWidth = 30  // of them at once: so few that no region is taken to be full, and with 86 ms each that takes a second

	// sigmas is how far a measured share may lie from the one that was asked for, in standard deviations of the binomial distribution: by
	// chance it lies further in one of 15,000 runs.
	sigmas = 4

	rampTime = 8 * time.Second // of "failover return"
)

// Share is what one region got of a sample.
type Share struct {
	Region   federation.Region `json:"region"`
	Asked    float64           `json:"asked_percent"`
	Requests int               `json:"requests"`
	Percent  float64           `json:"percent"`
	Least    float64           `json:"least_percent"` // below that, or above Most, the split does not do what it says
	Most     float64           `json:"most_percent"`
}

// measured holds what was counted in t against the shares asked for, in percent.
func measured(t tally, asked map[federation.Region]float64) (list []Share, ok bool) {
	ok = t.failed == 0 && t.requests > 0
	n := float64(max(1, t.requests))
	for _, r := range []federation.Region{aws, azure, gcp} {
		p := asked[r] / 100
		spread := 100 * sigmas * math.Sqrt(p*(1-p)/n)
		got := t.regions[string(r)]
		round := func(percent float64) float64 { return math.Round(10*min(100, max(0, percent))) / 10 }
		share := Share{Region: r, Asked: asked[r], Requests: got, Percent: round(100 * float64(got) / n), Least: round(asked[r] - spread),
			Most: round(asked[r] + spread)}
		ok = ok && share.Percent >= share.Least && share.Percent <= share.Most
		if got > 0 || p > 0 {
			list = append(list, share)
		}
	}
	return list, ok
}

// sharesText says what was measured, beside what was asked for and what chance allows.
func sharesText(of int, list []Share) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = fmt.Sprintf("%s %d of %d = %.1f %% (%.0f %% asked, chance allows %.1f to %.1f)", s.Region, s.Requests, of, s.Percent, s.Asked,
			s.Least, s.Most)
	}
	return strings.Join(words, "; ")
}

// cli runs the command line as its user would, on the socket of r's gateway, and returns what it prints as JSON.
func (w *world) cli(ctx context.Context, r *region, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.self, append(args, "-o", "json")...)
	cmd.Env = []string{"HOME=" + r.dir, "TRADEWIND_SOCKET=" + r.client.Target().Socket}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("tradewind %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

// canary sends a growing share of the requests to another cloud, by a route.
func (s *story) canary(ctx context.Context) error {
	for _, percent := range []int{10, 50} {
		if err := s.split(ctx, percent); err != nil {
			return err
		}
	}
	return nil
}

// split has so many of a hundred requests go to azure first and the others to aws, and measures what they do.
func (s *story) split(ctx context.Context, percent int) error {
	r := s.regions[gcp]
	file := filepath.Join(r.dir, "canary.hcl")
	content := fmt.Sprintf(`route "checkout" {
  rule "canary" {
    split {
      region = %q
      weight = %d
    }
    split {
      region = %q
      weight = %d
    }
  }
}
`, aws, 100-percent, azure, percent)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write the route: %w", err)
	}
	s.screen.next(s.begin, `a canary across clouds: route "checkout" splits %d/%d between %s and %s; tradewind apply -f canary.hcl`,
		100-percent, percent, aws, azure)
	from := time.Now()
	if _, err := s.cli(ctx, r, "apply", "-f", file); err != nil {
		return err
	}
	if err := s.until(ctx, 5*time.Second, "the split to be in force", func() error { return s.splits(ctx, percent) }); err != nil {
		return err
	}
	t := s.load.sample(ctx, sampleSize, sampleWidth)
	if err := ctx.Err(); err != nil {
		return err
	}
	list, ok := measured(t, map[federation.Region]float64{aws: float64(100 - percent), azure: float64(percent)})
	beside := s.load.since(from)
	step := t.step(fmt.Sprintf("canary %d/%d", 100-percent, percent), ok && beside.failed == 0, sharesText(t.requests, list))
	step.Shares, step.Failed, step.Retried = list, t.failed+beside.failed, t.retried+beside.retried
	step.Requests += beside.requests
	s.done(step)
	return nil
}

// splits returns nil when the gateway says that it sends so many of a hundred requests to azure first, as "route test" would show.
func (s *story) splits(ctx context.Context, percent int) error {
	e, err := s.regions[gcp].client.Explain(ctx, &admin.ExplainRequest{Source: "web", Destination: "checkout",
		Request: &admin.HTTPRequest{Method: "GET", Target: "/v1/cart"}})
	if err != nil {
		return err
	}
	for _, share := range e.Request.Shares {
		if share.Prefers == azure && math.Abs(share.Percent-float64(percent)) < 0.01 {
			return nil
		}
	}
	return errors.New("route test shows another one")
}

// drain takes azure, which serves half of the requests, out of service for work on it.
func (s *story) drain(ctx context.Context) error {
	s.screen.next(s.begin, "work is planned on %s, which serves half of the requests; tradewind failover drain %s", azure, azure)
	from := time.Now()
	out, err := s.cli(ctx, s.regions[gcp], "failover", "drain", string(azure))
	if err != nil {
		return err
	}
	var said struct {
		LastSecond uint64  `json:"last_second"`
		Open       int     `json:"open"`
		Seconds    float64 `json:"took_seconds"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return fmt.Errorf("read what failover drain says: %w", err)
	}
	last, since := s.load.last(from, in(azure))
	t := s.load.since(from)
	step := t.step("drain "+string(azure), t.failed == 0 && t.retried == 0 && since >= ratePerSecond/2 && said.LastSecond == 0, fmt.Sprintf(
		"the next %d requests in a row were answered elsewhere; failover drain waited %.1f s and says: %d calls in its last second, %d open",
		since, said.Seconds, said.LastSecond, said.Open))
	step.DrainedMS = millis(last.Sub(from))
	s.done(step)
	return nil
}

// comeBack gives azure its requests back, little by little. It returns at once; returned tells how that went.
func (s *story) comeBack(ctx context.Context) error {
	s.screen.next(s.begin, "the work is done; tradewind failover return %s gives it its share back within %.0f s, while the story goes on",
		azure, rampTime.Seconds())
	s.ramp = make(chan error, 1)
	s.rampFrom = time.Now()
	s.wg.Go(func() {
		_, err := s.cli(ctx, s.regions[gcp], "failover", "return", string(azure))
		s.ramp <- err
	})
	return nil
}

// returned waits until azure has its share again, and ends the canary.
func (s *story) returned(ctx context.Context) error {
	s.screen.next(s.begin, "%s has its whole share again when the command says so ...", azure)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.ramp:
		if err != nil {
			return err
		}
	}
	took := time.Since(s.rampFrom)
	var ramp []string
	for at := time.Duration(0); at < rampTime; at += 2 * time.Second {
		part := s.load.between(s.rampFrom.Add(at), s.rampFrom.Add(at+2*time.Second))
		ramp = append(ramp, fmt.Sprintf("%d of %d", part.regions[string(azure)], part.requests))
	}
	after := s.load.sample(ctx, sampleSize/2, sampleWidth)
	if err := ctx.Err(); err != nil {
		return err
	}
	list, ok := measured(after, map[federation.Region]float64{aws: 50, azure: 50})
	t := s.load.since(s.rampFrom)
	t.add(after)
	step := t.step("return "+string(azure), ok && t.failed == 0, fmt.Sprintf("in each 2 s it answered %s; then %s",
		strings.Join(ramp, ", "), sharesText(after.requests, list)))
	step.Shares, step.ReturnedMS = list, millis(took)
	s.done(step)
	from := time.Now()
	if _, err := s.cli(ctx, s.regions[gcp], "delete", "route", "checkout", "--yes"); err != nil {
		return err
	}
	return s.until(ctx, 5*time.Second, "the canary to end", func() error { // what is under way must not count as an answer of the next step
		if _, since := s.load.last(from, in(azure)); since < ratePerSecond/4 {
			return errors.New("it has answered a moment ago")
		}
		return nil
	})
}
