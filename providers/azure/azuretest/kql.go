package azuretest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The part of the Kusto query language that providers/azure speaks, after
// https://learn.microsoft.com/azure/governance/resource-graph/concepts/query-language.

// tables are the rows to query, by the table's name in lower case.
type tables map[string][]object

var tokenForm = regexp.MustCompile(`^(?:\s+|'(?:[^'\\]|\\.)*'|[A-Za-z_]\w*|\d+|!in~|=~|[()|,.=\[\]~])`)

// run runs a query.
func (t tables) run(query string) ([]object, error) {
	p := &parser{tables: t}
	for rest := query; rest != ""; {
		token := tokenForm.FindString(rest)
		if token == "" {
			return nil, fmt.Errorf("query: unexpected %.20q", rest)
		}
		rest = rest[len(token):]
		if token = strings.TrimSpace(token); token != "" {
			p.tokens = append(p.tokens, token)
		}
	}
	rows := p.query()
	if p.peek() != "" {
		p.fail("an end")
	}
	return rows, p.err
}

type parser struct {
	tables  tables
	tokens  []string
	columns []string // of the last project or summarize: they are there without rows too
	err     error    // the first; nothing is left to read after it
}

// expression is computed for each row.
type expression func(object) any

func (p *parser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

// reserved are words that are no names of columns; Kusto has more of them.
var reserved = map[string]bool{"set": true, "let": true, "by": true, "on": true, "and": true, "or": true, "of": true, "with": true}

// name takes the name of a column.
func (p *parser) name() string {
	if reserved[p.peek()] {
		p.fail("a name")
	}
	return p.next()
}

func (p *parser) next() string {
	token := p.peek()
	p.tokens = p.tokens[min(1, len(p.tokens)):]
	return token
}

func (p *parser) fail(want string) { p.refuse("%q where %s is expected", p.peek(), want) }

// refuse ends the query.
func (p *parser) refuse(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("query: "+format, args...)
	}
	p.tokens = nil
}

func (p *parser) expect(tokens ...string) {
	for _, want := range tokens {
		if p.peek() != want {
			p.fail(want)
		}
		p.next()
	}
}

// accept takes a token if it is there.
func (p *parser) accept(token string) bool {
	if p.peek() != token {
		return false
	}
	p.next()
	return true
}

func (p *parser) query() []object {
	name := p.next()
	source, known := p.tables[name]
	if !known {
		p.refuse("there is no table %s", name)
	}
	rows := make([]object, 0, len(source))
	for _, r := range source {
		c := object{}
		for k, v := range r {
			c[k] = v
		}
		rows = append(rows, c)
	}
	for p.accept("|") {
		switch operator := p.next(); operator {
		case "where":
			rows = p.where(rows)
		case "extend", "project":
			rows = p.project(rows, operator == "extend")
		case "join":
			rows = p.join(rows)
		case "summarize":
			rows = p.summarize(rows)
		case "order":
			p.expect("by")
			by := p.name()
			p.expect("asc")
			slices.SortStableFunc(rows, func(a, b object) int { return cmp.Compare(toString(a[by]), toString(b[by])) })
		default:
			p.refuse("operator %s is not known here", operator)
		}
	}
	return rows
}

func (p *parser) where(rows []object) []object {
	for {
		holds := p.predicate()
		rows = slices.DeleteFunc(rows, func(r object) bool { return !holds(r) })
		if !p.accept("and") {
			return rows
		}
	}
}

func (p *parser) predicate() func(object) bool {
	left := p.expression()
	switch p.peek() {
	case "=~":
		p.next()
		right := p.expression()
		return func(r object) bool { return strings.EqualFold(toString(left(r)), toString(right(r))) }
	case "contains":
		p.next()
		right := p.expression()
		return func(r object) bool {
			return strings.Contains(strings.ToLower(toString(left(r))), strings.ToLower(toString(right(r))))
		}
	case "in", "!in~":
		not := p.next() == "!in~"
		if !not {
			p.expect("~")
		}
		list := p.arguments()
		return func(r object) bool {
			return not != slices.ContainsFunc(list, func(e expression) bool { return strings.EqualFold(toString(e(r)), toString(left(r))) })
		}
	}
	return func(r object) bool { return left(r) == true }
}

// project computes columns, and keeps the others too when it extends.
func (p *parser) project(rows []object, extend bool) []object {
	type column struct {
		name  string
		value expression
	}
	var columns []column
	for {
		name := p.name()
		c := column{name, func(r object) any {
			v, known := r[name]
			if !known {
				p.refuse("there is no column %s", name)
			}
			return v
		}}
		if p.accept("=") {
			c.value = p.expression()
		}
		columns = append(columns, c)
		if !p.accept(",") {
			break
		}
	}
	if !extend {
		p.columns = nil
		for _, c := range columns {
			p.columns = append(p.columns, c.name)
		}
	}
	for i, r := range rows {
		out := object{}
		if extend {
			out = r
		}
		for _, c := range columns {
			out[c.name] = c.value(r)
		}
		rows[i] = out
	}
	return rows
}

func (p *parser) join(rows []object) []object {
	p.expect("kind", "=", "leftouter", "(")
	right := p.query()
	p.expect(")", "on")
	on := p.name()
	columns := p.columns
	by := map[string][]object{}
	for _, r := range right {
		by[toString(r[on])] = append(by[toString(r[on])], r)
	}
	var out []object
	for _, l := range rows {
		matches := by[toString(l[on])]
		if len(matches) == 0 {
			matches = []object{{}}
		}
		for _, m := range matches {
			joined := object{}
			for _, k := range columns {
				joined[k] = m[k]
			}
			for k, v := range l {
				joined[k] = v
			}
			out = append(out, joined)
		}
	}
	return out
}

func (p *parser) summarize(rows []object) []object {
	name := p.name()
	p.expect("=")
	function := p.next()
	arguments := p.arguments()
	p.expect("by")
	by := p.name()
	p.columns = []string{name, by}
	groups := map[string]object{}
	var order []string
	for _, r := range rows {
		key := toString(r[by])
		if groups[key] == nil {
			groups[key] = object{by: r[by], name: any(nil)}
			order = append(order, key)
		}
		switch function {
		case "make_list":
			if len(arguments) != 1 {
				p.refuse("make_list has %d arguments", len(arguments))
				return nil
			}
			list, _ := groups[key][name].([]any)
			groups[key][name] = append(list, arguments[0](r))
		case "count":
			n, _ := groups[key][name].(int)
			groups[key][name] = n + 1
		default:
			p.refuse("aggregate %s is not known here", function)
		}
	}
	out := make([]object, 0, len(order))
	for _, key := range order {
		out = append(out, groups[key])
	}
	return out
}

// arguments reads a list in parentheses.
func (p *parser) arguments() (list []expression) {
	p.expect("(")
	for p.err == nil && !p.accept(")") {
		list = append(list, p.expression())
		if p.err == nil && p.peek() != ")" {
			p.expect(",")
		}
	}
	return list
}

func (p *parser) expression() expression {
	e := p.primary()
	for {
		switch {
		case p.err != nil:
			return nothing
		case p.accept("."):
			of, key := e, p.next()
			e = func(r object) any { bag, _ := of(r).(object); return bag[key] }
		case p.accept("["):
			of, index := e, 0
			_, _ = fmt.Sscan(p.next(), &index)
			p.expect("]")
			e = func(r object) any {
				list, _ := of(r).([]any)
				if index >= len(list) {
					return nil
				}
				return list[index]
			}
		default:
			return e
		}
	}
}

var unescaped = strings.NewReplacer(`\\`, `\`, `\'`, `'`)

func (p *parser) primary() expression {
	token := p.next()
	if token == "" {
		p.fail("an expression")
		return nothing
	}
	if token[0] == '\'' {
		text := unescaped.Replace(token[1 : len(token)-1])
		return func(object) any { return text }
	}
	if p.peek() != "(" {
		return func(r object) any {
			v, known := r[token]
			if !known {
				p.refuse("there is no column %s", token)
			}
			return v
		}
	}
	function, known := functions[token]
	if !known {
		p.refuse("function %s is not known here", token)
	}
	arguments := p.arguments()
	if len(arguments) < least[token] {
		p.refuse("function %s has %d arguments", token, len(arguments))
	}
	if p.err != nil {
		return nothing
	}
	return func(r object) any {
		values := make([]any, 0, len(arguments))
		for _, a := range arguments {
			values = append(values, a(r))
		}
		return function(values)
	}
}

// nothing is the expression after an error.
func nothing(object) any { return nil }

// least is how many arguments the functions have at least.
var least = map[string]int{"tolower": 1, "tostring": 1, "isnotempty": 1, "split": 2}

var functions = map[string]func([]any) any{
	"tolower":    func(v []any) any { return strings.ToLower(toString(v[0])) },
	"tostring":   func(v []any) any { return toString(v[0]) },
	"isnotempty": func(v []any) any { return toString(v[0]) != "" },
	"strcat": func(v []any) any {
		var b strings.Builder
		for _, s := range v {
			b.WriteString(toString(s))
		}
		return b.String()
	},
	"split": func(v []any) any {
		var list []any
		for _, s := range strings.Split(toString(v[0]), toString(v[1])) {
			list = append(list, s)
		}
		return list
	},
	"coalesce": func(v []any) any {
		for _, e := range v {
			if toString(e) != "" {
				return e
			}
		}
		return nil
	},
	"pack": func(v []any) any {
		bag := object{}
		for i := 0; i+1 < len(v); i += 2 {
			bag[toString(v[i])] = v[i+1]
		}
		return bag
	},
}

func toString(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	raw, _ := json.Marshal(v)
	return string(raw)
}
