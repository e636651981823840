package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// TestStories plays the stories in testdata against the built programs: each file is one story, with its regions on ports of its
// own, so that all of them run side by side. The words that a story may use are the table "words" below, beside those of
// testscript itself ("stdout", "stderr", "exec", "cmp", ...).
//
//	go test ./e2e -run TestStories/federate -v     plays one of them and shows what every command printed
func TestStories(t *testing.T) {
	bin := world.Binaries(t)
	commands := map[string]func(*testscript.TestScript, bool, []string){"exit": exitWas, "within": within}
	for name, w := range words {
		commands[name] = w.play
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Cmds:                commands,
		Setup: func(env *testscript.Env) error {
			s := &story{dir: env.WorkDir, bin: bin, regions: map[string]*world.Loopback{}, conns: map[string]*talk{}}
			env.Values[storyKey{}] = s
			env.Vars = append(env.Vars, "NO_COLOR=1", "TRADEWIND="+filepath.Join(bin, "tradewind"))
			env.Defer(func() {
				s.close()
				if t.Failed() {
					for _, l := range s.regions {
						t.Logf("%s: %s", filepath.Base(env.WorkDir), l.LastWords())
					}
				}
			})
			return nil
		},
	})
}

type storyKey struct{}

// A story is what a script has built up so far.
type story struct {
	ts      *testscript.TestScript
	dir     string
	bin     string
	regions map[string]*world.Loopback
	conns   map[string]*talk
	closers []func()
	servers map[string]func() // by variable: stops one
	names   *nameserver
	code    int       // the exit code of the last program that ended
	began   time.Time // when the last order was given; "reset" counts from here
}

// close ends everything that the story has started.
func (s *story) close() {
	for _, c := range s.conns {
		c.conn.Close()
	}
	for _, l := range s.regions {
		l.Kill()
	}
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// said is what a word printed.
type said struct{ out, err string }

// A word is a command of the stories. do fails when what the word says is not so; "!" before it turns that round.
type word struct {
	usage string
	args  [2]int // least and most; -1: any number
	do    func(s *story, args []string) (said, error)
}

var words = map[string]word{
	"region":    {"region NAME [SETTING=VALUE]...: start a gateway; sets $NAME_MESH, $NAME_LOCAL and $NAME_ADMIN", [2]int{1, -1}, (*story).region},
	"start":     {"start NAME: start the gateway of a region again", [2]int{1, 1}, (*story).start},
	"refuses":   {"refuses CONFIG: a gateway with this configuration ends at once, and says why", [2]int{1, 1}, (*story).refuses},
	"crash":     {"crash NAME: kill -9 the gateway", [2]int{1, 1}, (*story).crash},
	"signal":    {"signal NAME HUP|TERM: send the gateway a signal", [2]int{2, 2}, (*story).signal},
	"ended":     {"ended NAME LIMIT: the gateway's process ends within LIMIT", [2]int{2, 2}, (*story).ended},
	"cli":       {"cli NAME ARGUMENT...: run tradewind against the region's gateway", [2]int{2, -1}, (*story).cli},
	"apply":     {"apply NAME FILE: apply the file's resources, with the variables in it filled in", [2]int{2, 2}, (*story).apply},
	"there":     {"there FILE: it exists", [2]int{1, 1}, (*story).there},
	"fill":      {"fill FROM TO: copy a file with the variables in it filled in", [2]int{2, 2}, (*story).fill},
	"serve":     {"serve REGION SERVICE [http|told|echo]: start a server; sets $REGION_SERVICE to its address", [2]int{2, 3}, (*story).serve},
	"unserve":   {"unserve REGION SERVICE: stop the server", [2]int{2, 2}, (*story).unserve},
	"address":   {"address VARIABLE: set it to a free loopback address", [2]int{1, 1}, (*story).address},
	"get":       {"get URL: fetch it, on a new connection", [2]int{1, 1}, (*story).get},
	"request":   {"request METHOD URL [NAME:VALUE]...: send one request, follow no redirect, and print what came back", [2]int{2, -1}, (*story).request},
	"call":      {"call NAME METHOD JSON [TOKENFILE]: call the admin API over TCP", [2]int{3, 4}, (*story).call},
	"open":      {"open CONN ADDRESS [as KEYS to SERVERNAME]: connect to a server of kind echo and say hello", [2]int{2, 6}, (*story).open},
	"say":       {"say CONN TEXT: send a line and get it back", [2]int{2, 2}, (*story).say},
	"hangup":    {"hangup CONN: close the connection", [2]int{1, 1}, (*story).hangup},
	"reset":     {"reset CONN LIMIT: the connection is reset within LIMIT after the last order", [2]int{2, 2}, (*story).reset},
	"forge":     {"forge FROM TO expiry|secret: change a peering token as somebody would who knows its form", [2]int{3, 3}, (*story).forge},
	"zone":      {"zone NAME ADDRESS...|fails: a DNS server has these SRV records, or cannot answer; sets $DNS", [2]int{1, -1}, (*story).zone},
	"setformat": {"setformat NAME VERSION: pretend that the store was written by another version", [2]int{2, 2}, (*story).setFormat},
}

// orders are the words that change something; "reset" counts from the start of the last one.
var orders = []string{"cli", "apply", "crash", "signal", "start"}

// play runs a word as a command of testscript.
func (w word) play(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(storyKey{}).(*story)
	s.ts = ts
	if slices.Contains(orders, strings.Fields(w.usage)[0]) {
		s.began = time.Now()
	}
	out, err := w.run(s, args)
	fmt.Fprint(ts.Stdout(), out.out)
	fmt.Fprint(ts.Stderr(), out.err)
	switch {
	case neg && err == nil:
		ts.Fatalf("it should not have worked")
	case !neg && err != nil:
		ts.Fatalf("%v", err)
	case neg:
		ts.Logf("as it should, it failed: %v", err)
	}
}

func (w word) run(s *story, args []string) (said, error) {
	if len(args) < w.args[0] || w.args[1] >= 0 && len(args) > w.args[1] {
		s.ts.Fatalf("usage: %s", w.usage)
	}
	return w.do(s, args)
}

// within repeats a word until it does what it should:
//
//	within LIMIT [!] WORD ARGUMENT... [-- REGEXP | --without REGEXP]
//
// With a pattern, the word must also print, or not print, something that matches.
func within(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(storyKey{}).(*story)
	s.ts = ts
	limit, rest := duration(ts, args[0]), args[1:]
	fails := rest[0] == "!"
	if fails {
		rest = rest[1:]
	}
	w, known := words[rest[0]]
	if neg || !known {
		ts.Fatalf("usage: within LIMIT [!] WORD ARGUMENT... [-- REGEXP | --without REGEXP]")
	}
	rest = rest[1:]
	var pattern *regexp.Regexp
	want := true
	if i := slices.IndexFunc(rest, func(a string) bool { return a == "--" || a == "--without" }); i >= 0 {
		want = rest[i] == "--"
		pattern = regexp.MustCompile("(?m)" + strings.Join(rest[i+1:], " "))
		rest = rest[:i]
	}
	var out said
	begin := time.Now()
	err := world.Poll(context.Background(), limit, func() error {
		var err error
		out, err = w.run(s, rest)
		switch {
		case fails && err == nil:
			return errors.New("it still works")
		case !fails && err != nil:
			return err
		case pattern != nil && pattern.MatchString(out.out+out.err) != want:
			return fmt.Errorf("match of %q is %v", pattern, !want)
		}
		return nil
	})
	fmt.Fprint(ts.Stdout(), out.out)
	fmt.Fprint(ts.Stderr(), out.err)
	ts.Check(err)
	ts.Logf("it took %v", time.Since(begin).Round(time.Millisecond))
}

// exitWas checks the exit code of the last program that ended.
func exitWas(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(storyKey{}).(*story)
	if len(args) != 1 || neg {
		ts.Fatalf("usage: exit CODE")
	}
	if want, err := strconv.Atoi(args[0]); err != nil || s.code != want {
		ts.Fatalf("the exit code was %d, not %s", s.code, args[0])
	}
}

func duration(ts *testscript.TestScript, text string) time.Duration {
	d, err := time.ParseDuration(text)
	ts.Check(err)
	return d
}

// at returns the region that a script has named.
func (s *story) at(name string) *world.Loopback {
	l := s.regions[name]
	if l == nil {
		s.ts.Fatalf("there is no region %s: write \"region %s\" first", name, name)
	}
	return l
}

// variable is the name by which the script knows something about a region: AWS_MESH.
func variable(parts ...string) string {
	return strings.ReplaceAll(strings.ToUpper(strings.Join(parts, "_")), "-", "_")
}

func (s *story) region(args []string) (said, error) {
	name, extra := args[0], ""
	for _, setting := range args[1:] {
		key, value, _ := strings.Cut(setting, "=")
		extra += fmt.Sprintf("%s = %q\n", key, value)
	}
	l, err := world.NewLoopback(s.bin, filepath.Join(s.dir, name), name, extra)
	if err != nil {
		return said{}, err
	}
	s.regions[name] = l
	s.ts.Setenv(variable(name, "mesh"), l.Mesh)
	s.ts.Setenv(variable(name, "local"), l.Local)
	s.ts.Setenv(variable(name, "admin"), l.Admin)
	return s.start(args[:1])
}

func (s *story) start(args []string) (said, error) {
	l := s.at(args[0])
	err := l.Start(context.Background())
	s.code = l.Gateway.ExitCode()
	return said{err: l.Gateway.Output()}, err
}

func (s *story) refuses(args []string) (said, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cliLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "tradewind-gateway"), "-config", args[0])
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return said{err: string(out)}, errors.New("it runs")
	}
	s.code = cmd.ProcessState.ExitCode()
	if err == nil {
		err = errors.New("it ended as if all were well")
	} else if s.code > 0 {
		err = nil
	}
	return said{err: string(out)}, err
}

func (s *story) crash(args []string) (said, error) {
	s.at(args[0]).Kill()
	return said{}, nil
}

func (s *story) signal(args []string) (said, error) {
	number, known := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[1]]
	if !known {
		return said{}, fmt.Errorf("signal %q is unknown", args[1])
	}
	s.at(args[0]).Gateway.Signal(number)
	return said{}, nil
}

func (s *story) ended(args []string) (said, error) {
	l := s.at(args[0])
	limit := duration(s.ts, args[1])
	begin := time.Now()
	err := l.Gateway.Wait(limit)
	s.code = l.Gateway.ExitCode()
	if s.code < 0 { // still there, or killed
		return said{err: l.Gateway.Output()}, fmt.Errorf("%s did not end by itself: %w", args[0], err)
	}
	s.ts.Logf("it took %v", time.Since(begin).Round(time.Millisecond))
	return said{err: l.Gateway.Output()}, nil
}

// cliLimit bounds one command; those that wait for another region end long before.
const cliLimit = 10 * time.Second

func (s *story) cli(args []string) (said, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cliLimit)
	defer cancel()
	cmd := s.at(args[0]).Command(ctx, args[1:]...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, &out, &errs
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		s.ts.Fatalf("tradewind %s: %v %v", strings.Join(args[1:], " "), err, ctx.Err())
	}
	s.code = cmd.ProcessState.ExitCode()
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		err = fmt.Errorf("tradewind %s: %w", strings.Join(args[1:], " "), err)
	}
	return said{out.String(), errs.String()}, err
}

func (s *story) apply(args []string) (said, error) {
	filled := args[1] + ".filled"
	if out, err := s.fill([]string{args[1], filled}); err != nil {
		return out, err
	}
	return s.cli([]string{args[0], "apply", "--yes", "-f", filled})
}

func (s *story) fill(args []string) (said, error) {
	content := os.Expand(s.ts.ReadFile(args[0]), func(name string) string {
		value := s.ts.Getenv(name)
		if value == "" {
			s.ts.Fatalf("%s uses $%s, which is not set", args[0], name)
		}
		return value
	})
	return said{}, os.WriteFile(s.ts.MkAbs(args[1]), []byte(content), 0o600)
}

func (s *story) there(args []string) (said, error) {
	_, err := os.Stat(s.ts.MkAbs(args[0]))
	return said{}, err
}
