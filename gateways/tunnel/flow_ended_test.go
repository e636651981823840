package tunnel

import (
	"context"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// TestAnAbortedFlowEndsAtOnceOnALane: a lane that is closed must not be taken for one that has broken, after which the other end waits
// for another one.
func TestAnAbortedFlowEndsAtOnceOnALane(t *testing.T) {
	ended := make(chan error, 1)
	p := overTCP(t, func(c *Config) {
		c.OnFlow = func(_ context.Context, in *Incoming) {
			if err := in.Accept(); err != nil {
				ended <- err
				return
			}
			_, err := in.Read(make([]byte, 1))
			for err == nil {
				_, err = in.Read(make([]byte, 1))
			}
			ended <- err
		}
	})
	p.ready(t)
	for _, code := range []flow.ResetCode{flow.ResetAborted, flow.ResetRevoked} {
		f := mustOpen(t, p.west, east)
		if _, err := f.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := f.WaitAccept(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		f.Reset(code)
		select {
		case err := <-ended:
			if reset, ok := is[*ResetError](err); !ok || !reset.Remote || reset.Code != code {
				t.Errorf("%v ended with %v", code, err)
			}
		case <-time.After(2 * resumeLimit):
			t.Fatal("it never ended")
		}
		if took := time.Since(begun); took > resumeLimit/2 {
			t.Errorf("%v took %v", code, took)
		}
	}
}
