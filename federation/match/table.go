package match

import (
	"fmt"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Table finds the first of many rules that a request passes. What it costs to look does not grow with the number of rules whose
// paths differ. It is immutable and safe for any number of goroutines.
type Table struct {
	rules []entry
	root  node
}

// entry is one match of one rule.
type entry struct {
	rule int
	*Matcher
}

// node is a place in the tree of path segments. Its lists hold indexes of Table.rules in order.
type node struct {
	children map[string]*node
	any      *node // below a segment that may be anything
	here     []int // whole paths that end here
	below    []int // prefixes: paths that end here or go on
	rest     []int // templates that take all that follows
}

// fewLists is how many lists a lookup gathers before it allocates: a path of twenty segments with a rule at each, and templates beside.
const fewLists = 32

// NewTable compiles rules: rule i is passed by what passes any of rules[i], or by everything when that is empty.
func NewTable(rules [][]federation.HTTPMatch) (*Table, error) {
	t := &Table{}
	for i, matches := range rules {
		if len(matches) == 0 {
			matches = []federation.HTTPMatch{{}}
		}
		for _, m := range matches {
			c, err := Compile(m, Narrow)
			if err != nil {
				return nil, fmt.Errorf("rule %d: %w", i, err)
			}
			t.insert(len(t.rules), &c.path)
			t.rules = append(t.rules, entry{i, c})
		}
	}
	return t, nil
}

func (t *Table) insert(at int, p *path) {
	n := &t.root
	switch {
	case p.exact != "":
		n = n.walk(strings.Split(p.exact[1:], "/"))
		n.here = append(n.here, at)
	case p.prefix != "":
		n = n.walk(strings.Split(p.prefix[1:], "/"))
		n.below = append(n.below, at)
	case p.template != nil:
		segments := p.template
		if last := len(segments) - 1; segments[last] == theRest {
			n = n.walk(segments[:last])
			n.rest = append(n.rest, at)
			return
		}
		n = n.walk(segments)
		n.here = append(n.here, at)
	default:
		n.below = append(n.below, at)
	}
}

// walk returns the node at the end of segments, made where there is none.
func (n *node) walk(segments []string) *node {
	for _, s := range segments {
		var next *node
		if s == anySegment {
			if n.any == nil {
				n.any = &node{}
			}
			next = n.any
		} else {
			if n.children == nil {
				n.children = map[string]*node{}
			}
			if next = n.children[s]; next == nil {
				next = &node{}
				n.children[s] = next
			}
		}
		n = next
	}
	return n
}

// Find returns the number of the first rule that r passes, or -1.
func (t *Table) Find(r *Request) int {
	var space [fewLists][]int
	lists := t.root.gather(space[:0], r.Path)
	for {
		// The lists are few and each is in order: the smallest head is the next rule to ask.
		best := -1
		for i, l := range lists {
			if len(l) > 0 && (best < 0 || l[0] < lists[best][0]) {
				best = i
			}
		}
		if best < 0 {
			return -1
		}
		e := &t.rules[lists[best][0]]
		lists[best] = lists[best][1:]
		if e.Matches(r) {
			return e.rule
		}
	}
}

// gather appends the lists of all rules whose paths can match path, which starts at this node with a slash or is empty. It may gather
// too much, never too little: Find asks each matcher again.
func (n *node) gather(lists [][]int, path string) [][]int {
	if len(n.below) > 0 {
		lists = append(lists, n.below)
	}
	if path == "" {
		if len(n.here) > 0 {
			lists = append(lists, n.here)
		}
		return lists
	}
	if len(n.rest) > 0 {
		lists = append(lists, n.rest)
	}
	segment, after := path[1:], ""
	if i := strings.IndexByte(segment, '/'); i >= 0 {
		segment, after = segment[:i], segment[i:]
	}
	if next := n.children[segment]; next != nil {
		lists = next.gather(lists, after)
	}
	if n.any != nil && segment != "" {
		lists = n.any.gather(lists, after)
	}
	return lists
}
