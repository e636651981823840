package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestTheLastHealthyEndpointOfALargeServiceIsHeld(t *testing.T) {
	var slots, idle []federation.ExportedSlot
	for i := range 5 {
		slots = append(slots, slot(fmt.Sprintf("i-%d", i), 1, 1))
	}
	for i := range 50 {
		idle = append(idle, slot(fmt.Sprintf("j-%02d", i), 1, 1))
	}
	v := newVictim(t, Limits{}, exported("idle", idle...), exported("web", slots...))
	for i := range 5 {
		v.get(LaneHealth, statementOf("web", uint64(100+i), byte(i), 1, 0, 1))
	}
	if healthy, _ := v.imp.Service(name("web")).Lane.Sum(); healthy != 1 || !slices.Contains(v.alarms(), DiagBrake) {
		t.Errorf("%d are healthy, alarms %v", healthy, v.alarms())
	}
	// Only that service is held: a death elsewhere is seen at once.
	v.get(LaneHealth, statementOf("idle", 200, 3, 1, 0, 1))
	if h := v.imp.Service(name("idle")).Lane.Load(3); h.Healthy != 0 {
		t.Error("the death of another instance was held")
	}
	v.take(v.m.Tick(v.now.Add(brakeHold)))
	if healthy, _ := v.imp.Service(name("web")).Lane.Sum(); healthy != 0 {
		t.Error("after a minute it is still held")
	}
}

func TestSlowDeathsAreNotHeld(t *testing.T) {
	v := newVictim(t, Limits{}, sixfold())
	for i := range 6 {
		v.now = v.now.Add(4 * time.Second)
		v.get(LaneHealth, statementOf("web", uint64(100+i), byte(i), 1, 0, 1))
	}
	if healthy, _ := v.imp.Service(name("web")).Lane.Sum(); healthy != 0 {
		t.Errorf("%d are healthy, alarms %v", healthy, v.alarms())
	}
}

func TestTheBrakeDoesNotBringBackWhatWasWithdrawn(t *testing.T) {
	v := newVictim(t, Limits{}, sixfold())
	v.get(LaneUrgent, frame(kindWithdraw, appendGone(nil, "web", 2)))
	v.get(LaneMembership, deltaOf(1, 1, 3, row(4, "web", 3, 1, "g"))) // exported anew, as something else
	v.now = v.now.Add(time.Second)
	v.take(v.m.Tick(v.now))
	if got := describeServices(v.imp); got != " web(g)" {
		t.Errorf("west has%s", got)
	}
}

func TestAHoldEndsWithTheWithdrawal(t *testing.T) {
	v := newVictim(t, Limits{}, sixfold())
	v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "web", 2, 1, "g"))) // held
	if len(v.m.brake.held) != 1 {
		t.Fatal("the brake does not hold it")
	}
	v.get(LaneUrgent, frame(kindWithdraw, appendGone(nil, "web", 3)))
	v.get(LaneMembership, deltaOf(1, 2, 4, row(4, "web", 4, 1, "g"))) // withdrawn and exported anew, as it was
	v.now = v.now.Add(time.Second)
	v.take(v.m.Tick(v.now))
	if got := describeServices(v.imp); got != " web(g)" {
		t.Errorf("west has%s", got)
	}
}

func TestASweepDoesNotBringBackWhatWasWithdrawn(t *testing.T) {
	v := newVictim(t, Limits{}, sixfold())
	e := federation.Epoch{Counter: 2}
	v.take(v.m.Connected(v.now))
	v.get(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: e, window: 4}.frame())
	v.get(LaneUrgent, frame(kindWithdraw, appendGone(nil, "web", 2)))
	v.get(LaneBulk, begin{sub: 1, mode: modeSnapshot}.frame())
	v.get(LaneBulk, barrier{sub: 1, cursor: Cursor{Epoch: e, Seq: 9}}.frame())
	v.now = v.now.Add(time.Second)
	v.take(v.m.Tick(v.now))
	if got := describeServices(v.imp); got != " no services" || v.m.imp.applied.Seq != 9 {
		t.Errorf("west has%s at %v", got, v.m.imp.applied)
	}
}

// An endpoint that goes down and up again five times has not been lost five times.
func TestWhatComesBackIsNotLost(t *testing.T) {
	b, r := newBrake(), &importRow{lost: 4}
	b.gain(time.Unix(1000, 0), r, 3)
	if r.lost != 1 {
		t.Errorf("of 4 endpoints lost 3 came back and %d count as lost, want 1", r.lost)
	}
	b.gain(time.Unix(1000, 0), r, 5)
	if r.lost != 0 {
		t.Errorf("more came back than was lost, and %d count as lost", r.lost)
	}
}
