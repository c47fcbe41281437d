package filter

import (
	"fmt"
	"net/netip"
	"strings"
)

// tokenKind classifies tokens.
type tokenKind uint8

const (
	tEOF  tokenKind = iota
	tNum            // value
	tIP4            // text: one to four decimal parts with dots (at least two)
	tIP6            // addr
	tMAC            // mac
	tName           // a word that is no keyword, or an escaped one
	tWord           // a keyword
	tOp             // text
)

// token is one lexeme.
type token struct {
	kind  tokenKind
	pos   int
	text  string
	value uint32
	addr  [16]byte
	mac   [6]byte
	word  word
}

// String names a token for error messages.
func (t token) String() string {
	if t.kind == tEOF {
		return "the end of the filter"
	}
	if len(t.text) > 40 {
		return fmt.Sprintf("%q...", t.text[:40])
	}
	return fmt.Sprintf("%q", t.text)
}

// lexer cuts the text into tokens as libpcap's scanner does: always the longest match.
type lexer struct {
	src string
	pos int
}

func (l *lexer) fail(pos int, hint, format string, args ...any) *SyntaxError {
	return &SyntaxError{Expr: l.src, Pos: pos, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isHex(c byte) bool   { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

// next returns the next token.
func (l *lexer) next() (token, *SyntaxError) {
	for l.pos < len(l.src) && strings.IndexByte(" \t\r\n", l.src[l.pos]) >= 0 {
		l.pos++
	}
	start := l.pos
	if start == len(l.src) {
		return token{kind: tEOF, pos: start}, nil
	}
	rest := l.src[start:]
	c := rest[0]
	if c == '\\' {
		n := 1
		for n < len(rest) && strings.IndexByte(" !()\n\t", rest[n]) < 0 {
			n++
		}
		if n == 1 {
			return token{}, l.fail(start, "a name follows the backslash, as in ip proto \\tcp", "backslash without a name")
		}
		l.pos += n
		return token{kind: tName, pos: start, text: rest[1:n]}, nil
	}
	if t, ok, err := l.address(start, rest); ok || err != nil {
		return t, err
	}
	if isAlnum(c) {
		return l.wordOrNumber(start, rest)
	}
	for _, op := range [...]string{">=", "<=", "!=", "==", "<<", ">>", "&&", "||"} {
		if strings.HasPrefix(rest, op) {
			l.pos += 2
			return token{kind: tOp, pos: start, text: op}, nil
		}
	}
	if strings.IndexByte("+-*/%:[]!<>()&|^=,", c) >= 0 {
		l.pos++
		return token{kind: tOp, pos: start, text: rest[:1]}, nil
	}
	if c == '"' || c == '\'' {
		return token{}, l.fail(start, "write the filter without quotes", "quotes are not part of the language")
	}
	return token{}, l.fail(start, "", "character %q is not part of the language", []rune(rest[:min(4, len(rest))])[0])
}

// address recognises what is written with colons: MAC and IPv6 addresses.
func (l *lexer) address(start int, rest string) (token, bool, *SyntaxError) {
	n, colons := 0, 0
	for n < len(rest) && (isHex(rest[n]) || rest[n] == ':' || rest[n] == '.') {
		if rest[n] == ':' {
			colons++
		}
		n++
	}
	s := rest[:n]
	if colons == 0 || colons < 5 && !strings.Contains(s, "::") {
		return token{}, false, nil
	}
	l.pos += n
	if mac, ok := parseMAC(s, ':'); ok {
		return token{kind: tMAC, pos: start, text: s, mac: mac}, true, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return token{kind: tIP6, pos: start, text: s, addr: a.As16()}, true, nil
	}
	if strings.Contains(s, "::") || colons >= 6 {
		return token{}, false, l.fail(start, "eight groups of up to four hexadecimal digits, one run of zeroes as ::",
			"%q is not an IPv6 address", clip(s))
	}
	return token{}, false, l.fail(start, "six groups of one or two hexadecimal digits", "%q is not an Ethernet address", clip(s))
}

// parseMAC reads six groups of one or two hexadecimal digits.
func parseMAC(s string, sep byte) (mac [6]byte, ok bool) {
	i := 0
	for g := range mac {
		n := 0
		for i < len(s) && isHex(s[i]) {
			mac[g] = mac[g]<<4 | hexValue(s[i])
			i++
			n++
		}
		if n == 0 || n > 2 {
			return mac, false
		}
		if g < 5 {
			if i >= len(s) || s[i] != sep {
				return mac, false
			}
			i++
		}
	}
	return mac, i == len(s)
}

func hexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// plainMAC reads aabbccddeeff and aabb.ccdd.eeff.
func plainMAC(s string) (mac [6]byte, ok bool) {
	if len(s) == 14 && s[4] == '.' && s[9] == '.' {
		s = s[:4] + s[5:9] + s[10:]
	}
	if len(s) != 12 {
		return mac, false
	}
	for i := range 12 {
		if !isHex(s[i]) {
			return mac, false
		}
		mac[i/2] = mac[i/2]<<4 | hexValue(s[i])
	}
	return mac, true
}

// wordOrNumber reads letters, digits, dots, dashes and underscores.
func (l *lexer) wordOrNumber(start int, rest string) (token, *SyntaxError) {
	n := 1
	for n < len(rest) && (isAlnum(rest[n]) || rest[n] == '-' || rest[n] == '_' || rest[n] == '.') {
		n++
	}
	for n > 1 && (rest[n-1] == '-' || rest[n-1] == '_') {
		n--
	}
	s := rest[:n]
	l.pos += n
	t := token{pos: start, text: s}
	if w, ok := words[s]; ok {
		t.kind, t.word = tWord, w
		return t, nil
	}
	if mac, ok := plainMAC(s); ok {
		t.kind, t.mac = tMAC, mac
		return t, nil
	}
	for _, sep := range [...]byte{'-', '.'} {
		if mac, ok := parseMAC(s, sep); ok {
			t.kind, t.mac = tMAC, mac
			return t, nil
		}
	}
	if dots, ok := dottedNumbers(s); ok && dots <= 3 {
		if dots > 0 {
			t.kind = tIP4
			return t, nil
		}
		v, msg := parseNumber(s)
		if msg != "" {
			return t, l.fail(start, "", "%s", msg)
		}
		t.kind, t.value = tNum, v
		return t, nil
	}
	t.kind = tName
	return t, nil
}

// dottedNumbers reports whether s is numbers joined by dots, and how many dots there are. Hexadecimal is a number too.
func dottedNumbers(s string) (dots int, ok bool) {
	for part := range strings.SplitSeq(s, ".") {
		dots++
		digit := isDigit
		if len(part) > 2 && (part[:2] == "0x" || part[:2] == "0X") {
			part, digit = part[2:], isHex
		}
		if part == "" {
			return 0, false
		}
		for i := range len(part) {
			if !digit(part[i]) {
				return 0, false
			}
		}
	}
	return dots - 1, true
}

// parseNumber reads decimal, octal (leading 0) and hexadecimal (leading 0x) up to 2^32-1.
func parseNumber(s string) (uint32, string) {
	base, digits := uint64(10), s
	if len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") {
		base, digits = 16, s[2:]
	} else if len(s) > 1 && s[0] == '0' {
		base, digits = 8, s[1:]
	}
	var v uint64
	for i := range len(digits) {
		d := uint64(hexValue(digits[i]))
		if d >= base {
			return 0, fmt.Sprintf("number %s begins with 0, so it is octal, and has a digit that octal has not", clip(s))
		}
		if v = v*base + d; v > 0xffffffff {
			return 0, fmt.Sprintf("number %s is more than 32 bits", clip(s))
		}
	}
	return uint32(v), ""
}

func clip(s string) string {
	if len(s) > 24 {
		return s[:24] + "..."
	}
	return s
}
