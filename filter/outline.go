package filter

import "strings"

// Tree returns the filter as an indented outline, a condition a line.
func (e *Expr) Tree() string {
	if e == nil || e.Root == nil {
		return "everything\n"
	}
	var b strings.Builder
	outline(&b, e.Root, 0)
	return b.String()
}

func outline(b *strings.Builder, n Node, depth int) {
	line := func(s string) {
		b.WriteString(strings.Repeat("  ", depth))
		b.WriteString(s)
		b.WriteByte('\n')
	}
	switch n := n.(type) {
	case *And:
		line("and")
		for _, t := range n.Terms {
			outline(b, t, depth+1)
		}
	case *Or:
		line("or")
		for _, t := range n.Terms {
			outline(b, t, depth+1)
		}
	case *Not:
		line("not")
		outline(b, n.X, depth+1)
	case *Inner:
		line("inner")
		outline(b, n.X, depth+1)
	default:
		var s strings.Builder
		write(&s, n, true)
		line(s.String())
	}
}
