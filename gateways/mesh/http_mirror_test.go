package mesh_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

var nextShop = federation.ServiceName{Namespace: "default", Name: "next"}

// mirrored is a region whose requests for shop are copied to another service, both of which speak p.
func mirrored(t *testing.T, p federation.Protocol, to, copies http.HandlerFunc) (aws *region, url string) {
	t.Helper()
	aws = newRegion(t, "aws")
	aws.serve(shop, server(t, to))
	aws.serve(nextShop, server(t, copies))
	aws.speaks(shop, p)
	aws.speaks(nextShop, p)
	aws.intend("local allow web *")
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "all", Mirror: &federation.Mirror{Service: nextShop}}}}}
	return aws, "http://" + aws.upstream("up", "shop")
}

// value is that of a metric of one label value.
func (r *region) value(name, label string) float64 {
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// TestCopyOfABody: what the mirror gets is what the instance got, however it was framed.
func TestCopyOfABody(t *testing.T) {
	noLeaks(t)
	sum := func(r *http.Request) string {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		return fmt.Sprintf("%s %s %d %v %x %d %v", r.Method, r.URL, n, err, h.Sum(nil), r.ContentLength, r.Trailer)
	}
	for _, p := range []federation.Protocol{federation.ProtocolHTTP, federation.ProtocolHTTP2} {
		got, copied := make(chan string, 1), make(chan string, 1)
		aws, url := mirrored(t, p, func(_ http.ResponseWriter, r *http.Request) { got <- sum(r) },
			func(_ http.ResponseWriter, r *http.Request) { copied <- sum(r) })
		sent := 0
		for _, two := range []bool{false, true} {
			for _, size := range []int{1, 100, 60 << 10} {
				for _, known := range []bool{true, false} {
					body := make([]byte, size)
					for i := range body {
						body[i] = byte(rand.Uint32())
					}
					r, err := http.NewRequest(http.MethodPost, url+"/a?b=c", bytes.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					if !known {
						r.ContentLength, r.Trailer = -1, http.Header{"X-End": {"yes"}}
					}
					res, err := caller(t, two).Do(r)
					if err != nil || res.StatusCode != http.StatusOK {
						t.Fatal(res, err)
					}
					_ = res.Body.Close()
					sent++
					if a, b := <-got, <-copied; a != b || known && a[:4] != "POST" {
						t.Errorf("%s, two=%v, size %d, known=%v: the instance got\n%s, the mirror\n%s", p, two, size, known, a, b)
					}
				}
			}
		}
		eventually(t, "every copy is counted", func() bool { return aws.value("tradewind_mirror_total", "sent") == float64(sent) })
	}
}

// TestSlowMirrorHoldsUpNobody: a mirror that reads nothing gets a part of the body, and the request goes on meanwhile.
func TestSlowMirrorHoldsUpNobody(t *testing.T) {
	noLeaks(t)
	release := make(chan struct{})
	for _, p := range []federation.Protocol{federation.ProtocolHTTP, federation.ProtocolHTTP2} {
		aws, url := mirrored(t, p, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n, err)
		}, func(http.ResponseWriter, *http.Request) { <-release })
		const size = 32 << 20 // more than the sockets hold
		res, err := caller(t, false).Post(url, "", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != fmt.Sprint(size, " <nil>") {
			t.Errorf("%s: %q, %v", p, body, err)
		}
		_ = res.Body.Close()
		eventually(t, "the copy is given up", func() bool { return aws.value("tradewind_mirror_total", "abandoned") == 1 })
	}
	close(release)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
