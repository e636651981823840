package admin

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A peer chooses some of the text that ends up on an operator's terminal: names it exports, reasons it gives. Control
// characters in it could move the cursor, recolour or retitle the terminal, and bidirectional overrides could make a line read as
// another. The client replaces them, so that every program that shows an answer is safe.

// unsafeRune reports whether r must not reach a terminal. Line feed and tab may.
func unsafeRune(r rune) bool {
	switch {
	case r == '\n', r == '\t':
		return false
	case unicode.IsControl(r), r == '\u2028', r == '\u2029':
		return true
	}
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// clean returns s with every unsafe character replaced.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unsafeRune(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// cleanJSON does to every string of a JSON document what clean does to one, before it is decoded: such a character stands in
// it as itself or as an escape "\u001b". The document's own line feeds and tabs stay; a carriage return becomes a space.
func cleanJSON(b []byte) []byte {
	s := strings.ReplaceAll(string(b), "\r", " ")
	var out strings.Builder
	out.Grow(len(s))
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			out.WriteString(clean(s))
			return []byte(out.String())
		}
		out.WriteString(clean(s[:i]))
		n := 2 // an escape is two characters, but for \uXXXX
		escape := s[i : i+2]
		switch escape[1] {
		case 'b', 'f', 'r':
			escape = `\ufffd`
		case 'u':
			if len(s) >= i+6 {
				n = 6
				escape = s[i : i+6]
				if r, err := strconv.ParseUint(escape[2:], 16, 32); err == nil && unsafeRune(rune(r)) {
					escape = `\ufffd`
				}
			}
		}
		out.WriteString(escape)
		s = s[i+n:]
	}
}
