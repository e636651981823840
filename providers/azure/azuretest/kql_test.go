package azuretest

import (
	"fmt"
	"strings"
	"testing"
)

// TestQueries: what each operator does, after the examples of the language's reference, and what is refused.
func TestQueries(t *testing.T) {
	data := tables{"a": {{"id": "1", "n": "X", "p": object{"q": []any{"u", "v"}}}, {"id": "2", "n": "y", "p": nil}},
		"b": {{"of": "1", "w": 7.0}, {"of": "1", "w": 8.0}}}
	for query, want := range map[string]string{
		"a | where n =~ 'x' | project id":                                                      "[map[id:1]]",
		"a | where n in~ ('x', 'Y') and id !in~ ('2') | project id":                            "[map[id:1]]",
		"a | where isnotempty(p.q) | project first = tostring(p.q[0]), none = p.q[9]":          "[map[first:u none:<nil>]]",
		"a | extend m = strcat(id, n) | where m contains '1x' | project m":                     "[map[m:1X]]",
		"a | project id, s = split('k/l', '/')[1] | order by id asc":                           "[map[id:1 s:l] map[id:2 s:l]]",
		"a | project k = id | join kind=leftouter (b | project k = of_, w) on k":               "error: there is no column of_",
		"a | project k = id | join kind=leftouter (b | summarize l = make_list(w) by of) on k": "error: \"of\" where a name",
		"a | project id, z = coalesce(p.r, n) | summarize c = count() by id":                   "[map[c:1 id:1] map[c:1 id:2]]",
		"a | project set = id":                 "error: \"set\" where a name",
		"a | take 5":                           "error: operator take",
		"a | project x = rand()":               "error: function rand",
		"c":                                    "error: there is no table c",
		"a | where id == 1":                    "error: \"=\" where",
		"a | project id | where n =~ 'x'":      "error: there is no column n",
		"a | where n =~ 'it\\'s' | project id": "[]",
		"a | project id = 'x'; drop":           "error: unexpected \";",
		"a | project id | join kind=leftouter (b | where w =~ 'none' | project id = w, w) on id":    "[map[id:1 w:<nil>] map[id:2 w:<nil>]]",
		"a | where id =~ '1' | project id, n | join kind=leftouter (b | project id = '1', w) on id": "[map[id:1 n:X w:7] map[id:1 n:X w:8]]",
	} {
		rows, err := data.run(query)
		got := fmt.Sprint(rows)
		if err != nil {
			got = "error: " + strings.TrimPrefix(err.Error(), "query: ")
		}
		if got != want && !(err != nil && strings.HasPrefix(got, want)) {
			t.Errorf("%s\n gives %s\n want  %s", query, got, want)
		}
	}
}
