package exchange

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the stories in testdata")

// TestStories plays the scripts in testdata. A script is commands, each block followed by "----" and what came of it; two
// regions, east and west, speak over lanes that can be held back one by one. Commands are explained at the top of
// testdata/first-sync.txt.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s has another end (see it with -rewrite):\n%s", file, firstDifference(string(text), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			return fmt.Sprintf("line %d\n  told:     %s\n  happened: %s", i+1, w[i], strings.Join(g[min(i, len(g)):min(i+1, len(g))], ""))
		}
	}
	return fmt.Sprintf("line %d and after are new", len(w)+1)
}

// play runs a script and returns it with what happened in place of what was expected.
func play(t *testing.T, script string) string {
	s := newStory(t)
	var out strings.Builder
	inResult := false
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case inResult && line != "":
		case inResult:
			inResult = false
			out.WriteString("\n")
		case line == "----":
			inResult = true
			out.WriteString("----\n" + s.out.String())
			s.out.Reset()
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			out.WriteString(line + "\n")
			s.command(strings.Fields(line))
		}
	}
	return out.String()
}

// story is two regions and the lanes between them.
type story struct {
	t     *testing.T
	now   time.Time
	out   strings.Builder
	ends  map[string]*storyEnd
	held  map[string][]Send // "east membership": frames that east sent and that wait
	talk  bool              // show heartbeats and acknowledgements
	lose  string            // "east membership": the next frame there is lost
	spoil int               // so many barriers are damaged
}

type storyEnd struct {
	name     string
	peer     string
	m        *Machine
	epoch    federation.Epoch
	saved    []byte
	imp      *federation.Import
	services []federation.ExportedService
	outbox   []Send
	maxStale time.Duration
}

func newStory(t *testing.T) *story {
	s := &story{t: t, now: epoch0, ends: map[string]*storyEnd{}, held: map[string][]Send{}}
	for _, pair := range [][2]string{{"east", "west"}, {"west", "east"}} {
		e := &storyEnd{name: pair[0], peer: pair[1], epoch: federation.Epoch{Counter: 1, Incarnation: 0xaaaa},
			maxStale: 24 * time.Hour}
		s.ends[e.name] = e
		s.start(e)
	}
	return s
}

func (s *story) start(e *storyEnd) {
	cfg := testConfig(federation.Region(e.name), federation.Region(e.peer), 1)
	cfg.Epoch, cfg.MaxStale = e.epoch, e.maxStale
	m, err := New(cfg, e.saved)
	if err != nil {
		s.say("%s: %v", e.name, err)
	}
	e.m, e.imp, e.outbox = m, nil, nil
	s.act(e, m.Tick(s.now))
}

func (s *story) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Fprintf(&s.out, "%8.3f %s\n", s.now.Sub(epoch0).Seconds(), line)
}

// act notes what a machine does, and passes its frames on.
func (s *story) act(e *storyEnd, actions []Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			if text := describe(a); text != "" && (s.talk || !isTalk(text)) {
				s.say("%s -> %-4s %-10s %s", e.name, e.peer, a.Lane, text)
			}
			a = s.damage(a)
			key := e.name + " " + a.Lane.String()
			if s.lose == key {
				s.lose = ""
				continue
			}
			if s.held[key] != nil {
				s.held[key] = append(s.held[key], a)
			} else {
				e.outbox = append(e.outbox, a)
			}
		case Close:
			s.say("%s closes: %s: %s", e.name, CodeName(a.Code), a.Reason)
			other := s.ends[e.peer]
			e.outbox = nil
			s.act(other, other.m.Disconnected(s.now))
		case Publish:
			e.imp = a.Import
			s.say("%s publishes %s", e.name, describeImport(a.Import))
		case HealthChanged:
			s.say("%s sees health %s", e.name, describeServices(e.imp))
		case Alarm:
			s.say("%s alarm %s %s: %s", e.name, a.Diagnostic.Code, a.Diagnostic.What, a.Diagnostic.Why)
		case JumpEpoch:
			s.say("%s asks for an epoch above %d", e.name, a.AtLeast)
		case BundleReceived:
			s.say("%s receives the bundle %q", e.name, a.Bundle)
		case PeerGone:
			s.say("%s learns that the peering is gone", e.name)
		case Persist:
			e.saved = e.m.Saved()
		}
	}
}

// damage spoils a barrier that is to be spoilt: its digest is another.
func (s *story) damage(a Send) Send {
	k, b, err := unwrap(a.Lane, a.Frame)
	if err != nil || k != kindBarrier || s.spoil == 0 {
		return a
	}
	g, err := decodeBarrier(b)
	if err != nil {
		s.t.Fatal(err)
	}
	s.spoil--
	g.cursor.Digest.Lo++
	return Send{a.Lane, g.frame()}
}

func isTalk(text string) bool {
	return strings.HasPrefix(text, "head") || strings.HasPrefix(text, "applied")
}

// settle delivers frames until none is left that is not held.
func (s *story) settle() {
	for again := true; again; {
		again = false
		for _, name := range []string{"east", "west"} {
			e, other := s.ends[name], s.ends[s.ends[name].peer]
			frames := e.outbox
			e.outbox = nil
			for _, f := range frames {
				again = true
				s.act(other, other.m.Receive(s.now, f.Lane, f.Frame))
			}
		}
	}
}

// pass lets time go by, with all that becomes due.
func (s *story) pass(d time.Duration) {
	until := s.now.Add(d)
	for {
		s.settle()
		next := earlier(s.ends["east"].m.Deadline(), s.ends["west"].m.Deadline())
		if next.IsZero() || next.After(until) {
			break
		}
		if next.After(s.now) {
			s.now = next
		}
		for _, name := range []string{"east", "west"} {
			s.act(s.ends[name], s.ends[name].m.Tick(s.now))
		}
	}
	s.now = until
}

// command runs one line of a script.
func (s *story) command(words []string) {
	args := words[1:]
	var e *storyEnd
	if len(args) > 0 {
		e = s.ends[args[0]]
	}
	switch words[0] {
	case "export": // export east web=i-1,i-2! db: what east shows west; "!" is not healthy
		e.services = nil
		for _, w := range args[1:] {
			e.services = append(e.services, parseService(w))
		}
		slices.SortFunc(e.services, func(a, b federation.ExportedService) int { return a.Name.Compare(b.Name) })
		s.act(e, e.m.SetExport(s.now, federation.ExportView{Services: e.services}))
	case "health": // health east web=i-1!
		svc := parseService(args[1])
		s.act(e, e.m.SetHealth(s.now, svc.Name, svc.Slots))
	case "connect":
		for _, name := range []string{"east", "west"} {
			s.act(s.ends[name], s.ends[name].m.Connected(s.now))
		}
	case "disconnect":
		for _, name := range []string{"east", "west"} {
			s.ends[name].outbox = nil
			s.act(s.ends[name], s.ends[name].m.Disconnected(s.now))
		}
		clear(s.held)
	case "run": // run 5s
		s.pass(s.duration(args[0]))
	case "hold": // hold east membership: frames of that lane wait
		s.held[args[0]+" "+args[1]] = []Send{}
	case "release":
		key := args[0] + " " + args[1]
		e.outbox = append(e.outbox, s.held[key]...)
		delete(s.held, key)
	case "crash": // a crash of both the process and its sessions; "restart" begins a new life from what was stored
		s.act(s.ends[e.peer], s.ends[e.peer].m.Disconnected(s.now))
	case "restart": // restart east 2.bbbb [empty]
		e.epoch = parseEpoch(args[1])
		if len(args) > 2 {
			e.saved = nil
		}
		s.start(e)
	default:
		s.more(words[0], e, args)
		return
	}
	s.settle()
}

func (s *story) more(verb string, e *storyEnd, args []string) {
	switch verb {
	case "epoch": // epoch east 5.cccc: after a jump
		e.epoch = parseEpoch(args[1])
		s.act(e, e.m.SetEpoch(s.now, e.epoch))
	case "maxstale":
		e.maxStale = s.duration(args[1])
		s.act(e, e.m.SetMaxStale(s.now, e.maxStale))
	case "bundle":
		s.act(e, e.m.SetBundle(s.now, []byte(args[1])))
	case "trust":
		s.act(e, e.m.SetTrusted(s.now, args[1] == "yes"))
	case "drain":
		s.act(e, e.m.PlanDrain(s.now, s.duration(args[1])))
	case "goodbye":
		s.act(e, e.m.Goodbye(s.now))
	case "pause":
		s.act(e, e.m.Pause(s.now))
	case "lose": // lose east membership: no transport does this; what if one did
		s.lose = args[0] + " " + args[1]
	case "spoil": // spoil 2: the next two barriers have another digest
		n, err := strconv.Atoi(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.spoil = n
	case "talk":
		s.talk = args[0] == "on"
	case "forge": // forge east delta sub=1 from=3 to=4 ...: a frame that east's machine did not send
		lane, frame := forgeFrame(s, e, args[1:])
		other := s.ends[e.peer]
		s.act(other, other.m.Receive(s.now, lane, frame))
	case "import":
		s.say("%s has %s", e.name, describeImport(e.imp))
	case "status":
		s.say("%s", describeStatus(e))
	default:
		s.t.Fatalf("no such command: %s", verb)
	}
	s.settle()
}

func (s *story) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// parseService reads "web=i-1,i-2!": slots in a zone "a", not healthy with a "!"; "i-1*3/5" counts three healthy of five.
func parseService(text string) federation.ExportedService {
	name, list, _ := strings.Cut(text, "=")
	svc := exported(name)
	for _, key := range strings.Split(list, ",") {
		if key == "" {
			continue
		}
		healthy, total := uint32(1), uint32(1)
		if k, counts, ok := strings.Cut(key, "*"); ok {
			h, n, _ := strings.Cut(counts, "/")
			hi, _ := strconv.Atoi(h)
			ni, _ := strconv.Atoi(n)
			key, healthy, total = k, uint32(hi), uint32(ni)
		}
		if k, down := strings.CutSuffix(key, "!"); down {
			key, healthy = k, 0
		}
		svc.Slots = append(svc.Slots, slot(key, healthy, total))
	}
	slices.SortFunc(svc.Slots, func(a, b federation.ExportedSlot) int { return strings.Compare(a.Key, b.Key) })
	return svc
}

func parseEpoch(text string) federation.Epoch {
	c, i, _ := strings.Cut(text, ".")
	counter, _ := strconv.ParseUint(c, 10, 64)
	incarnation, _ := strconv.ParseUint(i, 16, 64)
	return federation.Epoch{Counter: counter, Incarnation: incarnation}
}
