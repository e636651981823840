package mesh_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestCallerLeaves has callers go away while their requests wait for an instance of a peer: the instance learns it at once, nothing is
// tried again, and both access logs say who left.
func TestCallerLeaves(t *testing.T) {
	noLeaks(t)
	for _, p := range []federation.Protocol{federation.ProtocolHTTP, federation.ProtocolHTTP2} {
		for _, two := range []bool{false, true} {
			begun, left := make(chan struct{}, 8), make(chan struct{}, 8)
			aws, gcp, url := httpPair(t, server(t, func(_ http.ResponseWriter, r *http.Request) {
				begun <- struct{}{}
				<-r.Context().Done()
				left <- struct{}{}
			}), p)
			ctx, stop := context.WithCancel(t.Context())
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if res, err := caller(t, two).Do(r); err == nil {
					_ = res.Body.Close()
				}
			}()
			<-begun
			stop()
			within(t, func() { <-left })
			<-ended
			for _, region := range []*tunnelled{aws, gcp} {
				if e := region.lines.next(t); e.Flags != "DC" || e.Reason != "the caller has left" || e.Retries != 0 {
					t.Errorf("%s, two=%v: access log of %s says %+v", p, two, region.name, e)
				}
			}
			if len(begun) > 0 {
				t.Errorf("%s, two=%v: it was tried again", p, two)
			}
		}
	}
}
