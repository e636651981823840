package http1

import "strings"

// canonical maps an octet of a field name to the one that it is in canonical form (textproto.CanonicalMIMEHeaderKey): at the
// start of a word, and inside one. 0: no octet of a token (RFC 9110 5.6.2).
var canonical = func() (c [2][256]byte) {
	for i := range 256 {
		b := byte(i)
		lower, upper := 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z'
		if !lower && !upper && !('0' <= b && b <= '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(i)) {
			continue
		}
		c[inWord][i], c[wordStart][i] = b, b
		if lower {
			c[wordStart][i] = b - 'a' + 'A'
		}
		if upper {
			c[inWord][i] = b - 'A' + 'a'
		}
	}
	return c
}()

const (
	inWord    = 0
	wordStart = 1
)

// What an octet may be in a request target (RFC 3986).
const (
	pathChar   = 1 << iota // pchar and "/", without "%"
	unreserved             // needs no escape, so that an escaped one says the same
	quirk                  // a pchar that net/url would escape
	hostChar               // reg-name, as far as it is in use
	queryChar              // what is seen in queries: VCHAR, but neither "#" nor "%"
)

var class = func() (c [256]uint8) {
	for i := '!'; i <= '~'; i++ {
		if i != '#' && i != '%' {
			c[i] |= queryChar
		}
		letter := 'a' <= i|0x20 && i|0x20 <= 'z' || '0' <= i && i <= '9'
		if letter || strings.ContainsRune("-._~", i) {
			c[i] |= unreserved | pathChar | hostChar
		}
		if strings.ContainsRune("!$&'()*+,;=:@/", i) {
			c[i] |= pathChar
		}
		if strings.ContainsRune("!'()*", i) {
			c[i] |= quirk
		}
	}
	return c
}()

func isToken[T string | []byte](s T) bool {
	for i := range len(s) {
		if canonical[inWord][s[i]] == 0 {
			return false
		}
	}
	return len(s) > 0
}

// isCanonicalName reports whether s is a field name in canonical form.
func isCanonicalName(s string) bool {
	at := wordStart
	for i := range len(s) {
		if c := s[i]; canonical[at][c] != c || c == 0 {
			return false
		}
		at = inWord
		if s[i] == '-' {
			at = wordStart
		}
	}
	return len(s) > 0
}

// isText reports whether s has no control character but HTAB: what a field value or a reason phrase may be (RFC 9110 5.5).
func isText[T string | []byte](s T) bool {
	const ones = 0x0101010101010101
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		del := x ^ 0x7f*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&(0x80*ones) != 0 && !isTextSlow(s[i:i+8]) { // an octet below 0x20, or 0x7f
			return false
		}
	}
	return isTextSlow(s[i:])
}

func isTextSlow[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// trim cuts optional white space (RFC 9110 5.6.3) off both ends of b[from:to].
func trim(b []byte, from, to int) (int, int) {
	for from < to && (b[from] == ' ' || b[from] == '\t') {
		from++
	}
	for from < to && (b[to-1] == ' ' || b[to-1] == '\t') {
		to--
	}
	return from, to
}

// lower is an ASCII letter in lower case, and any other octet unchanged.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// equalFold compares without regard to the case of ASCII letters; b is in lower case. Unicode's folding would take the Kelvin
// sign for a k.
func equalFold[T string | []byte](a T, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != b[i] {
			return false
		}
	}
	return true
}

// unhex returns the value of a hexadecimal digit, or 16 and more.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

const upperHex = "0123456789ABCDEF"
