package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/kubernetes"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// TestKubernetesProvider lists and watches a real API server.
func TestKubernetesProvider(t *testing.T) {
	c := startKubernetes(t)
	t.Run("life", func(t *testing.T) { kubernetesLife(t, c) })
	t.Run("latency", func(t *testing.T) { kubernetesLatency(t, c) })
	t.Run("large", func(t *testing.T) { kubernetesLarge(t, c) })
	t.Run("denied", func(t *testing.T) { kubernetesDenied(t, c) })
	t.Run("expired", func(t *testing.T) { kubernetesExpired(t, c) })
	t.Run("compacted", func(t *testing.T) { kubernetesCompacted(t, c) })
	t.Run("restart", func(t *testing.T) { kubernetesRestart(t, c) })
}

// records returns a condition for a complete listing of n records, of which the first is as it should be.
func records(n int, first func(r poll.Record) bool) func(poll.Listing) bool {
	return func(l poll.Listing) bool {
		return l.Partial == nil && len(l.Records) == n && (first == nil || first(l.Records[0]))
	}
}

// kubernetesLife takes an endpoint from its start to its end.
func kubernetesLife(t *testing.T, c *cluster) {
	w := c.watch(t, "life", kubernetes.Config{})
	w.until(t, "nothing", records(0, nil))
	c.service(t, "life", "web", obj{"mesh/export": "true", "note": "not ours"})
	put := func(s obj) {
		t.Helper()
		if err := c.put(s); err != nil {
			t.Fatal(err)
		}
	}
	put(slice("life", "web", "web-a", 1, ready))
	w.until(t, "the endpoint", records(1, func(r poll.Record) bool {
		return r.ID == "k8s://k/life/web/10.1.0.2" && r.Service == "web" && r.Namespace == "life" && r.Zone == "eu-west-1a" && r.Account == "k" &&
			r.State == poll.StateRunning && r.Health == federation.HealthPassing && r.Addresses[0] == netip.MustParseAddr("10.1.0.2") &&
			slices.Equal(r.Ports, []poll.Port{{Number: 8080, Protocol: "http"}}) && r.Labels["mesh/export"] == "true" && r.Labels["note"] == "" &&
			r.Labels["kubernetes.io/hostname"] == "n1" && r.Labels["endpointslice.kubernetes.io/for-zones"] == "eu-west-1a"
	}))
	put(slice("life", "web", "web-a", 1, obj{"ready": false, "serving": false}))
	w.until(t, "that it is not ready", records(1, func(r poll.Record) bool {
		return r.State == poll.StateRunning && r.Health == federation.HealthFailing
	}))
	put(slice("life", "web", "web-a", 1, obj{"ready": false, "serving": true, "terminating": true}))
	w.until(t, "that it drains", records(1, func(r poll.Record) bool {
		return r.State == poll.StateDraining && r.Health == federation.HealthDraining
	}))
	put(slice("life", "web", "web-b", 1, ready))
	w.until(t, "one endpoint in two slices, as the newer one says", records(1, func(r poll.Record) bool {
		return r.State == poll.StateRunning
	}))
	c.remove(t, "life", "web-a")
	c.do(t, "DELETE", "/api/v1/namespaces/life/services/web", nil, nil)
	w.until(t, "nothing of a Service that is gone", records(0, nil))
	if l, err := c.lister(t, kubernetes.Config{}).List(t.Context(), inNamespace("default"), nil); err != nil || len(l.Records) > 0 {
		t.Errorf("the API server itself is listed: %+v, %v", l.Records, err)
	}
}

// kubernetesLatency measures from the call that changes a slice until the listing is told, and until the source publishes it.
func kubernetesLatency(t *testing.T, c *cluster) {
	const limit = 500 * time.Millisecond
	c.service(t, "latency", "web", nil)
	for i := range 20 {
		if err := c.put(slice("latency", "web", fmt.Sprint("web-", i), i, ready)); err != nil {
			t.Fatal(err)
		}
	}
	w := c.watch(t, "latency", kubernetes.Config{})
	w.until(t, "the endpoints", records(20, nil))
	flip := func(n int, up bool) {
		t.Helper()
		if err := c.put(slice("latency", "web", fmt.Sprint("web-", n), n, obj{"ready": up, "serving": up})); err != nil {
			t.Fatal(err)
		}
	}
	var took []time.Duration
	for round := range 40 {
		<-time.After(150 * time.Millisecond) // a change is measured, not the pace at which many of them are told
		n, up := round%20, round/20%2 == 1
		health := federation.HealthFailing
		if up {
			health = federation.HealthPassing
		}
		address := netip.AddrFrom4([4]byte{10, 1, 0, byte(1 + n)})
		began := time.Now()
		flip(n, up)
		w.until(t, "the change", func(l poll.Listing) bool {
			return slices.ContainsFunc(l.Records, func(r poll.Record) bool { return r.Addresses[0] == address && r.Health == health })
		})
		took = append(took, time.Since(began))
	}
	t.Logf("change of an EndpointSlice to told listing: %s", spread(took))
	if p50 := percentile(took, 50); p50 > limit/2 {
		t.Errorf("p50 is %v, at most %v is allowed", p50, limit/2)
	}
	source := poll.New(poll.Config{Name: "kubernetes", Lister: c.lister(t, kubernetes.Config{Namespaces: []string{"latency"}}),
		Rules: []federation.Discover{{Service: "*", Namespace: "latency"}}})
	ctx, cancel := context.WithCancel(context.Background())
	sets, ended := make(chan int, 100), make(chan error, 1) // how many are passing
	go func() {
		ended <- source.Run(ctx, func(set []federation.Instance) {
			n := 0
			for _, in := range set {
				if in.Health == federation.HealthPassing {
					n++
				}
			}
			sets <- n
		})
	}()
	defer func() { cancel(); <-ended }()
	until := func(want int) {
		t.Helper()
		for late := time.After(30 * time.Second); ; {
			select {
			case n := <-sets:
				if n == want {
					return
				}
			case <-late:
				t.Fatalf("no set with %d passing instances was published", want)
			}
		}
	}
	until(20)
	world.Until(t, 30*time.Second, "the source to watch", func() error {
		if st := source.Status(); len(st.Scopes) != 1 || !st.Scopes[0].Watching {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	took = nil
	for round := range 6 {
		<-time.After(1200 * time.Millisecond) // sets are published once a second
		began := time.Now()
		flip(0, round%2 == 1)
		until(19 + round%2)
		took = append(took, time.Since(began))
	}
	t.Logf("change of an EndpointSlice to published set: %s", spread(took))
	if p50 := percentile(took, 50); p50 > limit {
		t.Errorf("p50 is %v, at most %v is allowed", p50, limit)
	}
}

// kubernetesLarge lists 1000 endpoints, which takes two pages.
func kubernetesLarge(t *testing.T, c *cluster) {
	c.service(t, "large", "web", nil)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range 1000 {
		group.Go(func() error { return c.put(slice("large", "web", fmt.Sprint("web-", i), i, ready)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	l := c.lister(t, kubernetes.Config{})
	began := time.Now()
	listing, err := l.List(t.Context(), inNamespace("large"), nil)
	if err != nil || listing.Partial != nil || len(listing.Records) != 1000 || len(listing.Bad) != 0 {
		t.Fatalf("%d records, %v", len(listing.Records), err)
	}
	t.Logf("1000 endpoints in 1000 slices were listed in %v with %d requests", time.Since(began).Round(time.Millisecond), listing.Calls)
	if listing.Calls != 3 { // two pages of slices, one of Services
		t.Errorf("%d requests", listing.Calls)
	}
	w := c.watch(t, "large", kubernetes.Config{})
	w.until(t, "all", records(1000, nil))
}

// kubernetesDenied lists with accounts that may see less and less.
func kubernetesDenied(t *testing.T, c *cluster) {
	c.service(t, "denied", "web", nil)
	c.account(t, "partly")
	role := func(name string, rules []obj) {
		t.Helper()
		const base = "/apis/rbac.authorization.k8s.io/v1/namespaces/denied/"
		c.do(t, "POST", base+"roles", obj{"metadata": obj{"name": name}, "rules": rules}, nil)
		c.do(t, "POST", base+"rolebindings", obj{"metadata": obj{"name": name}, "subjects": subject("partly"),
			"roleRef": obj{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}}, nil)
	}
	l := c.lister(t, kubernetes.Config{TokenFile: c.write(t, "partly", c.token(t, "partly", time.Now().Add(time.Hour)))})
	list := func(namespace, action string) {
		t.Helper()
		world.Until(t, 30*time.Second, "the rules to be in force", func() error {
			_, err := l.List(t.Context(), inNamespace(namespace), nil)
			var denied *poll.DeniedError
			switch {
			case action == "":
				return err
			case !errors.As(err, &denied) || denied.Action != action || denied.Who != "system:serviceaccount:mesh:partly":
				return fmt.Errorf("%w; want that %s is missing", err, action)
			}
			return nil
		})
	}
	list("denied", "endpointslices.discovery.k8s.io list in namespace denied")
	role("slices", rules[:1])
	list("denied", "services list in namespace denied")
	list("", "endpointslices.discovery.k8s.io list in all namespaces")
	role("services", rules[1:])
	list("denied", "")
	_, err := l.List(t.Context(), inNamespace("life"), nil)
	t.Logf("an operator reads: %v", err)
}

// kubernetesExpired: a token runs out, and kubelet writes a new one.
func kubernetesExpired(t *testing.T, c *cluster) {
	c.service(t, "expired", "web", nil)
	if err := c.put(slice("expired", "web", "web-1", 1, ready)); err != nil {
		t.Fatal(err)
	}
	// The API server grants a minute for clocks that differ, and remembers for ten seconds more what it has verified.
	old := c.token(t, "gateway", time.Now().Add(-55*time.Second))
	file := c.write(t, "expiring", old)
	g := openGate(t, c.address)
	w := c.watch(t, "expired", kubernetes.Config{Server: "https://" + g.address, TokenFile: file})
	w.until(t, "the endpoint", records(1, nil))
	l := c.lister(t, kubernetes.Config{TokenFile: file})
	world.Until(t, time.Minute, "the token to be refused", func() error {
		_, err := l.List(t.Context(), inNamespace("expired"), nil)
		if !errors.Is(err, poll.ErrCredentials) {
			return fmt.Errorf("it is accepted: %w", err)
		}
		return nil
	})
	if err := c.put(slice("expired", "web", "web-2", 2, ready)); err != nil {
		t.Fatal(err)
	}
	w.until(t, "two endpoints by the watch that is open", records(2, nil))
	c.write(t, "expiring", c.token(t, "gateway", time.Now().Add(time.Hour)))
	if _, err := l.List(t.Context(), inNamespace("expired"), nil); err != nil {
		t.Errorf("with the new token: %v", err)
	}
	g.set(true)
	g.set(false)
	if err := c.put(slice("expired", "web", "web-3", 3, ready)); err != nil {
		t.Fatal(err)
	}
	w.until(t, "three endpoints by a watch with the new token", records(3, nil))
}

// kubernetesCompacted: what a watch has missed is compacted away, so that it has to list anew.
func kubernetesCompacted(t *testing.T, c *cluster) {
	c.service(t, "compacted", "web", nil)
	for i := range 2 {
		if err := c.put(slice("compacted", "web", fmt.Sprint("web-", i), i, ready)); err != nil {
			t.Fatal(err)
		}
	}
	g := openGate(t, c.address)
	w := c.watch(t, "compacted", kubernetes.Config{Server: "https://" + g.address})
	w.until(t, "two endpoints", records(2, nil))
	var before struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	const path = "/apis/discovery.k8s.io/v1/namespaces/compacted/endpointslices"
	c.do(t, "GET", path, nil, &before)
	w.never(func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 0 })
	g.set(true)
	w.until(t, "that it cannot be seen", func(l poll.Listing) bool { return l.Partial != nil && len(l.Records) == 0 })
	c.remove(t, "compacted", "web-0")
	if err := c.put(slice("compacted", "web", "web-7", 7, ready)); err != nil {
		t.Fatal(err)
	}
	c.compact(t)
	c.server.Kill() // its memory of the past would still serve
	c.start(t)
	old := "?watch=1&timeoutSeconds=1&resourceVersion=" + before.Metadata.ResourceVersion
	req, err := http.NewRequest("GET", "https://"+c.address+path+old, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusGone && !strings.Contains(string(b), "too old resource version") {
		t.Errorf("the version is not too old: %s %s", resp.Status, b)
	}
	began := time.Now()
	g.set(false)
	w.until(t, "the endpoint that stayed and the new one", func(l poll.Listing) bool {
		return records(2, nil)(l) && l.Records[0].ID == "k8s://k/compacted/web/10.1.0.2" && l.Records[1].ID == "k8s://k/compacted/web/10.1.0.8"
	})
	t.Logf("listed anew %v after the server could be reached", time.Since(began).Round(time.Millisecond))
}

// kubernetesRestart kills the API server and starts it again.
func kubernetesRestart(t *testing.T, c *cluster) {
	c.service(t, "restart", "web", nil)
	for i := range 5 {
		if err := c.put(slice("restart", "web", fmt.Sprint("web-", i), i, ready)); err != nil {
			t.Fatal(err)
		}
	}
	w := c.watch(t, "restart", kubernetes.Config{})
	w.until(t, "five endpoints", records(5, nil))
	w.never(func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) < 5 })
	c.server.Kill()
	l := w.until(t, "that it is away", func(l poll.Listing) bool { return l.Partial != nil })
	t.Logf("without an API server: %v", l.Partial)
	c.start(t)
	if err := c.put(slice("restart", "web", "web-6", 6, ready)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.until(t, "six endpoints", records(6, nil))
	t.Logf("followed again %v after the first change", time.Since(began).Round(time.Millisecond))
}
