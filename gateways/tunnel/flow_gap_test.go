package tunnel

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// loseQuietly takes a carrier from f without a word to the other end, as when the reset of a lane is lost.
func (f *Flow) loseQuietly(l *leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil || l.pending || l.broken {
		return
	}
	f.drop(l)
	_ = l.c.SetReadDeadline(past)
	f.want()
}

// answererOf returns the other end of a flow of west's, or of east's.
func (p *pair) answererOf(f *Flow) *Flow {
	at := p.east.peer(west)
	if f.far.t == p.east.Transport {
		at = p.west.peer(east)
	}
	for _, r := range at.remotes.all {
		if other := r.find(f.id, flow.Answerer); other != nil {
			return other
		}
	}
	return nil
}

// TestGap loses a carrier at the end that reads only, when the end that writes has finished with it: what comes behind the gap must
// not wait for ever.
func TestGap(t *testing.T) {
	for _, from := range []flow.Role{flow.Opener, flow.Answerer} {
		simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
			eventually(t, func() bool {
				return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
			})
			f := mustOpen(t, p.west, east)
			if err := exchangeBytes(f, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			writer, reader := f, p.answererOf(f)
			sessions := p.sessionsAt(p.west)
			if from == flow.Answerer {
				writer, reader, sessions = reader, writer, p.sessionsAt(p.east)
			}
			begin := time.Now()
			for range 3 {
				<-time.After(2 * settleDown)
				old := reader.everyLeg()
				done := make(chan error, 1)
				go func() { done <- exchangeBytes(f, make([]byte, 100<<10)) }()
				if from == flow.Answerer {
					<-time.After(rtt) // it sends back what it gets
				}
				if err := writer.shift(sessions[:1]); err != nil {
					t.Fatal(err)
				}
				sessions = sessions[1:]
				<-time.After(oneWay / 2)
				for _, l := range old {
					reader.loseQuietly(l)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(begin); took > time.Minute {
				t.Errorf("it took %v", took)
			}
			_ = f.Close()
			settles(t, p)
		})
	}
}

// TestCarriersComeAndGo does everything that can happen to carriers, in any order.
func TestCarriersComeAndGo(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 50
	}
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		eventually(t, func() bool {
			return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
		})
		enough := make(chan struct{})
		var talking sync.WaitGroup
		var flows []*Flow
		for i := range 4 {
			from, to := p.west, east
			if i%2 == 1 {
				from, to = p.east, west
			}
			f := mustOpen(t, from, to)
			flows = append(flows, f)
			talking.Go(func() { converse(t, f, uint64(i), enough) })
		}
		<-time.After(time.Second)
		r := rand.New(rand.NewPCG(8, 9))
		for range rounds {
			<-time.After(time.Duration(r.IntN(400)) * time.Millisecond)
			f := flows[r.IntN(len(flows))]
			if other := p.answererOf(f); other != nil && r.IntN(2) == 0 {
				f = other
			}
			switch r.IntN(4) {
			case 0:
				p.breakOne(r)
			case 1:
				f.mu.Lock()
				all := f.everyLeg()
				f.mu.Unlock()
				if len(all) > 0 {
					f.loseQuietly(all[r.IntN(len(all))])
				}
			default:
				sessions := f.far.peer.group(f.far.id)
				r.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
				_ = f.shift(sessions[:min(len(sessions), 1+r.IntN(3))]) // there may be none
			}
		}
		close(enough)
		talking.Wait()
		settles(t, p)
	})
}
