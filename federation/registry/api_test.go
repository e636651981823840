package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// disk is a Store in memory that outlives the APIs that use it, and can be broken.
type disk struct {
	mu     sync.Mutex
	kept   map[string][]byte
	broken error
	writes int
}

func newDisk() *disk { return &disk{kept: map[string][]byte{}} }

func (d *disk) Save(_ context.Context, key string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	if d.broken == nil {
		d.kept[key] = bytes.Clone(value)
	}
	return d.broken
}

func (d *disk) Delete(_ context.Context, key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	if d.broken == nil {
		delete(d.kept, key)
	}
	return d.broken
}

func (d *disk) Load(context.Context) (map[string][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.kept), d.broken
}

func (d *disk) breakDown(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}

// beats writes heartbeats down.
type beats struct {
	mu   sync.Mutex
	last []string
}

func (b *beats) Beat(_ federation.ServiceName, id federation.InstanceID, h federation.Health, output string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = append(b.last, fmt.Sprintf("%s %v %s", id, h, output))
	return id == "foreign"
}

// startAPI runs a registry with an API source on d and returns both and what kills them.
func startAPI(t *testing.T, d *disk, cfg APIConfig) (*Registry, *API, func()) {
	t.Helper()
	r := New(Config{})
	cfg.Registry, cfg.Store = r, d
	api := NewAPI(cfg)
	if err := r.Add("api", api); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	kill := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(kill)
	synctest.Wait()
	return r, api, kill
}

// pass lets d pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// register is API.Register without its answer.
func register(ctx context.Context, api *API, in federation.Instance, token string) error {
	_, _, err := api.Register(ctx, in, Terms{Token: token})
	return err
}

func wantCode(t *testing.T, what string, err error, want federation.Code) {
	t.Helper()
	if federation.CodeOf(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

func TestRegistrationsSurviveKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := newDisk(), t.Context()
		r, api, kill := startAPI(t, d, APIConfig{})
		odd := inst("shop/cart", "a/b c?", "192.0.2.2:80")
		odd.Labels = map[string]string{"v": "1"}
		must(t, register(ctx, api, inst("web", "1", "192.0.2.1:80"), ""))
		must(t, register(ctx, api, inst("web", "2", "192.0.2.2:80"), ""))
		must(t, register(ctx, api, odd, "secret"))
		odd.Labels["v"] = "2" // the caller's own affair
		must(t, api.Drain(ctx, Ref{Service: web, ID: "1"}, true))
		must(t, api.Heartbeat(ctx, Ref{Service: web, ID: "2"}, federation.HealthFailing, ""))
		must(t, register(ctx, api, inst("web", "3", "192.0.2.3:80"), ""))
		must(t, api.Deregister(ctx, Ref{Service: web, ID: "3"}))
		pass(10 * time.Millisecond)
		same(t, "web", show(r, web), "1- 2-")
		kill()

		r, api, _ = startAPI(t, d, APIConfig{})
		pass(10 * time.Millisecond)
		same(t, "web", show(r, web), "1- 2-")
		cart := r.Catalog().Service(odd.Service)
		if cart == nil || cart.Instances[0].ID != odd.ID || cart.Instances[0].Labels["v"] != "1" {
			t.Fatalf("cart is %+v", cart)
		}
		wantCode(t, "the owner is known after a restart", api.Deregister(ctx, Ref{Service: odd.Service, ID: odd.ID}),
			federation.CodeRegistrationOwner)
		must(t, api.Drain(ctx, Ref{Service: web, ID: "1"}, false))
		must(t, api.Heartbeat(ctx, Ref{Service: web, ID: "2"}, federation.HealthPassing, ""))
		pass(10 * time.Millisecond)
		same(t, "web", show(r, web), "1+ 2+")
		for key, value := range d.kept {
			if strings.Contains(string(value), "secret") {
				t.Errorf("the token is stored under %s", key)
			}
		}
	})
}

func TestOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		_, api, _ := startAPI(t, newDisk(), APIConfig{})
		mine := inst("web", "1", "192.0.2.1:80")
		must(t, register(ctx, api, mine, "mine"))
		theirs := inst("web", "1", "192.0.2.66:80")
		ref := Ref{Service: web, ID: "1"}
		for _, token := range []string{"", "theirs"} {
			ref.Token = token
			wantCode(t, "register", register(ctx, api, theirs, token), federation.CodeRegistrationOwner)
			wantCode(t, "deregister", api.Deregister(ctx, ref), federation.CodeRegistrationOwner)
			wantCode(t, "heartbeat", api.Heartbeat(ctx, ref, federation.HealthPassing, ""), federation.CodeRegistrationOwner)
			wantCode(t, "heartbeat of another health", api.Heartbeat(ctx, ref, federation.HealthFailing, ""), federation.CodeRegistrationOwner)
			wantCode(t, "drain", api.Drain(ctx, ref, true), federation.CodeRegistrationOwner)
		}
		ref.Token = "mine"
		must(t, api.Heartbeat(ctx, ref, federation.HealthPassing, ""))
		moved := inst("web", "1", "192.0.2.2:80")
		must(t, register(ctx, api, moved, "mine"))
		must(t, api.Deregister(ctx, Ref{Service: web, ID: "1", Force: true}))
		must(t, register(ctx, api, theirs, "theirs"))
		wantCode(t, "long token", register(ctx, api, theirs, strings.Repeat("x", 300)), federation.CodeInstanceRefused)
	})
}

func TestWhatIsNotStoredIsNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := newDisk(), t.Context()
		r, api, _ := startAPI(t, d, APIConfig{})
		one := inst("web", "1", "192.0.2.1:80")
		must(t, register(ctx, api, one, ""))
		pass(10 * time.Millisecond)
		d.breakDown(errors.New("no space left"))
		ref := Ref{Service: web, ID: "1"}
		wantCode(t, "register", register(ctx, api, inst("web", "2", "192.0.2.2:80"), ""), federation.CodeRegistrationStore)
		wantCode(t, "deregister", api.Deregister(ctx, ref), federation.CodeRegistrationStore)
		wantCode(t, "drain", api.Drain(ctx, ref, true), federation.CodeRegistrationStore)
		wantCode(t, "heartbeat that changes", api.Heartbeat(ctx, ref, federation.HealthFailing, ""), federation.CodeRegistrationStore)
		must(t, api.Heartbeat(ctx, ref, federation.HealthPassing, "")) // writes nothing
		must(t, register(ctx, api, one, ""))                           // neither does this
		pass(10 * time.Millisecond)
		same(t, "web", show(r, web), "1+")
		d.breakDown(nil)
		must(t, api.Drain(ctx, ref, true))
	})
}

func TestCallsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		_, api, _ := startAPI(t, newDisk(), APIConfig{MaxRegistrations: 1, Beater: &beats{}})
		ref := Ref{Service: web, ID: "1"}
		wantCode(t, "heartbeat", api.Heartbeat(ctx, ref, federation.HealthPassing, ""), federation.CodeRegistrationUnknown)
		wantCode(t, "deregister", api.Deregister(ctx, ref), federation.CodeRegistrationUnknown)
		wantCode(t, "drain", api.Drain(ctx, ref, true), federation.CodeInstanceUnknown)
		wantCode(t, "health", api.Heartbeat(ctx, ref, federation.HealthUnknown, ""), federation.CodeRegistrationHealth)
		wantCode(t, "metadata", register(ctx, api, inst("web", "1", "169.254.169.254:80"), ""), federation.CodeInstanceRefused)
		must(t, register(ctx, api, inst("web", "1", "192.0.2.1:80"), ""))
		wantCode(t, "one too many", register(ctx, api, inst("web", "2", "192.0.2.2:80"), ""), federation.CodeRegistrationsFull)
		must(t, api.Heartbeat(ctx, Ref{Service: web, ID: "foreign"}, federation.HealthPassing, "")) // a TTL check of another source's
	})
}

func TestTerms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := newDisk(), t.Context()
		_, api, _ := startAPI(t, d, APIConfig{})
		one, beating := inst("web", "1", "192.0.2.1:80"), inst("web", "2", "192.0.2.2:80")
		one.Health = federation.HealthUnknown
		beating.Checks = []federation.CheckSpec{{Kind: federation.CheckTTL}}
		for _, want := range []bool{false, true} {
			got, replaced, err := api.Register(ctx, one, Terms{})
			must(t, err)
			if got.Health != federation.HealthPassing || replaced != want {
				t.Errorf("registered as %v, replaced %v, want %v", got.Health, replaced, want)
			}
		}
		for what, terms := range map[string]Terms{"without a ttl check": {DeregisterAfter: time.Hour}, "too soon": {DeregisterAfter: time.Second}} {
			in := map[string]federation.Instance{"without a ttl check": one, "too soon": beating}[what]
			_, _, err := api.Register(ctx, in, terms)
			wantCode(t, what, err, federation.CodeInstanceRefused)
		}
		_, _, err := api.Register(ctx, beating, Terms{DeregisterAfter: time.Minute})
		must(t, err)
		writes := d.writes
		_, _, err = api.Register(ctx, beating, Terms{DeregisterAfter: time.Hour})
		must(t, err)
		same(t, "writes for other terms", d.writes-writes, 1)
		bad := inst("web", "3", "169.254.169.254:0")
		err = register(ctx, api, bad, "")
		if got, want := err.Error(), "address 169.254.169.254 is refused: it is link-local, where clouds serve credentials to the host; port is 0 "+
			"(fix: mend it and repeat the call; nothing has changed)"; !strings.HasSuffix(got, want) {
			t.Errorf("a bad address: %s", got)
		}
	})
}

func TestHeartbeatsReachTheChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, ctx := &beats{}, newDisk(), t.Context()
		r, api, _ := startAPI(t, d, APIConfig{Beater: b})
		ref := Ref{Service: web, ID: "1"}
		must(t, register(ctx, api, inst("web", "1", "192.0.2.1:80"), ""))
		must(t, api.Heartbeat(ctx, ref, federation.HealthPassing, "fine"))
		must(t, api.Heartbeat(ctx, ref, federation.HealthPassing, "fine"))
		same(t, "writes", d.writes, 1)
		must(t, api.Heartbeat(ctx, ref, federation.HealthDraining, "leaving"))
		pass(10 * time.Millisecond)
		same(t, "web", show(r, web), "1-")
		same(t, "beats", b.last, []string{"1 passing registered", "1 passing fine", "1 passing fine", "1 draining leaving"})
	})
}

func TestMissingHeartbeatsAreRememberedAndRemovedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := newDisk(), t.Context()
		r, api, kill := startAPI(t, d, APIConfig{})
		one := inst("web", "1", "192.0.2.1:80")
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTTL, TTL: federation.Duration(10 * time.Second)}}
		ref := Ref{Service: web, ID: "1"}
		_, _, err := api.Register(ctx, one, Terms{DeregisterAfter: time.Minute})
		must(t, err)
		pass(9 * time.Second)
		must(t, api.Heartbeat(ctx, ref, federation.HealthPassing, ""))
		pass(9 * time.Second)
		same(t, "web", show(r, web), "1+")
		pass(2 * time.Second)
		same(t, "no beat for a TTL", show(r, web), "1-")
		kill()

		r, api, kill = startAPI(t, d, APIConfig{})
		pass(20 * time.Second)
		same(t, "still down after a restart", show(r, web), "1-")
		must(t, api.Heartbeat(ctx, ref, federation.HealthPassing, ""))
		pass(10 * time.Millisecond)
		same(t, "back", show(r, web), "1+")
		pass(12 * time.Second)
		same(t, "down again", show(r, web), "1-")
		pass(30 * time.Second)
		kill()

		r, _, _ = startAPI(t, d, APIConfig{})
		pass(20 * time.Second)
		same(t, "just before the minute", show(r, web), "1-")
		pass(12 * time.Second)
		same(t, "after it", show(r, web), "none")
		same(t, "stored", len(d.kept), 0)
	})
	synctest.Test(t, func(t *testing.T) {
		r, api, _ := startAPI(t, newDisk(), APIConfig{})
		one := inst("web", "1", "192.0.2.1:80")
		one.Checks = []federation.CheckSpec{{Kind: federation.CheckTTL}}
		must(t, register(t.Context(), api, one, ""))
		pass(24 * time.Hour)
		same(t, "by default never removed", show(r, web), "1-")
	})
}

func TestDamagedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := newDisk(), t.Context()
		d.kept["instance/default/web/1"] = []byte(`{"instance":`)
		d.kept["instance/default/web/2"] = []byte(`{"instance":{"id":"3","service":"web","address":"192.0.2.1:80","health":"passing"}}`)
		d.kept["instance/default/web/4"] = []byte(`{"instance":{"id":"4","service":"web","address":"192.0.2.1:80","health":"passing"}}`)
		d.kept["other"] = nil
		r, api, _ := startAPI(t, d, APIConfig{})
		pass(10 * time.Millisecond)
		same(t, "web", show(r, web), "4+")
		if s := r.Sources()[0]; s.Code != federation.CodeRegistrationDamaged || !strings.Contains(s.Err, "3 stored registrations") {
			t.Errorf("status is %+v", s)
		}
		same(t, "kept", len(d.kept), 4)
		must(t, register(ctx, api, inst("web", "1", "192.0.2.1:80"), ""))
		if s := r.Sources()[0]; !strings.Contains(s.Err, "2 stored registrations") {
			t.Errorf("status is %+v", s)
		}
	})
}

func TestCallsWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := newDisk(), t.Context()
		d.broken = errors.New("locked")
		r, api, _ := startAPI(t, d, APIConfig{})
		began := time.Now()
		wantCode(t, "register", register(ctx, api, inst("web", "1", "192.0.2.1:80"), ""), federation.CodeRegistrationLoading)
		same(t, "waited", time.Since(began), 5*time.Second)
		if s := r.Sources()[0]; s.Code != federation.CodeRegistrationStore {
			t.Errorf("status is %+v", s)
		}
		d.breakDown(nil)
		result := make(chan error, 1)
		for range 5 { // the source is restarted within its back-off
			go func() { result <- register(ctx, api, inst("web", "1", "192.0.2.1:80"), "") }()
			if err := <-result; err == nil {
				return
			}
		}
		t.Error("never loaded")
	})
}

func TestConcurrentCallsLeaveStoreAndSourceEqual(t *testing.T) {
	d := newDisk()
	r := New(Config{})
	api := NewAPI(APIConfig{Registry: r, Store: d})
	must(t, r.Add("api", api))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for n := range 200 {
				id := fmt.Sprint(n % 7)
				ref := Ref{Service: web, ID: federation.InstanceID(id)}
				switch (n + w) % 3 {
				case 0:
					_ = api.Deregister(ctx, ref)
				case 1:
					_ = api.Heartbeat(ctx, ref, federation.HealthFailing, "")
				default:
					_ = register(ctx, api, inst("web", id, fmt.Sprintf("192.0.2.%d:80", w+1)), "")
				}
			}
		})
	}
	group.Wait()
	stored := map[federation.InstanceID]federation.Instance{}
	for name, value := range d.kept {
		_, k, err := parseStoreKey(name)
		must(t, err)
		rec, err := parseRecord(k, value)
		must(t, err)
		stored[rec.Instance.ID] = rec.Instance
	}
	for _, in := range api.instances() {
		kept := stored[in.ID]
		if !sameInstance(&kept, &in) {
			t.Errorf("stored is %+v, used is %+v", kept, in)
		}
		delete(stored, in.ID)
	}
	if len(stored) > 0 {
		t.Errorf("stored but not used: %v", stored)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzStoredRecord(f *testing.F) {
	f.Add("instance/default/web/a%2Fb", []byte(`{"instance":{"id":"a/b","service":"web","address":"192.0.2.1:80","health":"passing"}}`))
	f.Add("drain/default/web/1", []byte(`{}`))
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		kind, k, err := parseStoreKey(name)
		if err != nil {
			return
		}
		again, l, err := parseStoreKey(storeKey(kind, k))
		if err != nil || again != kind || l != k {
			t.Fatalf("key %q: %v %v %v", name, again, l, err)
		}
		if rec, err := parseRecord(k, value); err == nil && instanceKey(&rec.Instance) != k {
			t.Fatalf("record %q is under %v", value, k)
		}
	})
}
