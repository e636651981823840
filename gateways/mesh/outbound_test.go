package mesh_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

func TestLocalCallKeepsHalfClose(t *testing.T) {
	noLeaks(t)
	aws := newRegion(t, "aws")
	at := instance(t, echo)
	aws.serve(shop, at)
	aws.intend("web-shop allow web shop")
	address := aws.upstream("to-shop", "shop")
	mustCall(t, address, "hello", "hello")
	e := aws.lines.next(t)
	want := entry{
		Direction: "outbound", Source: "spiffe://aws.mesh.internal/ns/default/svc/web", Assurance: "binding", Destination: "shop",
		SrcRegion: "aws", DstRegion: "aws", Endpoint: "shop-0 " + at, Upstream: "to-shop", Decision: "allow", Intention: "web-shop",
		Sent: 5, Received: 5,
	}
	if e != want {
		t.Errorf("access log says\n%+v, want\n%+v", e, want)
	}
}

func TestRemoteCallKeepsHalfClose(t *testing.T) {
	noLeaks(t)
	at := instance(t, echo)
	aws, gcp := pair(t, at)
	mustCall(t, aws.upstream("to-shop", "shop"), "hello", "hello")
	e := aws.lines.next(t)
	want := entry{
		Direction: "outbound", Source: "spiffe://aws.mesh.internal/ns/default/svc/web", Assurance: "binding", Destination: "shop",
		SrcRegion: "aws", DstRegion: "gcp", Peer: "gcp", Upstream: "to-shop", Decision: "allow", Intention: "out", Sent: 5, Received: 5,
	}
	if e != want {
		t.Errorf("source's access log says\n%+v, want\n%+v", e, want)
	}
	e = gcp.lines.next(t)
	want = entry{
		Direction: "inbound", Source: "spiffe://aws.mesh.internal/ns/default/svc/web", Assurance: "binding", Destination: "shop",
		SrcRegion: "aws", DstRegion: "gcp", Peer: "aws", Endpoint: "shop-0 " + at, Decision: "allow", Intention: "in", Sent: 5, Received: 5,
	}
	if e != want {
		t.Errorf("destination's access log says\n%+v, want\n%+v", e, want)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, hello("220 ready")))
	c := dial(t, aws.upstream("to-shop", "shop"))
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || line != "220 ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := io.WriteString(c, "QUIT\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "QUIT\n" {
		t.Fatalf("got %q, %v", line, err)
	}
}

func TestBulkArrivesWholeBothWays(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	size := bulk(t, aws.upstream("to-shop", "shop"))
	if e := aws.lines.next(t); e.Sent != size || e.Received != size || e.Flags != "" {
		t.Errorf("access log says %+v", e)
	}
}

// bulk sends 64 MiB to an echo at address and compares what comes back by its SHA-256.
func bulk(t *testing.T, address string) (size int64) {
	t.Helper()
	c := dial(t, address)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	size = 64 << 20
	block, sent := randomBytes(1<<20), sha256.New()
	var wg sync.WaitGroup
	wg.Go(func() {
		for range size / int64(len(block)) {
			sent.Write(block)
			if _, err := c.Write(block); err != nil {
				t.Error(err)
				return
			}
		}
		_ = c.CloseWrite()
	})
	got := sha256.New()
	n, err := io.Copy(got, c)
	wg.Wait()
	if err != nil || n != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Fatalf("%d of %d octets came back, %v", n, size, err)
	}
	return size
}

func TestResetOfInstanceReachesCaller(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0)
	}))
	c := dial(t, aws.upstream("to-shop", "shop"))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); !isReset(err) {
		t.Errorf("the caller read %v, want a reset", err)
	}
	if e := aws.lines.next(t); e.Flags != "UC" {
		t.Errorf("source's flags are %q (%s), want UC", e.Flags, e.Reason)
	}
	if e := gcp.lines.next(t); e.Flags != "UC" {
		t.Errorf("destination's flags are %q (%s), want UC", e.Flags, e.Reason)
	}
}

func TestResetOfCallerReachesInstance(t *testing.T) {
	noLeaks(t)
	seen := make(chan error, 1)
	aws, gcp := pair(t, instance(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "x")
		_, err := io.ReadAll(c)
		seen <- err
	}))
	c := dial(t, aws.upstream("to-shop", "shop"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetLinger(0)
	_ = c.Close()
	if err := <-seen; !isReset(err) {
		t.Errorf("the instance read %v, want a reset", err)
	}
	if e := aws.lines.next(t); e.Flags != "DC" {
		t.Errorf("source's flags are %q (%s), want DC", e.Flags, e.Reason)
	}
	if e := gcp.lines.next(t); e.Flags != "DC" {
		t.Errorf("destination's flags are %q (%s), want DC", e.Flags, e.Reason)
	}
}

func TestRefusingInstancesCostNoCall(t *testing.T) {
	for _, where := range []string{"local", "remote"} {
		t.Run(where, func(t *testing.T) {
			noLeaks(t)
			good, bad := instance(t, echo), refusing(t)
			var aws, serving *region
			if where == "local" {
				aws = newRegion(t, "aws")
				serving = aws
				aws.serve(shop, bad, good)
				aws.intend("out allow web shop")
			} else {
				aws, serving = pair(t, bad, good)
			}
			address := aws.upstream("to-shop", "shop")
			for range 50 {
				mustCall(t, address, "hello", "hello")
			}
			if ids := serving.failed.list(); len(ids) == 0 || len(ids) > 10 || ids[0] != "shop-0" {
				t.Errorf("reported as unreachable: %v; want shop-0 until it was ejected", ids)
			}
		})
	}
}

func TestFailsOverWhenRegionHasNone(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, hello("gcp")))
	azure := newRegion(t, "azure")
	azure.serve(shop, instance(t, hello("azure")))
	azure.export(shop, "*")
	azure.know("aws", 0)
	azure.intend("in allow web@aws shop")
	azure.publish()
	aws.peer(azure, 50*time.Millisecond, 1, shop)
	address := aws.upstream("to-shop", "shop")
	mustCall(t, address, "1", "gcp\n1") // nearest
	aws.lines.next(t)

	// The serving region knows first: its answer sends the call on.
	gcp.lane[shop].Store(0, federation.SlotHealth{Total: 1})
	mustCall(t, address, "2", "azure\n2")
	if e := aws.lines.next(t); e.DstRegion != "azure" || e.FailoverFrom != "gcp" || e.Retries != 1 {
		t.Errorf("access log says %+v, want a failover from gcp to azure after one retry", e)
	}
	if f := aws.Failovers(); len(f) != 0 {
		t.Errorf("one refusal counts as a failover: %+v", f)
	}

	// Then the catalog knows too: the region is not asked any more.
	aws.view.Imports["gcp"].Services[shop].Lane.Store(0, federation.SlotHealth{Total: 1})
	before := aws.links.get("gcp").opened.Load()
	mustCall(t, address, "3", "azure\n3")
	if e := aws.lines.next(t); e.FailoverFrom != "" || e.Retries != 0 {
		t.Errorf("access log says %+v: of two equals the one that can serve is the preferred one", e)
	}
	if got := aws.links.get("gcp").opened.Load(); got != before {
		t.Error("a region without a healthy instance was asked")
	}

	// And without any other, it is asked all the same: the catalog may be behind.
	aws.links.setDown("azure", true)
	gcp.lane[shop].Store(0, federation.SlotHealth{Healthy: 1, Total: 1})
	mustCall(t, address, "4", "gcp\n4")
}

func TestLocalFirstThenPeerAndBack(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, hello("gcp")))
	aws.serve(shop, instance(t, hello("aws")))
	aws.intend("home allow web shop")
	address := aws.upstream("to-shop", "shop")
	step := func(message, dst, from string) {
		t.Helper()
		mustCall(t, address, message, dst+"\n"+message)
		if e := aws.lines.next(t); e.DstRegion != dst || e.FailoverFrom != from {
			t.Errorf("access log says %+v", e)
		}
	}
	step("1", "aws", "")
	aws.lane[shop].Store(0, federation.SlotHealth{Total: 1})
	step("2", "gcp", "aws")
	f := aws.Failovers()
	if len(f) != 1 || f[0].Service != shop || f[0].From != "aws" || f[0].To != "gcp" {
		t.Errorf("failovers are %+v", f)
	}
	aws.links.setDown("gcp", true) // both are bad: what is at hand is tried
	step("3", "aws", "")
	aws.lane[shop].Store(0, federation.SlotHealth{Healthy: 1, Total: 1})
	step("4", "aws", "")
	if f := aws.Failovers(); len(f) != 0 {
		t.Errorf("failovers are %+v after all is well", f)
	}
}

func TestRefusedFirstBytesAreReplayed(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	aws.links.peers["azure"] = &link{serve: refuseAll(flow.RefusedUnavailable), rtt: time.Millisecond}
	aws.know("azure", 1, shop)
	address := aws.upstream("to-shop", "shop")
	for _, size := range []int{1, 8 << 10, 8<<10 + 1, 64 << 10, 300 << 10} {
		message := strings.Repeat("x", size-1) + "!"
		mustCall(t, address, message, message)
		if e := aws.lines.next(t); e.DstRegion != "gcp" || e.Retries != 1 || e.Received != int64(size) {
			t.Errorf("%d octets: access log says %+v", size, e)
		}
		gcp.lines.next(t)
		if size > 1 {
			continue
		}
		if n := aws.links.get("azure").opened.Load(); n != 1 {
			t.Fatalf("the nearer region was asked %d times", n)
		}
	}
}

func TestRefusedFirstBytesGoToALocalInstance(t *testing.T) {
	noLeaks(t)
	aws := newRegion(t, "aws")
	aws.serve(shop, instance(t, echo))
	aws.links.peers["azure"] = &link{serve: refuseAll(flow.RefusedNotAllowed), rtt: time.Millisecond}
	aws.know("azure", 1, shop)
	aws.view.Resolvers = map[federation.ServiceName]federation.Resolver{shop: {Service: shop, Failover: []string{"azure", "local"}}}
	aws.intend("out allow web shop@*")
	message := strings.Repeat("x", 100<<10)
	mustCall(t, aws.upstream("to-shop", "shop"), message, message)
	if e := aws.lines.next(t); e.DstRegion != "aws" || e.FailoverFrom != "azure" || e.Retries != 1 || e.Received != int64(len(message)) {
		t.Errorf("access log says %+v", e)
	}
}

func TestNothingIsSentTwice(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	got := make(chan int, 1)
	aws.links.peers["azure"] = &link{rtt: time.Millisecond, raw: func(c net.Conn) { // takes the bytes and dies without an answer
		in, err := acceptLane(c, "aws")
		if err == nil {
			n, _ := io.ReadFull(in, make([]byte, 5))
			got <- n
		}
		_ = c.Close()
	}}
	aws.know("azure", 1, shop)
	address := aws.upstream("to-shop", "shop")
	if answer, err := call(t, address, "hello"); !isReset(err) {
		t.Fatalf("the caller got %q, %v; want a reset", answer, err)
	}
	if n := <-got; n != 5 {
		t.Fatalf("the dying peer got %d octets", n)
	}
	if e := aws.lines.next(t); e.Flags != "UF" || e.DstRegion != "azure" || e.Reason == "" {
		t.Errorf("access log says %+v", e)
	}
	if n := aws.links.get("gcp").opened.Load(); n != 0 {
		t.Errorf("the bytes were sent to another region too")
	}
	_ = gcp
}

func TestDeathWithNothingSentIsRetried(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, hello("gcp")))
	aws.links.peers["azure"] = &link{rtt: time.Millisecond, raw: func(c net.Conn) {
		_, _ = acceptLane(c, "aws")
		_ = c.Close()
	}}
	aws.know("azure", 1, shop)
	c := dial(t, aws.upstream("to-shop", "shop"))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "gcp\n" {
		t.Fatalf("got %q, %v", line, err)
	}
}

func TestDeadPathIsNotTried(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	address := aws.upstream("to-shop", "shop")
	aws.links.setDown("gcp", true)
	start := time.Now()
	if _, err := call(t, address, "x"); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v to say that there is no path", took)
	}
	if e := aws.lines.next(t); e.Flags != "UH" || e.Reason != "region gcp: no live path to its gateways" || e.Intention != "out" {
		t.Errorf("access log says %+v", e)
	}
}

func TestFailingRegionIsAvoided(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.links.peers["azure"] = &link{serve: refuseAll(flow.RefusedUnavailable), rtt: time.Millisecond}
	aws.know("azure", 1, shop)
	address := aws.upstream("to-shop", "shop")
	for range 20 {
		mustCall(t, address, "x", "x")
	}
	if n := aws.links.get("azure").opened.Load(); n != 5 {
		t.Errorf("a region that answers \"unavailable\" was asked %d times, want 5 in a row and then a pause", n)
	}
}

func TestExportedInstanceIsNamedAtTheSource(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	address := aws.upstream("to-shop", "shop")
	mustCall(t, address, "x", "x")
	if e := aws.lines.next(t); e.Endpoint != "" {
		t.Errorf("a summary export told the instance %q", e.Endpoint)
	}
	gcp.view.Exports = []federation.Export{{Service: shop, To: []string{"aws"}, Detail: federation.DetailEndpoints}}
	gcp.publish()
	mustCall(t, address, "x", "x")
	if e := aws.lines.next(t); e.Endpoint != "shop-0" {
		t.Errorf("the source's access log names the instance %q, want shop-0", e.Endpoint)
	}
}

func TestRegionIsTriedAgainOnceItsPathIsBack(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.links.peers["azure"] = &link{serve: refuseAll(flow.RefusedUnavailable), rtt: time.Millisecond}
	aws.know("azure", 1, shop)
	address := aws.upstream("to-shop", "shop")
	for range 20 {
		mustCall(t, address, "x", "x")
	}
	before := aws.links.get("azure").opened.Load()
	aws.links.setDown("azure", true)
	mustCall(t, address, "x", "x")
	aws.links.setDown("azure", false)
	mustCall(t, address, "x", "x")
	if n := aws.links.get("azure").opened.Load(); n != before+1 {
		t.Errorf("after its path had died and come back, a region that was avoided was asked %d times, want once", n-before)
	}
}
