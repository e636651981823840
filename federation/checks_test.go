package federation

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestChecksThatAreRefused(t *testing.T) {
	many := map[string]string{}
	for i := range maxCheckHeaders + 1 {
		many["X-"+strings.Repeat("x", i)] = ""
	}
	for _, c := range []struct {
		spec CheckSpec
		want string // empty: it is good
	}{
		{CheckSpec{Kind: CheckHTTP, Method: "POST", Body: "ping", Headers: map[string]string{"X-Probe": "1"}, Status: []int{200, 404}}, ""},
		{CheckSpec{Kind: CheckHTTP, Method: "HEAD"}, ""},
		{CheckSpec{Kind: CheckTCP, Method: "HEAD"}, "no meaning for a tcp check"},
		{CheckSpec{Kind: CheckGRPC, Status: []int{200}}, "no meaning for a grpc check"},
		{CheckSpec{Kind: CheckTTL, Headers: map[string]string{"X-Probe": "1"}}, "no meaning for a ttl check"},
		{CheckSpec{Kind: CheckHTTP, Method: "get"}, "in capitals"},
		{CheckSpec{Kind: CheckHTTP, Method: "GET / HTTP/1.1\r\nX"}, "in capitals"},
		{CheckSpec{Kind: CheckHTTP, Method: "CONNECT"}, "not one that a check can use"},
		{CheckSpec{Kind: CheckHTTP, Body: "ping"}, "needs a method"},
		{CheckSpec{Kind: CheckHTTP, Method: "HEAD", Body: "ping"}, "needs a method"},
		{CheckSpec{Kind: CheckHTTP, Headers: map[string]string{"host": "shop.example.com"}}, "write host ="},
		{CheckSpec{Kind: CheckHTTP, Headers: map[string]string{"Transfer-Encoding": "chunked"}}, "sets itself"},
		{CheckSpec{Kind: CheckHTTP, Headers: map[string]string{"X Probe": "1"}}, "no header may have"},
		{CheckSpec{Kind: CheckHTTP, Headers: map[string]string{"X-Probe": "1\r\nX-Other: 2"}}, "no header may have"},
		{CheckSpec{Kind: CheckHTTP, Headers: many}, "more than 16 headers"},
		{CheckSpec{Kind: CheckHTTP, Headers: map[string]string{"X-Probe": strings.Repeat("x", maxCheckText)}}, "4096 octets"},
		{CheckSpec{Kind: CheckHTTP, Method: "PUT", Body: strings.Repeat("x", maxCheckText+1)}, "4096 octets"},
		{CheckSpec{Kind: CheckHTTP, Status: []int{100}}, "no answer"},
		{CheckSpec{Kind: CheckHTTP, Status: []int{600}}, "no answer"},
		{CheckSpec{Kind: CheckHTTP, Status: make([]int, maxCheckStatus+1)}, "lists more than 16"},
		{CheckSpec{Kind: CheckTTL, TLS: true}, "asks nobody"},
		{CheckSpec{Kind: CheckTCP, TLSServerName: "shop.example.com"}, "need tls = true"},
		{CheckSpec{Kind: CheckTCP, TLS: true, TLSSkipVerify: true, TLSCAFile: "/ca.pem"}, "accepts any certificate"},
		{CheckSpec{Kind: CheckTCP, TLS: true, TLSCAFile: "ca.pem"}, "no absolute path"},
		{CheckSpec{Kind: CheckTCP, Interval: Duration(time.Millisecond)}, "below 50ms"},
	} {
		err := c.spec.Validate()
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.spec, err, c.want)
		}
	}
}

func TestSameChecks(t *testing.T) {
	a := []CheckSpec{{Kind: CheckHTTP, Headers: map[string]string{"X-Probe": "1"}, Status: []int{200}}}
	b := []CheckSpec{{Kind: CheckHTTP, Headers: map[string]string{"X-Probe": "1"}, Status: []int{200}}}
	if !SameChecks(a, a) || !SameChecks(a, b) || !SameChecks(nil, []CheckSpec{}) {
		t.Error("the same checks differ")
	}
	b[0].Headers["X-Probe"] = "2"
	if SameChecks(a, b) || SameChecks(a, nil) || SameChecks(a, append(a, a...)) {
		t.Error("different checks are the same")
	}
}

func TestServicesThatAreRefused(t *testing.T) {
	for _, address := range []string{"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "0.0.0.0:80"} {
		s := Service{Instances: []StaticInstance{{Address: netip.MustParseAddrPort(address)}}}
		if err := s.Validate("web"); err == nil || !strings.Contains(err.Error(), string(CodeAddressRefused)) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := (&Service{Checks: make([]CheckSpec, MaxChecks+1)}).Validate("web"); err == nil || !strings.Contains(err.Error(), "at most 8") {
		t.Errorf("nine checks: %v", err)
	}
}
