package registry

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/federation"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var web = federation.ServiceName{Namespace: "default", Name: "web"}

// in returns an instance: inst("web", "1", "192.0.2.1:80").
func inst(service, id, address string) federation.Instance {
	name, err := federation.ParseServiceName(service)
	if err != nil {
		panic(err)
	}
	return federation.Instance{ID: federation.InstanceID(id), Service: name, Address: netip.MustParseAddrPort(address),
		Health: federation.HealthPassing}
}

// script is a source that does what the test tells it.
type script struct {
	sets   chan []federation.Instance
	ends   chan error
	starts chan struct{}
	taken  chan struct{}
}

func newScript() *script {
	return &script{sets: make(chan []federation.Instance), ends: make(chan error), starts: make(chan struct{}, 100),
		taken: make(chan struct{})}
}

func (s *script) Run(ctx context.Context, publish func([]federation.Instance)) error {
	s.starts <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case set := <-s.sets:
			publish(set)
			s.taken <- struct{}{}
		case err := <-s.ends:
			if err != nil && err.Error() == "panic" {
				panic("at the disco")
			}
			return err
		}
	}
}

// publish gives a set and waits until it is merged.
func (s *script) publish(set ...federation.Instance) {
	s.sets <- set
	<-s.taken
	synctest.Wait()
}

// checker is a Checker whose answers come from the test.
type checker struct {
	mu      sync.Mutex
	targets map[federation.InstanceID]federation.CheckTarget
	watched int
	report  func(federation.HealthReport)
}

func newChecker() *checker {
	return &checker{targets: map[federation.InstanceID]federation.CheckTarget{}}
}

func (c *checker) Run(ctx context.Context, report func(federation.HealthReport)) error {
	c.mu.Lock()
	c.report = report
	c.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (c *checker) Watch(t federation.CheckTarget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched++
	if len(t.Checks) == 0 {
		delete(c.targets, t.Instance)
		return
	}
	c.targets[t.Instance] = t
}

func (c *checker) Status(federation.ServiceName, federation.InstanceID) []federation.CheckStatus {
	return []federation.CheckStatus{{Kind: federation.CheckTCP}}
}

// answer reports on the target as it is known now.
func (c *checker) answer(id federation.InstanceID, h federation.Health, reason string) {
	c.mu.Lock()
	t, report := c.targets[id], c.report
	c.mu.Unlock()
	report(federation.HealthReport{Service: t.Service, Instance: id, Version: t.Version, Health: h, Reason: reason, Since: time.Now()})
	synctest.Wait()
}

func (c *checker) target(id federation.InstanceID) federation.CheckTarget {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.targets[id]
}

// start runs r for the length of the test.
func start(t *testing.T, r *Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	synctest.Wait()
}

// show writes a service of the catalog as "1+ 2-": its instances, and whether they may be given traffic.
func show(r *Registry, service federation.ServiceName) string {
	svc := r.Catalog().Service(service)
	if svc == nil {
		return "none"
	}
	out := make([]string, 0, len(svc.Instances))
	for i, in := range svc.Instances {
		mark := "-"
		if s := svc.Lane.Load(i); s.Healthy == 1 && s.Total == 1 {
			mark = "+"
		} else if s.Total != 1 {
			mark = "?"
		}
		out = append(out, string(in.ID)+mark)
	}
	return strings.Join(out, " ")
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// taken reports whether a signal was pending, and takes it.
func taken(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func add(t *testing.T, r *Registry, name federation.SourceName) *script {
	t.Helper()
	s := newScript()
	if err := r.Add(name, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASetReplacesTheFormerOneWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Region: "here"})
		s := add(t, r, "a")
		start(t, r)
		taken(r.Changed())
		s.publish(inst("web", "2", "192.0.2.2:80"), inst("web", "1", "192.0.2.1:80"), inst("shop/cart", "1", "192.0.2.3:80"))
		same(t, "web", show(r, web), "1+ 2+")
		if !taken(r.Changed()) || taken(r.Changed()) {
			t.Error("a change is not signalled exactly once")
		}
		want := federation.Instance{ID: "1", Service: web, Address: netip.MustParseAddrPort("192.0.2.1:80"),
			Locality: federation.Locality{Region: "here"}, Weight: 100}
		same(t, "the catalog's instance", r.Catalog().Service(web).Instances[0], want)
		same(t, "protocol", r.Catalog().Service(web).Protocol, federation.ProtocolTCP)

		before := r.Catalog()
		s.publish(inst("web", "1", "192.0.2.1:80"), inst("shop/cart", "1", "192.0.2.3:80"), inst("web", "2", "192.0.2.2:80"))
		if r.Catalog() != before || taken(r.Changed()) {
			t.Error("an unchanged set made a new catalog")
		}
		cart := before.Service(federation.ServiceName{Namespace: "shop", Name: "cart"})
		s.publish(inst("web", "2", "192.0.2.22:80"), inst("shop/cart", "1", "192.0.2.3:80"))
		same(t, "web", show(r, web), "2+")
		same(t, "revision", r.Catalog().Revision(), before.Revision()+1)
		if r.Catalog().Service(cart.Name) != cart {
			t.Error("a service that did not change was built anew")
		}
		same(t, "former catalog", len(before.Service(web).Instances), 2)
		s.publish()
		same(t, "web", show(r, web), "none")
		same(t, "names", len(r.Catalog().Names()), 0)
	})
}

func TestFailureOfASourceChangesNothingButItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Rand: func() float64 { return 0.5 }}) // restarts without jitter
		s := add(t, r, "a")
		start(t, r)
		s.publish(inst("web", "1", "192.0.2.1:80"))
		before, began := r.Catalog(), time.Now()
		<-s.starts
		var restarts []time.Duration
		for range 9 {
			s.ends <- errors.New("throttled")
			<-s.starts
			restarts = append(restarts, time.Since(began))
			began = time.Now()
		}
		same(t, "restarts", restarts, []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9, 60e9})
		if r.Catalog() != before {
			t.Error("the catalog changed")
		}
		s.ends <- nil
		synctest.Wait()
		status := r.Sources()[0]
		if status.State != SourceWaiting || status.Code != federation.CodeSourceFailed || status.Restarts != 10 || status.Instances != 1 ||
			status.Age.D() != 243*time.Second || time.Until(status.NextStart) != time.Minute ||
			!strings.Contains(status.Err, "ended without an error") {
			t.Errorf("status is %+v", status)
		}
		<-s.starts
		s.publish(inst("web", "1", "192.0.2.1:80"))
		if status = r.Sources()[0]; status.Err != "" || status.Age != 0 || status.State != SourceRunning {
			t.Errorf("status after recovery is %+v", status)
		}
		began = time.Now()
		s.ends <- errors.New("panic") // progress was made, so the first delay again
		<-s.starts
		same(t, "restart after progress", time.Since(began), time.Second)
		same(t, "web", show(r, web), "1+")
	})
}

func TestSourcesComeAndGoWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		start(t, r)
		for _, bad := range []federation.SourceName{"", Resources, "new\nline", federation.SourceName(strings.Repeat("x", 200))} {
			if err := r.Add(bad, newScript()); federation.CodeOf(err) != federation.CodeSourceName {
				t.Errorf("name %q: %v", bad, err)
			}
		}
		a := add(t, r, "a")
		a.publish(inst("web", "1", "192.0.2.1:80"))
		if err := r.Add("a", newScript()); federation.CodeOf(err) != federation.CodeSourceName {
			t.Errorf("a taken name: %v", err)
		}
		if err := r.Remove("b"); err == nil {
			t.Error("an unknown source was removed")
		}
		b := add(t, r, "b")
		b.publish(inst("web", "2", "192.0.2.2:80"))
		same(t, "web", show(r, web), "1+ 2+")
		if err := r.Remove("a"); err != nil {
			t.Fatal(err)
		}
		again := add(t, r, "a") // before the former one has ended
		synctest.Wait()
		same(t, "web", show(r, web), "2+")
		again.publish(inst("web", "3", "192.0.2.3:80"))
		same(t, "web", show(r, web), "2+ 3+")
		same(t, "sources", len(r.Sources()), 2)
	})
}

func TestTwoSourcesContradict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		b, a := add(t, r, "b"), add(t, r, "a")
		start(t, r)
		b.publish(inst("web", "1", "192.0.2.2:80"))
		a.publish(inst("web", "1", "192.0.2.1:80"))
		addr := func() string { return r.Catalog().Service(web).Instances[0].Address.String() }
		same(t, "address", addr(), "192.0.2.1:80")
		for range 3 { // whoever speaks last makes no difference
			before := r.Catalog()
			b.publish(inst("web", "1", "192.0.2.2:80"))
			a.publish(inst("web", "1", "192.0.2.1:80"))
			if r.Catalog() != before {
				t.Error("the catalog flips")
			}
		}
		p := r.Problems()
		if len(p) != 1 || p[0].Code != federation.CodeInstanceConflict || !strings.Contains(p[0].What, `"a" and "b"`) {
			t.Errorf("problems are %v", p)
		}
		if s := r.Sources(); s[0].Conflicts != 0 || s[1].Conflicts != 1 {
			t.Errorf("sources are %+v", s)
		}
		if i, _ := r.Instance(web, "1"); i.Source != "a" || !i.Conflict || len(i.Also) != 1 {
			t.Errorf("instance is %+v", i)
		}
		a.publish()
		same(t, "address", addr(), "192.0.2.2:80")
		if p := r.Problems(); len(p) != 0 {
			t.Errorf("problems are %v", p)
		}
		a.publish(inst("web", "1", "192.0.2.2:80"))
		if p := r.Problems(); len(p) != 0 {
			t.Errorf("agreement is a problem: %v", p)
		}
	})
}

func TestABadRecordIsSkippedAndItsLastGoodOneStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		s := add(t, r, "a")
		start(t, r)
		good1, good2 := inst("web", "1", "192.0.2.1:80"), inst("web", "2", "192.0.2.2:80")
		s.publish(good1, good2)
		bad := good1
		bad.Address = netip.MustParseAddrPort("169.254.169.254:80")
		odd := inst("web", "x", "192.0.2.9:80")
		odd.Service.Name = "Not_A_Label"
		s.publish(bad, inst("web", "3", "192.0.2.3:80"), odd, inst("web", "3", "192.0.2.33:80"))
		same(t, "web", show(r, web), "1+ 3+")
		same(t, "address of 1", r.Catalog().Service(web).Instances[0].Address.String(), "192.0.2.1:80")
		same(t, "address of 3", r.Catalog().Service(web).Instances[1].Address.String(), "192.0.2.3:80")
		status := r.Sources()[0]
		if status.Skipped != 3 || len(status.Problems) != 3 || status.Problems[0].Code != federation.CodeInstanceRefused {
			t.Errorf("status is %+v", status)
		}
		// In another order of the same set the record in use stays.
		s.publish(inst("web", "3", "192.0.2.33:80"), inst("web", "3", "192.0.2.3:80"), bad)
		same(t, "address of 3", r.Catalog().Service(web).Instances[1].Address.String(), "192.0.2.3:80")
		s.publish(good1)
		same(t, "web", show(r, web), "1+")
		same(t, "skipped", r.Sources()[0].Skipped, 0)
	})
}

func TestRulesOfAnInstance(t *testing.T) {
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	for what, change := range map[string]func(*federation.Instance){
		"no id":          func(i *federation.Instance) { i.ID = "" },
		"long id":        func(i *federation.Instance) { i.ID = federation.InstanceID(strings.Repeat("x", 129)) },
		"unprintable id": func(i *federation.Instance) { i.ID = "a\x1bb" },
		"invalid UTF-8":  func(i *federation.Instance) { i.ID = "\xff" },
		"no service":     func(i *federation.Instance) { i.Service = federation.ServiceName{} },
		"slash":          func(i *federation.Instance) { i.Service = federation.ServiceName{Namespace: "a/b", Name: "c"} },
		"no address":     func(i *federation.Instance) { i.Address = netip.AddrPort{} },
		"port 0":         func(i *federation.Instance) { i.Address = netip.MustParseAddrPort("192.0.2.1:0") },
		"metadata":       func(i *federation.Instance) { i.Address = netip.MustParseAddrPort("[::ffff:169.254.169.254]:80") },
		"protocol":       func(i *federation.Instance) { i.Protocol = "udp" },
		"region":         func(i *federation.Instance) { i.Locality.Region = "Mars" },
		"zone":           func(i *federation.Instance) { i.Locality.Zone = strings.Repeat("z", 64) },
		"health":         func(i *federation.Instance) { i.Health = 9 },
		"labels":         func(i *federation.Instance) { i.Labels = many },
		"label key":      func(i *federation.Instance) { i.Labels = map[string]string{"": "x"} },
		"label value":    func(i *federation.Instance) { i.Labels = map[string]string{"x": strings.Repeat("v", 257)} },
		"checks":         func(i *federation.Instance) { i.Checks = make([]federation.CheckSpec, 9) },
		"check kind":     func(i *federation.Instance) { i.Checks = []federation.CheckSpec{{Kind: "ping"}} },
		"check host":     func(i *federation.Instance) { i.Checks = []federation.CheckSpec{{Kind: "http", Host: "a\r\nb"}} },
		"check path":     func(i *federation.Instance) { i.Checks = []federation.CheckSpec{{Kind: "http", Path: "/%zz"}} },
		"check timeout": func(i *federation.Instance) {
			i.Checks = []federation.CheckSpec{{Kind: "tcp", Timeout: 2 * federation.Duration(time.Hour)}}
		},
		"check threshold": func(i *federation.Instance) { i.Checks = []federation.CheckSpec{{Kind: "tcp", HealthyAfter: -1}} },
	} {
		i := inst("web", "1", "192.0.2.1:80")
		change(&i)
		if _, err := normalize(i, "here"); err == nil {
			t.Errorf("%s: passes", what)
		} else if d := instanceError(&i, "a", err); len(d.Error()) > 2000 || strings.ContainsAny(d.Error(), "\x1b\n") || strings.Contains(d.Error(), "\xff") {
			t.Errorf("%s: message %q is not fit to be shown", what, d)
		}
	}
	i := inst("web", "1", "[::ffff:192.0.2.1]:80")
	i.Service.Namespace = ""
	got, err := normalize(i, "here")
	if err != nil || got.Service != web || got.Address.String() != "192.0.2.1:80" || got.Weight != 100 || got.Locality.Region != "here" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{MaxPerSource: 4, MaxPerService: 2})
		s := add(t, r, "a")
		start(t, r)
		i := func(id string) federation.Instance { return inst("web", id, "192.0.2.1:80") }
		s.publish(i("5"), i("6"))
		s.publish(i("5"), i("6"), i("1"))
		same(t, "web", show(r, web), "5+ 6+") // who is in stays in
		if p := r.Problems(); len(p) != 1 || p[0].Code != federation.CodeServiceFull {
			t.Errorf("problems are %v", p)
		}
		if w, _ := r.Instance(web, "1"); !w.Waiting {
			t.Errorf("instance is %+v", w)
		}
		s.publish(i("1"), i("2"), i("3"), i("4"), i("5"))
		same(t, "web", show(r, web), "5+ 6+")
		if st := r.Sources()[0]; st.Code != federation.CodeSourceOverLimit || st.Instances != 3 {
			t.Errorf("status is %+v", st)
		}
		s.publish(i("6"), i("1"))
		same(t, "web", show(r, web), "1+ 6+")
		if p := r.Problems(); len(p) != 0 || r.Sources()[0].Err != "" {
			t.Errorf("problems are %v", p)
		}
	})
}

type failingChecker struct{ checker }

func (*failingChecker) Run(context.Context, func(federation.HealthReport)) error {
	return errors.New("no sockets")
}

func TestRunEndsWhenTheCheckerDoes(t *testing.T) {
	if err := New(Config{Checker: &failingChecker{}}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no sockets") {
		t.Errorf("Run ended with %v", err)
	}
}

// late is a source that publishes after it has ended.
type late struct {
	publish chan func([]federation.Instance)
}

func (l *late) Run(ctx context.Context, publish func([]federation.Instance)) error {
	l.publish <- publish
	return errors.New("gone")
}

func TestWhoHasEndedIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		l := &late{make(chan func([]federation.Instance), 10)}
		if err := r.Add("a", l); err != nil {
			t.Fatal(err)
		}
		start(t, r)
		(<-l.publish)([]federation.Instance{inst("web", "1", "192.0.2.1:80")})
		synctest.Wait()
		same(t, "web", show(r, web), "none")
	})
}

// keeper is a source that publishes what it has kept.
type keeper struct {
	*script
	asOf time.Time
}

func (k *keeper) AsOf() time.Time { return k.asOf }

func TestAgeOfWhatWasKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{script: newScript(), asOf: time.Now().Add(-time.Hour)}
		r := New(Config{Region: "aws"})
		if err := r.Add("kept", k); err != nil {
			t.Fatal(err)
		}
		start(t, r)
		k.publish(inst("web", "1", "192.0.2.1:80"))
		if s := r.Sources()[0]; s.Age.D() != time.Hour || !s.LastComplete.Equal(k.asOf) {
			t.Errorf("of an hour ago: %+v", s)
		}
		k.asOf = time.Time{}
		if s := r.Sources()[0]; s.Age != 0 {
			t.Errorf("read now: %+v", s)
		}
	})
}
