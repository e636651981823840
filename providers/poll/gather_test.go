package poll

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"pgregory.net/rapid"
)

// TestGatheringIsAMap: whatever is added, spoilt and dropped, each ID is there once, with what was said of it last.
func TestGatheringIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Gathering[int]
		want, order := map[string]int{}, []string{}
		for n := range rapid.IntRange(0, 40).Draw(t, "steps") {
			id := rapid.StringMatching(`[a-f]`).Draw(t, "id")
			if _, has := want[id]; !has {
				order = append(order, id)
			}
			want[id] = n
			if err := g.Add(id, n); err != nil {
				t.Fatal(err)
			}
		}
		var values []int
		for _, id := range order {
			values = append(values, want[id])
			if at := g.Get(id); at == nil || *at != want[id] {
				t.Fatalf("%s is %v, want %d", id, at, want[id])
			}
		}
		if !slices.Equal(g.Found, values) || g.Get("z") != nil {
			t.Fatalf("found %v, want %v", g.Found, values)
		}
	})
}

func TestGatheringHasAnEnd(t *testing.T) {
	g := Gathering[int]{Found: make([]int, MaxGathered)}
	if g.Add("one", 1) == nil || g.Spoilt("one", errors.New("bad")) == nil {
		t.Error("there is room for more than the limit")
	}
}

func TestPagesEnd(t *testing.T) {
	n := 0
	err := Pages(func(string) (string, error) { n++; return fmt.Sprint(n), nil })
	if !errors.Is(err, ErrLoop) || n != MaxPages+1 {
		t.Errorf("pages without end were read %d times, %v", n, err)
	}
}

func TestAddressesByType(t *testing.T) {
	var s AddressSet
	err := errors.Join(s.Private.Add("10.0.0.1"), s.Private.Add("10.0.0.1"), s.Private.Add(""),
		s.V6.Add("fd00::1%eth0"), s.Public.Add("::ffff:192.0.2.1"))
	public, private, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	if got := s.InOrder(PublicV4); err != nil || !slices.Equal(got, []netip.Addr{public, private, six}) {
		t.Errorf("addresses are %v, %v", got, err)
	}
	if s.Private.Add("not-an-address") == nil {
		t.Error("an address that is none was added")
	}
}

// TestBoundedBody: nothing beyond the limit is read.
func TestBoundedBody(t *testing.T) {
	body := &boundedBody{endless{}, 10, 10}
	n, buf := 0, make([]byte, 4)
	for {
		m, err := body.Read(buf)
		if n += m; err != nil {
			break
		}
	}
	if n != 8 {
		t.Errorf("%d bytes of an endless body were read, want those of 10 that came whole", n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

func TestWorse(t *testing.T) {
	order := []federation.Health{federation.HealthPassing, federation.HealthUnknown, federation.HealthDraining, federation.HealthFailing}
	for i, a := range order {
		for j, b := range order {
			if got, want := Worse(a, b), order[max(i, j)]; got != want {
				t.Errorf("worse of %v and %v is %v, want %v", a, b, got, want)
			}
		}
	}
}
