package mesh_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

func explain(t *testing.T, r *region, source, destination string) mesh.Explanation {
	t.Helper()
	from, err := federation.ParseServiceRef(source)
	if err != nil {
		t.Fatal(err)
	}
	to, err := federation.ParseServiceRef(destination)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Explain(context.Background(), mesh.ExplainRequest{Source: from, Destination: to})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// sicken makes the only instance of r's shop unhealthy.
func sicken(r *region) { r.lane[shop].Store(0, federation.SlotHealth{Total: 1}) }

func TestExplainSaysWhatWouldHappen(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	aws.serve(shop, instance(t, echo))
	aws.publish()
	steps := []struct {
		name    string
		change  func()
		verdict mesh.Verdict
		at      federation.Region
		reason  string
		chosen  federation.Region
	}{
		{"local first", func() {}, mesh.VerdictAllowed, "aws", "region aws serves it", "aws"},
		{"local sick", func() { sicken(aws) }, mesh.VerdictAllowed, "aws", "region gcp serves it", "gcp"},
		{"both sick", func() { sicken(gcp) }, mesh.VerdictAllowed, "aws", "region aws is tried, because nobody else can serve it", "aws"},
		{"peer sick, catalog behind", func() { aws.view.Local = nil; aws.publish() }, mesh.VerdictUnreachable, "gcp",
			"no healthy instance at this moment", ""},
		{"peer refuses", func() { gcp.view.Intentions = nil; gcp.publish() }, mesh.VerdictDenied, "gcp",
			"allowed here, but region gcp refuses", ""},
		{"path down", func() { aws.links.setDown("gcp", true) }, mesh.VerdictUnreachable, "gcp", "no live path", ""},
		{"denied", func() { aws.view.Intentions = nil; aws.intend("no deny web shop@*"); aws.publish() }, mesh.VerdictDenied, "aws",
			`intention "no" denies`, ""},
		{"nobody has it", func() { aws.view.Local, aws.view.Imports = nil, nil; aws.publish() }, mesh.VerdictUnreachable, "aws",
			"no region shows a service called shop", ""},
	}
	for _, s := range steps {
		s.change()
		e := explain(t, aws, "web", "shop")
		if e.Verdict != s.verdict || e.At != s.at || !strings.Contains(e.Reason, s.reason) {
			t.Errorf("%s: %s at %s: %s", s.name, e.Verdict, e.At, e.Reason)
		}
		var chosen federation.Region
		for _, c := range e.Candidates {
			if c.Chosen {
				chosen = c.Region
			}
			if c.Reason == "" {
				t.Errorf("%s: nothing is said about region %s", s.name, c.Region)
			}
		}
		if chosen != s.chosen {
			t.Errorf("%s: would go to %q, want %q", s.name, chosen, s.chosen)
		}
	}
}

// TestExplainOfAnUnknownService: a name with a slip of the pen; the intention is judged all the same.
func TestExplainOfAnUnknownService(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.intend("ghosts deny web ghost@*")
	aws.publish()
	for destination, rule := range map[string]string{"ghost": "ghosts", "ghost@gcp": "ghosts", "phantom": "default"} {
		e := explain(t, aws, "web", destination)
		service, _, _ := strings.Cut(destination, "@")
		if e.Verdict != mesh.VerdictUnreachable || e.Reason != "no region shows a service called "+service {
			t.Errorf("%s: %s, %s", destination, e.Verdict, e.Reason)
		}
		if e.Decision.Rule != rule || e.Decision.Allowed {
			t.Errorf("%s: decision %+v", destination, e.Decision)
		}
	}
}

func TestExplainGoesOnWhereThePeerRefuses(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, hello("gcp")))
	azure := newRegion(t, "azure")
	azure.serve(shop, instance(t, hello("azure")))
	azure.export(shop, "*")
	azure.know("aws", 0)
	azure.intend("azures allow web@aws shop")
	azure.publish()
	aws.peer(azure, 50*time.Millisecond, 1, shop)
	gcp.view.Exports = nil // nearer, and no longer for us
	gcp.publish()
	address := aws.upstream("to-shop", "shop")
	e := explain(t, aws, "web", "shop")
	if e.Verdict != mesh.VerdictAllowed || e.Remote == nil || e.Remote.Rule != "azures" {
		t.Errorf("%s: %s, remote %+v", e.Verdict, e.Reason, e.Remote)
	}
	for _, c := range e.Candidates {
		if c.Chosen != (c.Region == "azure") || c.Kept != c.Chosen {
			t.Errorf("candidate %+v", c)
		}
	}
	mustCall(t, address, "", "azure\n")
}

func TestExplainOfAPeersCall(t *testing.T) {
	noLeaks(t)
	_, gcp := pair(t, instance(t, echo))
	e := explain(t, gcp, "web@aws", "shop")
	if e.Verdict != mesh.VerdictAllowed || e.Exported == nil || !*e.Exported || e.Decision.Rule != "in" {
		t.Errorf("%s: %s", e.Verdict, e.Reason)
	}
	e = explain(t, gcp, "api@aws", "shop")
	if e.Verdict != mesh.VerdictDenied || e.Decision.Rule != "default" || len(e.Decision.Matched) != 1 {
		t.Errorf("%s: %s, %+v", e.Verdict, e.Reason, e.Decision)
	}
	gcp.view.Exports = nil
	gcp.publish()
	if e := explain(t, gcp, "web@aws", "shop"); e.Verdict != mesh.VerdictDenied || e.Reason != "shop is not exported to region aws" {
		t.Errorf("%s: %s", e.Verdict, e.Reason)
	}
	if _, err := gcp.Explain(context.Background(), mesh.ExplainRequest{
		Source: federation.ServiceRef{Service: web, Region: "mars"}, Destination: federation.ServiceRef{Service: shop},
	}); err == nil {
		t.Error("a caller of an unknown region was explained")
	}
}

// TestExplainAgreesWithTheDataPath compares the two over many worlds.
func TestExplainAgreesWithTheDataPath(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	aws.serve(shop, instance(t, echo))
	address := aws.upstream("to-shop", "shop")
	here := gcp.view.Intentions
	for bits := range 64 {
		set := func(i int, region *region) {
			h := federation.SlotHealth{Total: 1}
			if bits>>i&1 == 1 {
				h.Healthy = 1
			}
			region.lane[shop].Store(0, h)
		}
		set(0, aws)
		set(1, gcp)
		aws.links.setDown("gcp", bits>>2&1 == 1)
		aws.view.Intentions = nil
		if bits>>3&1 == 1 {
			aws.intend("home allow web shop")
		}
		if bits>>4&1 == 1 {
			aws.intend("out allow web shop@gcp")
		}
		aws.publish()
		gcp.view.Intentions = here
		if bits>>5&1 == 1 {
			gcp.view.Intentions = nil
		}
		gcp.publish()
		e := explain(t, aws, "web", "shop")
		answer, err := call(t, address, "x")
		got := aws.lines.next(t)
		switch e.Verdict {
		case mesh.VerdictAllowed:
			if err != nil || answer != "x" {
				t.Errorf("world %05b: explained as allowed by %s, and the call got %q, %v", bits, e.Reason, answer, err)
			}
			for _, c := range e.Candidates {
				if c.Chosen && string(c.Region) != got.DstRegion {
					t.Errorf("world %05b: explained as going to %s, went to %s", bits, c.Region, got.DstRegion)
				}
			}
		case mesh.VerdictDenied:
			if got.Flags != "UAEX" || got.Intention != e.Decision.Rule {
				t.Errorf("world %05b: explained as denied by %q, and the log says %+v", bits, e.Decision.Rule, got)
			}
		case mesh.VerdictUnreachable:
			if !isReset(err) || !strings.HasPrefix(got.Flags, "UH") {
				t.Errorf("world %05b: explained as unreachable, %s; the call got %q, %v and the log says %+v", bits, e.Reason, answer, err, got)
			}
		}
	}
}

func TestPeersQuestionGetsNoMoreThanAnAnswer(t *testing.T) {
	noLeaks(t)
	_, gcp := pair(t, instance(t, echo))
	asking := func(source, service string) string {
		return fmt.Sprintf(`{"source":"spiffe://%s","assurance":"binding","service":%q}`, source, service)
	}
	const allowed, refused = `{"verdict":"allowed","rule":"in","healthy":1}`, `{"verdict":"refused"}`
	for question, want := range map[string]string{
		asking("aws.mesh.internal/ns/default/svc/web", "shop"):  allowed,
		asking("aws.mesh.internal/ns/default/svc/api", "shop"):  refused,
		asking("aws.mesh.internal/ns/default/svc/web", "none"):  refused,
		asking("gcp.mesh.internal/ns/default/svc/web", "shop"):  refused,
		asking("aws.mesh.internal/ns/default/svc/web", "../.."): refused,
		"not JSON": refused,
		asking(strings.Repeat("x", 5000), "shop"): refused,
	} {
		if got := string(gcp.Answer(context.Background(), "aws", []byte(question))); got != want {
			t.Errorf("%.80s was answered %s, want %s", question, got, want)
		}
	}
	if got := string(gcp.Answer(context.Background(), "mars", nil)); got != `{"verdict":"refused"}` {
		t.Errorf("a stranger was answered %s", got)
	}
}

func TestExplanationIsStableJSON(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, "192.0.2.7:80")
	aws.publish()
	e := explain(t, aws, "web", "shop")
	got, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	decision := `{"allowed":true,"rule":"out","reason":"intention \"out\" allows web@aws to call shop@*","matched":[{"rule":"out",` +
		`"action":"allow","source":"web","destination":"shop@*","matches":true,"decided":true,` +
		`"reason":"intention \"out\" allows web@aws to call shop@*"}]}`
	want := `{"verdict":"allowed","at":"aws","reason":"intention \"out\" allows web@aws to call shop@*; region gcp serves it",` +
		`"region":"aws","snapshot":1,` +
		`"caller":{"id":"spiffe://aws.mesh.internal/ns/default/svc/web","service":"web@aws","assurance":"binding"},"destination":"shop",` +
		`"candidates":[{"region":"gcp","kept":true,"chosen":true,"rank":0,"reason":"1 of 1 healthy","freshness":"LIVE","healthy":1,"total":1,` +
		`"path":{"up":true,"rtt":"10ms","loss":0,"address":"192.0.2.1:8443","lane":"test"},"decision":` + decision + `},` +
		`{"region":"aws","local":true,"kept":false,"rank":0,"reason":"no source of this region has seen it","freshness":"LIVE",` +
		`"healthy":0,"total":0}],"decision":` + decision + `,"remote":{"verdict":"allowed","rule":"in","healthy":1}}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSilentPeerDoesNotHoldUpAnExplanation(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.links.get("gcp").answer = func(ctx context.Context, _ federation.Region, _ []byte) []byte {
		<-ctx.Done()
		return nil
	}
	aws.publish()
	start := time.Now()
	e := explain(t, aws, "web", "shop")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if e.Verdict != mesh.VerdictAllowed || !strings.Contains(e.RemoteError, "region gcp gave no answer") {
		t.Errorf("%s, %q", e.Verdict, e.RemoteError)
	}
}
