package controlplane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// writerDir tells the test binary to be a plane that writes until it is killed.
const writerDir = "TRADEWIND_TEST_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		if err := write(dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// write applies changes of two resources each for ever and says each number once it is acknowledged.
func write(dir string, out io.Writer) error {
	s, err := store.OpenBolt(dir)
	if err != nil {
		return err
	}
	p, err := New(context.Background(), Config{Region: aws, TrustDomain: federation.DefaultTrustDomain(aws), Store: s,
		Registry: newRegistry()})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		pair := put("cli", exportOf(fmt.Sprintf("svc-%d", i%50), fmt.Sprintf("peer-%d", i)), intention(fmt.Sprintf("i-%d", i%50),
			fmt.Sprintf("web-%d", i), "*"))
		if _, err := p.Apply(context.Background(), pair); err != nil {
			return err
		}
		fmt.Fprintln(out, i)
	}
}

func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	dir := t.TempDir() + "/state"
	for round := range 3 {
		last := writeAndKill(t, dir, 40*(round+1))
		s, err := store.OpenBolt(dir)
		if err != nil {
			t.Fatal(err)
		}
		r := newRegion(t, s)
		// The resource that number last wrote says that number, or one more if the kill fell between commit and word.
		export, err := r.Get(federation.Key{Kind: federation.KindExport, Name: fmt.Sprintf("svc-%d", last%50)})
		if err != nil || export.Spec.(*federation.Export).To[0] != fmt.Sprintf("peer-%d", last) {
			t.Errorf("round %d: change %d was acknowledged, the store has %+v, %v", round, last, export.Spec, err)
		}
		// Both halves of each change are there, or none.
		exports, intentions := map[string]string{}, map[string]string{}
		for _, e := range r.List(federation.KindExport) {
			exports[strings.TrimPrefix(e.Name, "svc-")] = strings.TrimPrefix(e.Spec.(*federation.Export).To[0], "peer-")
		}
		for _, i := range r.List(federation.KindIntention) {
			intentions[strings.TrimPrefix(i.Name, "i-")] = strings.TrimPrefix(i.Spec.(*federation.Intention).Source, "web-")
		}
		if diff := gocmp.Diff(exports, intentions); diff != "" {
			t.Errorf("round %d: half a change survived:\n%s", round, diff)
		}
		if d := r.Status().Damaged; len(d) != 0 {
			t.Errorf("round %d: damaged: %v", round, d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeAndKill runs a writer until it has acknowledged n changes, kills it, and returns the last it acknowledged.
func writeAndKill(t *testing.T, dir string, n int) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last, lines := -1, bufio.NewScanner(out)
	for lines.Scan() { // what it said before it died is in the pipe, and is read to the end
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatal(err)
		}
		if last == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
	if last < n {
		t.Fatalf("the writer ended by itself after change %d", last)
	}
	return last
}

func TestARestartFindsEverything(t *testing.T) {
	dir := t.TempDir() + "/state"
	open := func() (*store.Bolt, *region) {
		s, err := store.OpenBolt(dir)
		if err != nil {
			t.Fatal(err)
		}
		r := newRegion(t, s, "web")
		r.turn()
		return s, r
	}
	s, before := open()
	deny := intention("no-batch", "batch@*", "web")
	deny.Spec.(*federation.Intention).Action = federation.Deny
	deny.Source = "/etc/tradewind/resources.d/shop.hcl:7"
	before.apply(t, put("dir:/etc/tradewind/resources.d", deny, exportOf("web", "*"), upstream("u", "reports@gcp-europe-west1",
		"127.0.0.1:9001"),
		resource(federation.KindResolver, "shop/web", &federation.Resolver{Failover: []string{"local"}}), resource(federation.KindService,
			"web", &federation.Service{Protocol: "http"})))
	before.turn()
	view, list := before.View(), before.List()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, after := open()
	defer func() { _ = s.Close() }()
	if diff := gocmp.Diff(list, after.List()); diff != "" {
		t.Errorf("resources (-before +after):\n%s", diff)
	}
	again := after.View()
	for what, diff := range map[string]string{
		"exports": gocmp.Diff(view.Exports, again.Exports), "intentions": gocmp.Diff(view.Intentions, again.Intentions),
		"resolvers": gocmp.Diff(view.Resolvers, again.Resolvers), "upstreams": gocmp.Diff(view.Upstreams, again.Upstreams),
		"services": gocmp.Diff(before.registry.declared, after.registry.declared),
	} {
		if diff != "" {
			t.Errorf("%s (-before +after):\n%s", what, diff)
		}
	}
	if got, err := after.Get(deny.Key); err != nil || got.Source != deny.Source || got.Owner != "dir:/etc/tradewind/resources.d" {
		t.Errorf("it is now %+v, %v", got, err)
	}
}
