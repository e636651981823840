package ingress_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/ingress"
)

// TestNothingIsOrderedThatAFileHas has an authority that is not there: what happens is in what the listener says of it.
func TestNothingIsOrderedThatAFileHas(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	g := federation.Ingress{TLS: append(e.tls("a", "a.example.com"), federation.IngressTLS{ACME: &federation.IngressACME{
		Email: "ops@example.com", Directory: "https://127.0.0.1:1/dir", TermsAgreed: true}}),
		Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web")}, {Name: "b.example.com", Service: ref("web")}}}
	address := e.listen(g)
	failed := func() (ingress.Status, bool) {
		s := e.Status()[0]
		return s, len(s.Problems) > 0
	}
	s, ok := failed()
	for end := time.Now().Add(20 * time.Second); !ok && time.Now().Before(end); s, ok = failed() {
		<-time.After(10 * time.Millisecond)
	}
	if len(s.Problems) != 1 || s.Problems[0].Code != federation.CodeIngressOrder || !strings.Contains(s.Problems[0].What, `"b.example.com"`) ||
		!strings.Contains(s.Problems[0].Why, "connection refused (one attempt, since 2") || s.Problems[0].Fix == "" {
		t.Fatalf("%v", s.Problems)
	}
	if c := s.Certificates; len(c) != 2 || c[0].Source != "file" || c[0].NotAfter.IsZero() || !c[0].Renews.IsZero() || c[1].Source != "acme" ||
		c[1].Names[0] != "b.example.com" || !c[1].NotAfter.IsZero() || c[1].Failure == "" || time.Until(c[1].Next) > 2*time.Minute {
		t.Errorf("%+v", c)
	}
	if got := ask(t, e.client(address, true), "https://a.example.com/"); got.Name != "web" {
		t.Errorf("%+v", got)
	}
	for _, hello := range []*tls.Config{{ServerName: "b.example.com"}, {ServerName: "b.example.com", NextProtos: []string{"acme-tls/1"}},
		{ServerName: "c.example.com", NextProtos: []string{"acme-tls/1"}}} {
		hello.InsecureSkipVerify = true // whatever certificate it is, there must be none
		c, err := tls.Dial("tcp", address, hello)
		if err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
			t.Errorf("%s %v: %v %v", hello.ServerName, hello.NextProtos, c, err)
		}
	}
	// The file is enough as soon as it is for both.
	e.ca.write(t, g.TLS[0], "a.example.com", "b.example.com")
	for end := time.Now().Add(20 * time.Second); ok && time.Now().Before(end); s, ok = failed() {
		<-time.After(10 * time.Millisecond)
	}
	if len(s.Certificates) != 1 || len(s.Problems) != 0 {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(e.dir, "acme", "certificates")); err == nil {
		t.Error("there are certificates")
	}
}
