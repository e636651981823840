package demo

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// TestClouds: each double's provider block is a valid one that asks a loopback address and lets nothing but checkout in.
func TestClouds(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{dir: t.TempDir(), regions: map[federation.Region]*region{}}
	defer w.wg.Wait()
	defer cancel()
	networks := map[netip.Addr]bool{}
	for _, name := range []federation.Region{aws, gcp, azure} {
		if err := w.add(ctx, name); err != nil {
			t.Fatal(err)
		}
		c := w.regions[name].cloud
		networks[c.network] = true
		if !strings.HasPrefix(c.url, "http://127.0.0.1:") || !c.address(300).IsLoopback() || c.address(1) == c.address(257) {
			t.Errorf("%s is at %s, its machines at %v", name, c.url, c.address(300))
		}
		file := filepath.Join(w.dir, c.kind+".hcl")
		if err := os.WriteFile(file, fmt.Appendf(nil, "region = %q\n%s", name, c.block()), 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		p := g.Providers[0]
		want := federation.Discover{Service: "checkout", Accounts: []string{c.account}}
		if p.Kind != c.kind || p.Interval != pollEvery || len(p.Discover) != 1 || p.Discover[0].Service != want.Service ||
			!slices.Equal(p.Discover[0].Accounts, want.Accounts) || !strings.Contains(fmt.Sprintf("%+v", p.Config), c.url) {
			t.Errorf("%s is configured as %+v", name, p)
		}
	}
	if len(networks) != 3 {
		t.Errorf("clouds share addresses: %v", networks)
	}
}

// TestChildrenSeeNothingOfTheUser: no variable of the caller reaches a process of the demo, whatever it is called.
func TestChildrenSeeNothingOfTheUser(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AZURE_CLIENT_SECRET", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY",
		"HOME"} {
		t.Setenv(name, "of the user")
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{dir: t.TempDir(), regions: map[federation.Region]*region{}, running: map[*process]bool{}}
	defer w.close()
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.self = self
	for _, name := range []federation.Region{aws, gcp, azure} {
		if err := w.add(ctx, name); err != nil {
			t.Fatal(err)
		}
		r := w.regions[name]
		gateway, err := w.start(r.cloud.variables(r.dir), self, "-test.run=^$")
		if err != nil {
			t.Fatal(err)
		}
		m, err := w.boot(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*process{gateway, m.process} {
			if all := strings.Join(p.cmd.Environ(), "\n"); strings.Contains(all, "of the user") {
				t.Errorf("a process of %s has\n%s", name, all)
			}
		}
	}
}

func TestWhoAnswered(t *testing.T) {
	begin := time.Now()
	one, two := server{"a", "1"}, server{"a", "2"}
	l := &load{}
	for i, by := range []server{one, two, one, {}, two, two} {
		l.record(answer{at: begin.Add(time.Duration(i+1) * time.Second), server: by, retries: i % 2})
	}
	after := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Second) }
	if at, ok := l.first(after(1), func(s server) bool { return s == one }); !ok || at != after(3) {
		t.Errorf("the first answer of 1 after the first second: %v %v", at, ok)
	}
	if _, ok := l.first(after(3), func(s server) bool { return s == one }); ok {
		t.Error("1 has answered after its last answer")
	}
	for _, c := range []struct {
		from, at, since int
		by              server
	}{{0, 3, 3, one}, {4, 4, 2, one}, {0, 6, 0, two}, {6, 6, 0, two}} {
		if at, since := l.last(after(c.from), func(s server) bool { return s == c.by }); at != after(c.at) || since != c.since {
			t.Errorf("the last answer of %v after second %d: %v, %d others since", c.by, c.from, at.Sub(begin), since)
		}
	}
	got := l.since(after(2))
	if got.requests != 5 || got.failed != 1 || got.retried != 3 || got.regions["a"] != 4 || got.machines[two] != 3 {
		t.Errorf("since the second second: %+v", got)
	}
}
