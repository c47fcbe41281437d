package filter

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// SyntaxError says why a text is not a filter, and where.
type SyntaxError struct {
	Expr string // the whole text
	Pos  int    // byte offset into Expr of the character that is wrong; len(Expr) = the text ended too early
	Msg  string // what is wrong
	Hint string // what to write instead; may be ""
	Err  error  // what errors.Is finds in it; may be nil
}

// Unwrap returns Err.
func (e *SyntaxError) Unwrap() error { return e.Err }

// errWindow is how much of a long expression Error shows, in bytes.
const errWindow = 72

// Error returns the message and, on two more lines, the text with a caret under the character meant. Long texts are
// cut to the neighbourhood of the caret.
func (e *SyntaxError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "parse filter: character %d: %s", e.Pos+1, e.Msg)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	pos := min(max(e.Pos, 0), len(e.Expr))
	from, to := 0, len(e.Expr)
	if to > errWindow {
		from = max(0, pos-errWindow/2)
		to = min(len(e.Expr), from+errWindow)
	}
	pre, post := "", ""
	if from > 0 {
		pre = "..."
	}
	if to < len(e.Expr) {
		post = "..."
	}
	lead := pre + printable(e.Expr[from:pos])
	b.WriteString("\n  " + lead + printable(e.Expr[pos:to]) + post)
	b.WriteString("\n  " + strings.Repeat(" ", utf8.RuneCountInString(lead)) + "^")
	return b.String()
}

// printable replaces what would break the caret line: control characters and invalid UTF-8.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}
