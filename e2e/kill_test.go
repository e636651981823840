package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

const (
	killWriters = 4   // so that commits overlap
	killKeys    = 100 // of each writer; writes go round them, so that there are creations, updates and deletions
)

// A ledger is what one writer knows of its resources.
type ledger struct {
	writer int
	n      int         // writes sent so far
	acked  map[int]int // the last acknowledged write of each key, by its number; deletions are negative
	flying int         // the write that the kill caught on its way; 0: none

	refused error // a write that failed otherwise than by the kill
}

func (l *ledger) key(n int) federation.Key {
	return federation.Key{Kind: federation.KindIntention, Name: fmt.Sprintf("w%d-%d", l.writer, n%killKeys)}
}

// deletes says which writes are deletions: few, and not always of the same keys.
func deletes(n int) bool { return n%37 == 0 }

// write makes writes one after the other until one is not acknowledged. It calls answered after the first answer, and maybe later.
func (l *ledger) write(ctx context.Context, client *admin.Client, answered func()) {
	defer answered()
	for {
		l.n++
		var err error
		if deletes(l.n) {
			_, err = client.DeleteResources(ctx, &admin.DeleteRequest{Owner: "test", Keys: []federation.Key{l.key(l.n)}})
			if errors.Is(err, admin.ErrNotFound) || federation.CodeOf(err) == "TW-1204" {
				continue // it was never created, which is an answer too
			}
		} else {
			spec := &federation.Intention{Source: "a", Destination: "b", Action: federation.Deny, Description: strconv.Itoa(l.n)}
			_, err = client.ApplyResources(ctx, &admin.ChangeRequest{Owner: "test", Put: []federation.Resource{{Key: l.key(l.n), Spec: spec}}})
		}
		if err != nil {
			l.flying = l.n
			if !errors.Is(err, admin.ErrUnreachable) { // refused, and not killed
				l.refused = err
			}
			return
		}
		l.acked[l.n%killKeys] = signed(l.n)
		answered()
	}
}

// signed is n as the ledger notes it: negative for a deletion.
func signed(n int) int {
	if deletes(n) {
		return -n
	}
	return n
}

// lost lists the keys whose stored state is neither what was acknowledged last nor what was on its way at the kill. stored has
// the number of the write that each existing key shows.
func (l *ledger) lost(stored map[string]int) []string {
	var lost []string
	for key, acked := range l.acked {
		name := l.key(key).Name
		got, exists := stored[name]
		if !exists {
			got = 0
		}
		ok := got == max(acked, 0)
		if l.flying%killKeys == key && l.flying > 0 {
			ok = ok || got == max(signed(l.flying), 0)
		}
		if !ok {
			lost = append(lost, fmt.Sprintf("%s: acknowledged %d, stored %d, on its way %d", name, acked, got, l.flying))
		}
		if acked = got; got == 0 {
			acked = -1
		}
		l.acked[key] = acked // what is there now is what counts from now on
	}
	return lost
}

// TestKillUnderAdminWrites kills a gateway with SIGKILL at random moments while its admin API takes writes as fast as they come.
// After each restart every acknowledged write is there, and the peer sees a later life of the region than before.
func TestKillUnderAdminWrites(t *testing.T) {
	t.Parallel()
	s := stations(t, "aws", "gcp")
	aws, gcp := s[0], s[1]
	ledgers := make([]*ledger, killWriters)
	for i := range ledgers {
		ledgers[i] = &ledger{writer: i, acked: map[int]int{}}
	}
	before := epochAt(t, gcp, 0)
	rounds, lost := count("TRADEWIND_KILLS", 3), 0
	for round := range rounds {
		writeAndKill(t, aws, ledgers)
		if err := aws.Start(t.Context()); err != nil {
			t.Fatalf("round %d: it does not start again: %v", round, err)
		}
		stored := stored(t, aws)
		for _, l := range ledgers {
			if l.refused != nil {
				t.Fatalf("round %d: a write of writer %d was refused: %v", round, l.writer, l.refused)
			}
			for _, problem := range l.lost(stored) {
				lost++
				t.Errorf("round %d: %s", round, problem)
			}
			l.flying = 0
		}
		before = epochAt(t, gcp, before)
	}
	sent := 0
	for _, l := range ledgers {
		sent += l.n
	}
	t.Logf("kill -9 %d times under %d writes through the admin API: %d acknowledged writes lost", rounds, sent, lost)
}

// writeAndKill has all the writers write, and kills the gateway somewhere in between, after each has got its first answer.
func writeAndKill(t *testing.T, aws station, ledgers []*ledger) {
	t.Helper()
	var writers, begun sync.WaitGroup
	for _, l := range ledgers {
		begun.Add(1)
		writers.Go(func() { l.write(t.Context(), aws.client, sync.OnceFunc(begun.Done)) })
	}
	begun.Wait()
	moment := time.NewTimer(rand.N(400 * time.Millisecond))
	defer moment.Stop()
	<-moment.C
	aws.Kill()
	writers.Wait()
}

func stored(t *testing.T, s station) map[string]int {
	t.Helper()
	list, err := s.client.ListResources(t.Context(), &admin.ListResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, r := range list.Resources {
		spec, ok := r.Spec.(*federation.Intention)
		if !ok {
			t.Fatalf("%v is no intention", r.Key)
		}
		if out[r.Name], err = strconv.Atoi(spec.Description); err != nil {
			t.Fatalf("%v: %v", r.Key, err)
		}
	}
	return out
}

// epochAt waits until s has heard of a later life of aws than before, and returns its number.
func epochAt(t *testing.T, s station, before int) int {
	t.Helper()
	var epoch int
	err := world.Poll(t.Context(), 20*time.Second, func() error {
		p, err := s.client.PeerShow(t.Context(), &admin.PeerRequest{Peer: "aws"})
		if err != nil {
			return err
		}
		counter, _, _ := strings.Cut(p.Import.Epoch, ".")
		if epoch, err = strconv.Atoi(counter); err == nil && epoch <= before {
			err = fmt.Errorf("epoch %s of aws at %s is not after %d", p.Import.Epoch, s.Name, before)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}
