package federation

import (
	"testing"
	"time"
)

func TestShareOfADrainedRegion(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	d := &Drain{Since: at, Until: at.Add(time.Hour)}
	for after, want := range map[time.Duration]float64{
		0: 0, time.Hour - 1: 0, time.Hour: 0.1, time.Hour + 2*time.Second: 0.2, time.Hour + 4*time.Second: 0.4, time.Hour + 7*time.Second: 0.8,
		time.Hour + ReturnTakes: 1, 1000 * time.Hour: 1,
	} {
		if got := d.Share(at.Add(after)); got != want {
			t.Errorf("after %v the share is %v, want %v", after, got, want)
		}
	}
	if got := (&Drain{Since: at}).Share(at.Add(1000 * time.Hour)); got != 0 {
		t.Errorf("a drain without an end leaves %v", got)
	}
	if got := (*Drain)(nil).Share(at); got != 1 {
		t.Errorf("no drain leaves %v", got)
	}
	for name, bad := range map[string]*Drain{"local": {}, "UPPER": {}, "aws": {Since: at, Until: at.Add(-1)}} {
		if bad.Validate(name) == nil {
			t.Errorf("drain %q %+v is taken to be valid", name, bad)
		}
	}
}
