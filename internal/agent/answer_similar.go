package agent

import (
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// whatThereIs is what to do about a service that nobody has: the names that are like it, and where all are listed.
func (a *Agent) whatThereIs(wanted federation.ServiceName) string {
	const all = "see what there is: tradewind services list"
	view := a.plane.View()
	names := slices.Clone(view.Local.Names())
	for _, peer := range view.Imports {
		for name := range peer.Services {
			names = append(names, name)
		}
	}
	var like []string
	for _, name := range names {
		if text := name.String(); name != wanted && !slices.Contains(like, text) && alike(text, wanted.String()) {
			like = append(like, text)
		}
	}
	if len(like) == 0 || slices.Contains(names, wanted) {
		return all
	}
	slices.Sort(like)
	return "did you mean " + strings.Join(like[:min(3, len(like))], " or ") + "? " + all
}

// alike reports whether a becomes b by at most two slips of the pen: an octet too many, too few or wrong (Levenshtein's distance).
func alike(a, b string) bool {
	const slips = 2
	if len(a)-len(b) > slips || len(b)-len(a) > slips {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			wrong := diagonal
			if a[i] != b[j] {
				wrong++
			}
			diagonal, row[j+1] = row[j+1], min(wrong, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)] <= min(slips, len(b)/2)
}
