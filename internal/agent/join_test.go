package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
)

// onePeering is a manager with at most one peering.
type onePeering struct {
	mu  sync.Mutex
	s   *peering.PeeringStatus
	set []string // what SetAddresses was told, in order
}

func (o *onePeering) Show(federation.Region) (peering.PeeringStatus, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.s == nil {
		return peering.PeeringStatus{}, errors.New("there is none")
	}
	return *o.s, nil
}

func (o *onePeering) SetAddresses(_ context.Context, _ federation.Region, addresses []string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.s.Gateways = addresses
	o.set = append(o.set, strings.Join(addresses, " "))
	return nil
}

func (o *onePeering) change(f func(o *onePeering)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}

// last returns what SetAddresses was told last.
func (o *onePeering) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.set) == 0 {
		return ""
	}
	return o.set[len(o.set)-1]
}

// scripted is a finder that the test directs.
type scripted struct {
	mu    sync.Mutex
	found []string
	err   error
	asked int
}

func (s *scripted) find(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.found, s.err
}

func (s *scripted) say(err error, found ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found, s.err = found, err
}

func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.asked = 0 }()
	return s.asked
}

// join runs a joiner of two scripted entries in a bubble.
func join(t *testing.T, f func(o *onePeering, j *joiner, a, b *scripted)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o, a, b := &onePeering{}, &scripted{}, &scripted{}
		ctx, cancel := context.WithCancel(t.Context())
		j := &joiner{peer: "b", finders: []finder{{"a", a.find}, {"b", b.find}}, last: make([][]string, 2), stop: cancel, peerings: o,
			previous: make(chan struct{}), ended: make(chan struct{}), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		close(j.previous)
		go j.run(ctx)
		defer func() { cancel(); <-j.ended }()
		f(o, j, a, b)
	})
}

// after lets time pass and everybody come to rest.
func after(d time.Duration) { <-time.After(d); synctest.Wait() }

func established() *peering.PeeringStatus {
	return &peering.PeeringStatus{Region: "b", TrustDomain: "b.mesh.internal", State: federation.PeeringActive, Gateways: []string{"192.0.2.1:8443"},
		Session: peering.SessionStatus{Up: true}}
}

func TestJoinerFollowsWhatIsFound(t *testing.T) {
	join(t, func(o *onePeering, j *joiner, a, b *scripted) {
		after(10 * time.Minute)
		if n := a.count(); n != 0 {
			t.Fatalf("without a peering the cloud was asked %d times", n)
		}
		a.say(nil, "192.0.2.2:8443", "192.0.2.3:8443")
		b.say(nil, "192.0.2.3:8443", "192.0.2.4:8443")
		o.change(func(o *onePeering) { o.s = established() })
		after(joinTick)
		if got := o.last(); got != "192.0.2.2:8443 192.0.2.3:8443 192.0.2.4:8443" {
			t.Fatalf("set %q", got)
		}
		a.say(nil, "192.0.2.9:8443")
		after(2 * joinEvery)
		if got := o.last(); got != "192.0.2.9:8443 192.0.2.3:8443 192.0.2.4:8443" {
			t.Errorf("after a change set %q", got)
		}
		a.count()
		after(time.Hour)
		if n := a.count(); n < 49 || n > 61 {
			t.Errorf("it was asked %d times an hour, want one in 60-72 s", n)
		}
		if d := j.problem.Load(); d != nil {
			t.Errorf("problem %v", d)
		}
	})
}

func TestJoinerTakesAbsenceForNoDeletion(t *testing.T) {
	join(t, func(o *onePeering, j *joiner, a, b *scripted) {
		o.change(func(o *onePeering) { o.s = established() })
		after(10 * time.Minute) // both find nobody
		if got := o.last(); got != "" || j.problem.Load() == nil {
			t.Errorf("nobody was found, and %q set; problem %v", got, j.problem.Load())
		}
		if n := a.count(); n < 4 || n > 9 {
			t.Errorf("it was asked %d times in 10 minutes, want ever fewer", n)
		}
		a.say(nil, "192.0.2.2:8443")
		b.say(errors.New("403: ec2:DescribeInstances"))
		after(2 * joinMost)
		if got := o.last(); got != "192.0.2.2:8443 192.0.2.1:8443" {
			t.Errorf("with one entry that fails set %q, want what was known to stay behind what is found", got)
		}
		if d := j.problem.Load(); d == nil || d.Code != federation.CodeJoinLookup || !strings.Contains(d.Why, "ec2:DescribeInstances") {
			t.Errorf("problem %v", d)
		}
		b.say(nil, "192.0.2.3:8443")
		after(2 * joinMost)
		if got := o.last(); got != "192.0.2.2:8443 192.0.2.3:8443" || j.problem.Load() != nil {
			t.Errorf("when all answer again set %q; problem %v", got, j.problem.Load())
		}
		var many []string
		for n := range 12 {
			many = append(many, fmt.Sprintf("192.0.2.%d:8443", 20+n))
		}
		a.say(nil, many...)
		after(2 * joinEvery)
		if got := o.last(); got != strings.Join(many[:peering.MaxAddresses], " ") || j.problem.Load() == nil {
			t.Errorf("of many set %q; problem %v", got, j.problem.Load())
		}
		a.say(nil, "169.254.169.254:80")
		after(2 * joinMost)
		if got := o.last(); strings.Contains(got, "169.254") {
			t.Errorf("set %q", got)
		}
	})
}

func TestJoinerLooksAtOnceWhenTheSessionEnds(t *testing.T) {
	join(t, func(o *onePeering, _ *joiner, a, b *scripted) {
		a.say(nil, "192.0.2.2:8443")
		b.say(nil, "192.0.2.3:8443")
		o.change(func(o *onePeering) { o.s = established() })
		after(30 * time.Second)
		a.count()
		o.change(func(o *onePeering) { o.s.Session.Up = false })
		after(joinTick)
		if n := a.count(); n != 1 {
			t.Errorf("it was asked %d times when the session ended", n)
		}
		after(time.Hour)
		if n := a.count(); n < 49 || n > 70 {
			t.Errorf("it was asked %d times in an hour without a session", n)
		}
	})
}

// TestJoinWordsReachEachCloud asks the doubles of all three in go-discover's words.
func TestJoinWordsReachEachCloud(t *testing.T) {
	tags := map[string]string{"role": "mesh gateway"}
	amazon := httptest.NewServer(awstest.New(awstest.Inventory{Instances: []awstest.Instance{{ID: "i-1", IP: "192.0.2.1", Public: "198.51.100.1", Tags: tags},
		{ID: "i-2", IP: "192.0.2.2", Tags: tags, State: "stopped"}, {ID: "i-3", IP: "192.0.2.3", IPv6: []string{"2001:db8::3"}, Tags: tags}}}))
	defer amazon.Close()
	labels := map[string]string{"role": "gateway"}
	google := httptest.NewServer(gcptest.New(gcptest.Inventory{Instances: []gcptest.Instance{
		{Name: "gw-1", Zone: "europe-west1-b", IP: "192.0.2.4", Labels: labels}, {Name: "gw-2", Zone: "us-east1-b", IP: "192.0.2.5", Labels: labels}}}))
	defer google.Close()
	azure := httptest.NewServer(azuretest.New(azuretest.Inventory{Machines: []azuretest.Machine{{Name: "gw-1", IP: "192.0.2.6", Tags: labels},
		{Name: "other", IP: "192.0.2.7"}}}))
	defer azure.Close()
	key := credentials(t, google.URL, azure.URL)
	for text, want := range map[string]string{
		`provider=aws region=eu-west-1 tag_key=role tag_value="mesh gateway" endpoint=` + amazon.URL:     "192.0.2.1:8443 192.0.2.3:8443",
		`provider=aws region=eu-west-1 tag_key=role addr_type=public_v4 port=443 endpoint=` + amazon.URL: "198.51.100.1:443",
		`provider=aws region=eu-west-1 tag_key=role addr_type=public_v6 endpoint=` + amazon.URL:          "[2001:db8::3]:8443",
		`provider=gce project_name=` + gcptest.Project + ` label_key=role label_value=gateway zone_pattern=europe-west1-* credentials_file=` + key +
			` endpoint=` + google.URL: "192.0.2.4:8443",
		`provider=azure subscription_id=` + azuretest.Subscription + ` tag_name=role tag_value=gateway endpoint=` + azure.URL: "192.0.2.6:8443",
		"gw.example.com": "gw.example.com:8443",
	} {
		j, err := config.ParseJoin(text)
		if err != nil {
			t.Fatal(err)
		}
		f, err := newFinder(j)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.find(t.Context()); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s finds %v, %v; want %s", text, got, err, want)
		}
	}
}

// TestAPeerThatMovesIsFoundByItsTag: the gateway of a comes back at another address. Nobody establishes the peering again or restarts b.
func TestAPeerThatMovesIsFoundByItsTag(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	instance := func(ip string) awstest.Inventory {
		return awstest.Inventory{Instances: []awstest.Instance{{ID: "i-1", IP: ip, Tags: map[string]string{"role": "gateway"}}}}
	}
	inAmazon := awstest.New(instance("127.0.0.1"))
	amazon := httptest.NewServer(inAmazon)
	defer amazon.Close()
	credentials(t, amazon.URL, amazon.URL)
	dir := t.TempDir()
	at := func(ip string) string { return "mesh {\n listen = \"" + net.JoinHostPort(ip, port) + "\"\n}\n" }
	z := start(t, "z", dir, at("127.0.0.1")) // sorts last, and does not know where a is once it was restarted
	a := start(t, "a", t.TempDir(), fmt.Sprintf("peer \"z\" {\n retry_join = [\"provider=aws region=%s tag_key=role tag_value=gateway port=%s endpoint=%s\"]\n}\n",
		awstest.Region, port, amazon.URL))
	federate(t, z, a)
	if err := z.stop(); err != nil {
		t.Fatal(err)
	}
	inAmazon.Set(instance("127.0.0.2"))
	z = start(t, "z", dir, at("127.0.0.2"))
	a.until("the peering works at the new address", func() error {
		s, err := a.PeerShow(t.Context(), &admin.PeerRequest{Peer: "z"})
		if err != nil || !slices.Equal(s.Gateways, []string{net.JoinHostPort("127.0.0.2", port)}) || s.State != federation.PeeringActive || !s.Path.Up {
			return fmt.Errorf("%+v, %w", s, err)
		}
		return nil
	})
	_ = z
}
