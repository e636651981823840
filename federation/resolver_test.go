package federation_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestDefaultsOfAResolver(t *testing.T) {
	r := federation.Resolver{}.Defaulted()
	if r.Balance != federation.BalanceLatency || r.Affinity != nil || r.Limits != (federation.Limits{}) ||
		r.Outlier.SuccessRate != 0 ||
		r.Outlier.ConsecutiveServerErrors != 5 || r.Outlier.PanicPercent != 0 || r.RetryBudget.Percent != 20 ||
		r.RetryBudget.Minimum.String() != "10/s" {
		t.Errorf("%+v", r)
	}
	own := federation.Resolver{Balance: federation.BalanceMaglev, Limits: federation.Limits{Requests: 10},
		Outlier:     federation.Outlier{SuccessRate: 1.9},
		RetryBudget: federation.RetryBudget{Minimum: federation.Rate{Per: time.Second}},
		RateLimits:  []federation.RateLimit{{Per: federation.PerCaller, Rate: federation.Rate{Count: 100, Per: time.Minute}}}}
	r = own.Defaulted()
	if r.Affinity == nil || !r.Affinity.Source || r.Limits.Pending != 1024 || r.Outlier.SuccessRateHosts != 5 ||
		r.RateLimits[0].Burst != 100 ||
		r.RetryBudget.Minimum.Count != 0 {
		t.Errorf("%+v", r)
	}
	if own.RateLimits[0].Burst != 0 || own.Affinity != nil {
		t.Error("the defaults were written into the resource")
	}
	if again := r.Defaulted(); !reflect.DeepEqual(r, again) {
		t.Errorf("%+v became %+v", r, again)
	}
}

func TestResolverSurvivesJSON(t *testing.T) {
	in := federation.Resolver{RetryBudget: federation.RetryBudget{Percent: 5}, Affinity: &federation.Affinity{Cookie: "a"},
		RateLimits: []federation.RateLimit{{Per: federation.PerService, Rate: federation.Rate{Count: 5, Per: time.Hour}}}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out federation.Resolver
	if err := json.Unmarshal(b, &out); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%s was read as %+v, %v", b, out, err)
	}
	if b, _ := json.Marshal(federation.Resolver{}); string(b) != "{}" {
		t.Errorf("an empty resolver is %s", b)
	}
}

func TestSubsetHolds(t *testing.T) {
	s := federation.Subset{Labels: map[string]string{"version": "2", "tier": ""}}
	for _, c := range []struct {
		labels map[string]string
		want   bool
	}{
		{nil, false},
		{map[string]string{"version": "2"}, false},
		{map[string]string{"version": "1", "tier": ""}, false},
		{map[string]string{"version": "2", "tier": "", "zone": "a"}, true},
	} {
		if got := s.Holds(c.labels); got != c.want {
			t.Errorf("%v: %v", c.labels, got)
		}
	}
}

func TestRateNeverRoundsUp(t *testing.T) {
	for _, r := range []federation.Rate{{Count: 3, Per: time.Second}, {Count: 7, Per: time.Minute}, {Count: 10_000_000, Per: time.Second}} {
		if every := r.Every(); every*time.Duration(r.Count) < r.Per {
			t.Errorf("%v: one every %v is more", r, every)
		}
	}
}

func FuzzRate(f *testing.F) {
	f.Add([]byte("100/s"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again federation.Rate
		if r.UnmarshalText(b) != nil {
			return
		}
		text, _ := r.MarshalText()
		if err := again.UnmarshalText(text); err != nil || again != r {
			t.Fatalf("%q is %+v, which is written %q and read as %+v, %v", b, r, text, again, err)
		}
	})
}
