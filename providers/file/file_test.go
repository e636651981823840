package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// document writes instances as a file holds them.
func document(t *testing.T, instances []federation.Instance) []byte {
	t.Helper()
	data, err := json.MarshalIndent(map[string]any{"instances": append([]federation.Instance{}, instances...)}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// replace puts data in the place of path as careful writers do: by rename.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	temporary := path + ".tmp"
	write(t, temporary, data)
	if err := os.Rename(temporary, path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestContract holds the source to the contract of all providers, with every way of writing and of failing.
func TestContract(t *testing.T) {
	open := func(path string) *Source {
		return New(Config{Path: path, Poll: 100 * time.Millisecond, Settle: 5 * time.Millisecond})
	}
	t.Run("one file, renamed over", func(t *testing.T) {
		providertest.Run(t, func(t *testing.T) providertest.Rig {
			path := filepath.Join(t.TempDir(), "shop.json")
			good := path
			return providertest.Rig{Source: open(path),
				Set:    func(t *testing.T, set []federation.Instance) { replace(t, good, document(t, set)) },
				Break:  func(t *testing.T) { good = path + ".held"; rename(t, path, good) },
				Repair: func(t *testing.T) { rename(t, good, path); good = path }}
		})
	})
	t.Run("one file, written in place", func(t *testing.T) {
		providertest.Run(t, func(t *testing.T) providertest.Rig {
			path := filepath.Join(t.TempDir(), "shop.json")
			var now []byte
			broken := false
			return providertest.Rig{Source: open(path),
				Set: func(t *testing.T, set []federation.Instance) {
					if now = document(t, set); !broken {
						write(t, path, now)
					}
				},
				Break:  func(t *testing.T) { broken = true; write(t, path, now[:len(now)-3]) },
				Repair: func(t *testing.T) { broken = false; write(t, path, now) }}
		})
	})
	t.Run("a ConfigMap", func(t *testing.T) {
		providertest.Run(t, func(t *testing.T) providertest.Rig {
			dir := t.TempDir()
			n := 0
			var now []byte
			broken := false
			swap := func(t *testing.T, data []byte) {
				n++
				version, link := fmt.Sprintf("..v%d", n), filepath.Join(dir, "..next")
				if err := errors.Join(os.Mkdir(filepath.Join(dir, version), 0o700), os.Symlink(version, link)); err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, version, "shop.json"), data)
				rename(t, link, filepath.Join(dir, "..data"))
				if n == 1 {
					if err := os.Symlink("..data/shop.json", filepath.Join(dir, "shop.json")); err != nil {
						t.Fatal(err)
					}
				}
			}
			return providertest.Rig{Source: open(dir),
				Set: func(t *testing.T, set []federation.Instance) {
					if now = document(t, set); !broken {
						swap(t, now)
					}
				},
				Break:  func(t *testing.T) { broken = true; swap(t, []byte(`{"instances": [{}]}`)) },
				Repair: func(t *testing.T) { broken = false; swap(t, now) }}
		})
	})
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// listener collects what a running source publishes.
type listener struct {
	*Source
	mu   sync.Mutex
	sets [][]federation.Instance
}

// listen runs a source on path.
func listen(t *testing.T, path string) *listener {
	t.Helper()
	l := &listener{Source: New(Config{Path: path})}
	l.run(t)
	return l
}

// run runs the source for the length of the test.
func (l *listener) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- l.Run(ctx, func(set []federation.Instance) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sets = append(l.sets, set)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// published returns the IDs of the newest set, and how many sets there were.
func (l *listener) published() (ids string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sets) == 0 {
		return "nothing", 0
	}
	var out []string
	for _, in := range l.sets[len(l.sets)-1] {
		out = append(out, string(in.ID))
	}
	return strings.Join(out, " "), len(l.sets)
}

// until waits on the real clock until the newest set is want.
func (l *listener) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		got, _ := l.published()
		if got == want {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("published is %q, want %q; problem: %v", got, want, l.Problem())
		}
	}
}

// untilProblem waits until the source has a problem of code.
func (l *listener) untilProblem(t *testing.T, code federation.Code) *federation.Diagnostic {
	t.Helper()
	deadline := time.After(10 * time.Second)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for federation.CodeOf(l.Problem()) != code {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("problem is %v, want %s", l.Problem(), code)
		}
	}
	var d *federation.Diagnostic
	errors.As(l.Problem(), &d)
	return d
}

const oneInstance = `{"instances": [{"id": "%s", "service": "web", "address": "192.0.2.1:80"}]}`

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	write(t, b, fmt.Appendf(nil, oneInstance, "b"))
	write(t, a, fmt.Appendf(nil, oneInstance, "a"))
	write(t, filepath.Join(dir, "README"), []byte("not ours"))
	write(t, filepath.Join(dir, ".hidden.json"), []byte("not ours"))
	l := listen(t, dir)
	l.until(t, "a b")
	remove(t, a)
	l.until(t, "b")
	write(t, a, []byte("{"))
	d := l.untilProblem(t, federation.CodeFileMalformed)
	if !strings.HasPrefix(d.What, a+":1:2 ") {
		t.Errorf("diagnostic is %v", d)
	}
	if got, _ := l.published(); got != "b" {
		t.Errorf("published is %q", got)
	}
	remove(t, a)
	l.until(t, "b")
	remove(t, b)
	l.untilProblem(t, federation.CodeFileEmptyDirectory)
	if got, _ := l.published(); got != "b" {
		t.Errorf("published is %q", got)
	}
	write(t, a, []byte(`{"instances": []}`))
	l.until(t, "")
}

func TestLinkThatIsSwappedFarAway(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"v1", "v2"} {
		if err := os.MkdirAll(filepath.Join(root, "releases", v), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, "releases", v, "shop.json"), fmt.Appendf(nil, oneInstance, v))
	}
	current, path := filepath.Join(root, "current"), filepath.Join(root, "etc", "shop.json")
	err := errors.Join(os.Symlink("releases/v1", current), os.Mkdir(filepath.Dir(path), 0o700), os.Symlink(current+"/shop.json", path))
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{Source: New(Config{Path: path, Poll: 50 * time.Millisecond})}
	l.run(t)
	l.until(t, "v1")
	if err := os.Symlink("releases/v2", current+".next"); err != nil {
		t.Fatal(err)
	}
	rename(t, current+".next", current)
	l.until(t, "v2")
	write(t, filepath.Join(root, "releases", "v2", "shop.json"), fmt.Appendf(nil, oneInstance, "v3")) // in place, behind the link
	l.until(t, "v3")
}

func TestDirectoryThatIsReplaced(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "d")
	l := listen(t, dir) // it is not there yet
	l.untilProblem(t, federation.CodeFileUnreadable)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a.json"), fmt.Appendf(nil, oneInstance, "a"))
	l.until(t, "a")
	rename(t, dir, dir+".old")
	l.untilProblem(t, federation.CodeFileUnreadable)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a.json"), fmt.Appendf(nil, oneInstance, "b"))
	l.until(t, "b")
}

// TestPollsAlone runs where the system gives no notifications, such as with too many watches: every poll publishes, the set
// that it finds or the one that it confirms, and none does while the file is not valid.
func TestPollsAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.json")
	write(t, path, fmt.Appendf(nil, oneInstance, "1"))
	synctest.Test(t, func(t *testing.T) {
		l := &listener{Source: New(Config{Path: path})}
		l.notify = func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") }
		l.run(t)
		state := func(wantIDs string, wantSets int) {
			t.Helper()
			synctest.Wait()
			if ids, n := l.published(); ids != wantIDs || n != wantSets {
				t.Errorf("at %v: %d sets, the last is %q; want %d and %q", time.Now(), n, ids, wantSets, wantIDs)
			}
		}
		state("1", 1)
		<-time.After(5 * time.Second)
		state("1", 2)
		replace(t, path, fmt.Appendf(nil, oneInstance, "2")) // of the same size
		<-time.After(5*time.Second - time.Nanosecond)
		state("1", 2)
		<-time.After(time.Nanosecond)
		state("2", 3)
		replace(t, path, []byte("{"))
		<-time.After(10 * time.Second)
		state("2", 3)
		if federation.CodeOf(l.Problem()) != federation.CodeFileMalformed {
			t.Errorf("problem is %v", l.Problem())
		}
		replace(t, path, fmt.Appendf(nil, oneInstance, "3"))
		<-time.After(5 * time.Second)
		state("3", 4)
		if l.Problem() != nil {
			t.Errorf("problem is %v", l.Problem())
		}
	})
}

func TestThingsThatAreNoFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := read(filepath.Join(dir, "none.json"))
	if err == nil || err.Code != federation.CodeFileUnreadable || err.Why != "no such file or directory" {
		t.Errorf("missing: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := read(dir); err == nil || err.Code != federation.CodeFileUnreadable {
		t.Errorf("a directory among the files: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := errors.Join(os.WriteFile(big, nil, 0o600), os.Truncate(big, maxFile+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(big); err == nil || err.Code != federation.CodeFileTooLarge {
		t.Errorf("a large file: %v", err)
	}
	if _, err := read(os.DevNull); err == nil || err.Code != federation.CodeFileUnreadable {
		t.Errorf("a device: %v", err)
	}
}

func TestMistakesAndTheirPlaces(t *testing.T) {
	for _, c := range []struct{ text, where, why string }{
		{``, "1:1", "the file is empty or ends too early"},
		{"  \n ", "2:2", "the file is empty or ends too early"},
		{`[]`, "1:1", "an object is wanted here"},
		{`{}`, "1:1", `field "instances" is missing`},
		{`{"instances": {}}`, "1:15", "a list of instances is wanted here"},
		{`{"instances": [], "more": 1}`, "1:19", `field "more" is unknown`},
		{`{"instances": [], "instances": []}`, "1:19", `field "instances" is there twice`},
		{`{"instances": []} x`, "1:19", "invalid character 'x' after top-level value"},
		{`{"instances": []}{}`, "1:18", "invalid character '{' after top-level value"},
		{"{\"instances\": [\n  {\"service\": \"web\"}\n]}", "2:3", `instance 1: field "address" is missing`},
		{"{\"instances\": [\n  {\"address\": \"192.0.2.1:80\"}\n]}", "2:3", `instance 1: field "service" is missing`},
		{"{\"instances\": [\n  {\"address\": \"192.0.2.1:80\",\n   \"servise\": \"web\"}\n]}", "3:4", `instance 1: field "servise" is unknown`},
		{"{\"instances\": [\n  {\"address\": \"192.0.2.1\",\n   \"service\": \"web\"}\n]}", "2:15", `instance 1, field "address"`},
		{"{\"instances\": [\n  {\"ä\": 1}]}", "2:4", `instance 1: field "ä" is unknown`},
		{"{\"instances\": [\n {\"service\": \"web\", \"address\": \"192.0.2.1:80\"},\n" +
			" {\"service\": \"web\", \"weight\": \"much\", \"address\": \"192.0.2.2:80\"}]}",
			"3:31", `instance 2, field "weight": a string cannot stand here, a number from 0 to 65535 is wanted`},
		{"{\"instances\": [{\"service\": \"web\", \"address\": \"192.0.2.1:80\",\n \"checks\": [{\"kind\": \"http\", \"paht\": \"/\"}]}]}",
			"2:30", `instance 1, field "checks": field "paht" is unknown`},
		{"{\"instances\": [{\"service\": \"web\", \"address\": \"192.0.2.1:80\",\n \"checks\": [{\"kind\": \"ping\"}]}]}",
			"2:2", `instance 1, check 1: check kind "ping" is unknown`},
		{"{\"instances\": [{\"service\": \"web\", \"address\": \"192.0.2.1:80\",\n \"checks\": [{\"kind\": \"tcp\", \"interval\": \"fast\"}]}]}",
			"2:12", `instance 1, field "checks": duration "fast" is not valid`},
		{"{\"instances\": [{\"service\": \"web\",\n \"service\": \"api\", \"address\": \"192.0.2.1:80\"}]}",
			"2:2", `instance 1: field "service" is there twice`},
		{"{\"instances\": [\n {\"service\": \"Web\", \"address\": \"192.0.2.1:80\"}]}",
			"2:14", `instance 1, field "service": service "Web" has the character 'W'`},
		{"{\"instances\": [\n {\"service\": \"web\" \"address\": \"192.0.2.1:80\"}]}", "2:20", "invalid character"},
		{"{\"instances\": [\n {\"service\": \"web\"", "2:19", "the file is empty or ends too early"},
		{"{\"instances\": [null]}", "1:16", `instance 1: field "service" is missing`},
		{"{\"instances\": [7]}", "1:16", "instance 1: a number cannot stand here, an object is wanted"},
		{"{\"instances\": [\n\"\xff\"]}", "2:2", "the text is not UTF-8"},
	} {
		_, bad := decode([]byte(c.text))
		if bad == nil {
			t.Errorf("%q passes", c.text)
			continue
		}
		d := malformed("f.json", []byte(c.text), bad)
		if d.What != "f.json:"+c.where+" is not valid" || !strings.HasPrefix(d.Why, c.why) || d.Fix == "" {
			t.Errorf("%q gives\n%v\nwant it at %s and to say %q", c.text, d, c.where, c.why)
		}
	}
}

func TestWhatAFileCanSay(t *testing.T) {
	got, bad := decode([]byte(`{"instances": [
		{"service": "shop/cart", "address": "192.0.2.1:80"},
		{"id": "x", "service": "web", "address": "[2001:db8::1]:80", "protocol": "http", "locality": {"region": "r", "zone": "z"}, "weight": 5,
		 "health": "draining", "labels": {"a": "b"}, "checks": [{"kind": "ttl", "ttl": "5s"}]}]}`))
	if bad != nil {
		t.Fatal(bad)
	}
	want := []federation.Instance{
		{ID: "192.0.2.1:80", Service: federation.ServiceName{Namespace: "shop", Name: "cart"}, Address: netip.MustParseAddrPort("192.0.2.1:80")},
		{ID: "x", Service: federation.ServiceName{Namespace: "default", Name: "web"}, Address: netip.MustParseAddrPort("[2001:db8::1]:80"),
			Protocol: federation.ProtocolHTTP, Locality: federation.Locality{Region: "r", Zone: "z"}, Weight: 5, Health: federation.HealthDraining,
			Labels: map[string]string{"a": "b"},
			Checks: []federation.CheckSpec{{Kind: federation.CheckTTL, TTL: federation.Duration(5 * time.Second)}}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestByteOrderMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.json")
	if err := os.WriteFile(path, []byte("\ufeff{\"instances\": []}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := read(path); err != nil || !got.valid {
		t.Errorf("a file with a byte order mark: %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"instances": [{"service": "web", "address": "192.0.2.1:80", "checks": [{"kind": "tcp"}]}]}`))
	f.Add([]byte(`{"instances": [{"service": "web", "weight": "x"}]}`))
	f.Add([]byte("{\"instances\": [{\"\\u0000\": {\"a\": [1,2,{}]}}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		instances, bad := decode(data)
		if bad != nil {
			if line, column := position(data, bad.offset); line < 1 || column < 1 || bad.offset > int64(len(data)) || bad.fix == "" {
				t.Fatalf("mistake %+v at %d:%d", bad, line, column)
			}
			return
		}
		for _, in := range instances {
			if in.Service.IsZero() || !in.Address.IsValid() || in.ID == "" {
				t.Fatalf("instance %+v passes", in)
			}
		}
		again, bad := decode(document(t, instances))
		if bad != nil || !slices.EqualFunc(instances, again, func(a, b federation.Instance) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
			t.Fatalf("%+v\nis read again as\n%+v, %v", instances, again, bad)
		}
	})
}

// TestRestartWhileTheFileIsBroken: what an earlier run has read is used until the file is mended, and the age of it is said. What
// was read of another path is not.
func TestRestartWhileTheFileIsBroken(t *testing.T) {
	dir := t.TempDir()
	path, keep := filepath.Join(dir, "shop.json"), filepath.Join(dir, "kept", "shop.json")
	want := []federation.Instance{{ID: "one", Service: federation.ServiceName{Namespace: "default", Name: "shop"},
		Address: netip.MustParseAddrPort("192.0.2.1:80"), Health: federation.HealthPassing, Labels: map[string]string{"version": "2"},
		Checks: []federation.CheckSpec{{Kind: federation.CheckTCP}}}}
	// life runs a source of path until it has published or failed, and returns what it published.
	life := func(path string) (got []federation.Instance, problem error, asOf time.Time) {
		s := New(Config{Path: path, Keep: keep, Poll: 10 * time.Millisecond, Settle: time.Millisecond})
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		published, ended := make(chan []federation.Instance, 1), make(chan error, 1)
		go func() {
			ended <- s.Run(ctx, func(list []federation.Instance) {
				select {
				case published <- list:
				default:
				}
			})
		}()
		look := time.NewTicker(time.Millisecond)
		defer look.Stop()
		for got == nil && problem == nil && ctx.Err() == nil {
			select {
			case got = <-published:
			case <-look.C:
				problem = s.Problem()
			}
		}
		if got == nil { // what is kept comes right behind the problem, if at all
			select {
			case got = <-published:
			case <-time.After(300 * time.Millisecond):
			}
		}
		problem, asOf = s.Problem(), s.AsOf()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return got, problem, asOf
	}
	write(t, path, document(t, want))
	begin := time.Now()
	if got, problem, asOf := life(path); problem != nil || len(got) != 1 || got[0].Labels["version"] != "2" || !asOf.IsZero() {
		t.Fatalf("%+v, %v, %v", got, problem, asOf)
	}
	for name, breaks := range map[string]func(){"missing": func() { remove(t, path) }, "broken": func() { write(t, path, []byte("{")) }} {
		breaks()
		broken := time.Now()
		got, problem, asOf := life(path)
		if len(got) != 1 || got[0].Address != want[0].Address || len(got[0].Checks) != 1 {
			t.Errorf("%s: %+v", name, got)
		}
		if problem == nil || asOf.Before(begin) || asOf.After(broken) {
			t.Errorf("%s: %v, as of %v", name, problem, asOf)
		}
		write(t, path, document(t, want))
		if got, problem, asOf := life(path); len(got) != 1 || problem != nil || !asOf.IsZero() {
			t.Errorf("mended: %+v, %v, %v", got, problem, asOf)
		}
	}
	remove(t, path)
	mendedWhileItRuns(t, New(Config{Path: path, Keep: keep, Poll: 10 * time.Millisecond, Settle: time.Millisecond}), func() {
		write(t, path, document(t, want))
	})
	if got, problem, _ := life(filepath.Join(dir, "other.json")); got != nil || problem == nil {
		t.Errorf("another path: %+v, %v", got, problem)
	}
	write(t, keep, []byte("{"))
	remove(t, path)
	if got, _, _ := life(path); got != nil {
		t.Errorf("out of a damaged file came %+v", got)
	}
}

// mendedWhileItRuns holds that s, whose file is missing, uses what was kept until mend, and then what it reads.
func mendedWhileItRuns(t *testing.T, s *Source, mend func()) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, func([]federation.Instance) {}) }()
	until := func(what string, ok func() bool) {
		for look := time.Tick(time.Millisecond); !ok(); <-look {
			if ctx.Err() != nil {
				t.Fatalf("not within 10 s: %s", what)
			}
		}
	}
	until("what was kept is used", func() bool { return !s.AsOf().IsZero() && s.Problem() != nil })
	mend()
	until("what was read is used", func() bool { return s.AsOf().IsZero() && s.Problem() == nil })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
