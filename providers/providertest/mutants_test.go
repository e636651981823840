package providertest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// mutants are sources that break the contract in one way each, and what the suite must say about them.
var mutants = map[string]struct {
	run  func(*board, context.Context, func([]federation.Instance)) error
	says string
}{
	"publishes nothing for an empty world": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			return b.Run(ctx, func(set []federation.Instance) {
				if len(set) > 0 {
					publish(set)
				}
			})
		}, "the newest set is"},
	"publishes page by page": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			return b.Run(ctx, func(set []federation.Instance) {
				publish(set[:len(set)/2])
				publish(set)
			})
		}, "the world did not hold"},
	"publishes an empty set when it cannot see": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			for ctx.Err() == nil {
				b.mu.Lock()
				set := slices.Clone(b.pinned)
				if b.broken {
					set = nil
				}
				b.mu.Unlock()
				publish(set)
				select {
				case <-ctx.Done():
				case <-b.wake:
				case <-time.After(20 * time.Millisecond):
				}
			}
			return nil
		}, "could not be seen"},
	"returns an error when it is stopped": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			return errors.Join(b.Run(ctx, publish), ctx.Err())
		}, "want nil"},
	"does not stop": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			go b.Run(ctx, publish)
			<-ctx.Done()
			<-time.After(time.Minute)
			return nil
		}, "has not returned 2 s after"},
	"leaves a goroutine behind": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			go func() { <-time.After(time.Minute) }()
			return b.Run(ctx, publish)
		}, "found unexpected goroutines"},
	"uses one slice again and again": {
		func(b *board, ctx context.Context, publish func([]federation.Instance)) error {
			buffer := make([]federation.Instance, 0, 1000)
			return b.Run(ctx, func(set []federation.Instance) {
				buffer = append(buffer[:0], set...)
				publish(buffer)
			})
		}, "changed afterwards"},
}

// listerMutants are adapters that get one thing wrong each, and what the suite must say about them.
var listerMutants = map[string]struct {
	sabotage sabotage
	says     string
}{
	"reads one page":             {sabotage{readsOnePage: true}, "listed workloads"},
	"forgives pages that fail":   {sabotage{forgivesPages: true}, "listed workloads"},
	"hides items it cannot read": {sabotage{hidesBadItems: true}, "want one with its ID and an error"},
	"ignores the budget":         {sabotage{ignoresBudget: true}, "it must wait before each"},
	"ignores its context":        {sabotage{ignoresContext: true}, "after the end of its context"},
	"says no reasons":            {sabotage{saysNoReasons: true}, "want the framework's error for it"},
	"follows a loop of pages":    {sabotage{loops: true}, "a page points to itself"},
}

type mutant struct {
	*board
	run func(*board, context.Context, func([]federation.Instance)) error
}

func (m mutant) Run(ctx context.Context, publish func([]federation.Instance)) error {
	return m.run(m.board, ctx, publish)
}

const mutantEnv = "PROVIDERTEST_MUTANT"

// TestMutant runs the suite on the mutant that the environment names; it does nothing by itself.
func TestMutant(t *testing.T) {
	name := os.Getenv(mutantEnv)
	if name == "" {
		t.Skip("run by TestTheSuiteFindsMutants")
	}
	if m, ok := listerMutants[name]; ok {
		Lister(t, func(t *testing.T) ListerRig { return exampleRig(t, m.sabotage, time.Second) })
		return
	}
	Run(t, func(*testing.T) Rig {
		b := &board{wake: make(chan struct{}, 1)}
		return Rig{Source: mutant{b, mutants[name].run}, Within: time.Second, Quiet: 100 * time.Millisecond,
			Set:    func(_ *testing.T, set []federation.Instance) { b.pin(set, b.broken) },
			Break:  func(*testing.T) { b.pin(b.pinned, true) },
			Repair: func(*testing.T) { b.pin(b.pinned, false) }}
	})
}

// TestTheSuiteFindsMutants runs this test program once for each mutant and expects it to fail in the right words.
func TestTheSuiteFindsMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	says := map[string]string{}
	for name, m := range mutants {
		says[name] = m.says
	}
	for name, m := range listerMutants {
		says[name] = m.says
	}
	for name, want := range says {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, self, "-test.run=^TestMutant$", "-test.failfast")
			cmd.Env = append(os.Environ(), mutantEnv+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("the suite says\n%s\nwant %q", out, want)
			}
		})
	}
}
