package federation

import (
	"regexp"
	"testing"
)

func TestCodesAreUniqueAndExplained(t *testing.T) {
	seen := map[Code]bool{}
	form := regexp.MustCompile(`^TW-[1-8][0-9]{3}$`)
	for _, h := range AllHelp() {
		if !form.MatchString(string(h.Code)) {
			t.Errorf("code %q has not the form TW-1234", h.Code)
		}
		if seen[h.Code] {
			t.Errorf("code %s is explained twice", h.Code)
		}
		seen[h.Code] = true
		if h.Title == "" || h.Text == "" {
			t.Errorf("code %s lacks a title or a text", h.Code)
		}
	}
}
