package agent

import "testing"

func TestNamesThatAreAlike(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"checkout", "chekout"}: true, {"checkout", "checkouts"}: true, {"checkout", "chcekout"}: true, {"checkout", "cart"}: false,
		{"checkout", "check"}: false, {"web", "wbe"}: false, {"web", "wev"}: true, {"a", "b"}: false, {"", "a"}: false, {"a", ""}: false,
		{"shop/web", "shop/wbe"}: true,
	} {
		if alike(pair[0], pair[1]) != want || alike(pair[1], pair[0]) != want && len(pair[0]) == len(pair[1]) {
			t.Errorf("%q is like %q: %v", pair[0], pair[1], !want)
		}
	}
}
