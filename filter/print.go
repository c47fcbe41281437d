package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String returns the canonical text: every qualifier written out, names as numbers, and parentheses wherever and meets
// or. Parse(e.String()) has the same meaning as e.
func (e *Expr) String() string {
	if e == nil || e.Root == nil {
		return ""
	}
	var b strings.Builder
	write(&b, e.Root, false)
	return b.String()
}

// write prints n, in parentheses if it is a sequence inside something else.
func write(b *strings.Builder, n Node, inner bool) {
	switch n := n.(type) {
	case *And:
		writeSequence(b, n.Terms, " and ", inner)
	case *Or:
		writeSequence(b, n.Terms, " or ", inner)
	case *Not:
		b.WriteString("not ")
		write(b, n.X, true)
	case *Host:
		b.WriteString(words2(n.Proto.String(), n.Dir.String()))
		b.WriteString(n.address())
	case *MAC:
		b.WriteString(words2("ether", n.Dir.String()))
		fmt.Fprintf(b, "host %s", n.text())
	case *Port:
		b.WriteString(words2(n.Proto.String(), n.Dir.String()))
		if n.Range {
			fmt.Fprintf(b, "portrange %d-%d", n.Lo, n.Hi)
		} else {
			fmt.Fprintf(b, "port %d", n.Lo)
		}
	case *Proto:
		b.WriteString(n.text())
	case *Cast:
		what := "broadcast"
		if n.Multicast {
			what = "multicast"
		}
		fmt.Fprintf(b, "%s %s", n.Proto, what)
	case *VLAN:
		b.WriteString("vlan")
		if len(n.IDs) > 0 {
			b.WriteString(" " + n.text())
		}
	case *Geneve:
		writeNumbered(b, "geneve", n.HasVNI, n.VNI)
	case *Inner:
		b.WriteString("inner(")
		write(b, n.X, false)
		b.WriteByte(')')
	case *Bound:
		b.WriteString(n.text())
	case *LLC:
		b.WriteString("llc")
		if n.Kind != "" {
			b.WriteString(" " + n.Kind)
		}
	case *OSI:
		b.WriteString(n.text())
	case *MPLS:
		writeNumbered(b, "mpls", n.HasLabel, n.Label)
	case *PPPoE:
		if n.Discovery {
			b.WriteString("pppoed")
		} else {
			writeNumbered(b, "pppoes", n.HasSession, uint32(n.Session))
		}
	case *Relation:
		writeArith(b, n.L, false)
		b.WriteString(" " + n.Op.String() + " ")
		writeArith(b, n.R, false)
	}
}

func writeSequence(b *strings.Builder, terms []Node, op string, inner bool) {
	if inner {
		b.WriteByte('(')
	}
	for i, t := range terms {
		if i > 0 {
			b.WriteString(op)
		}
		write(b, t, true)
	}
	if inner {
		b.WriteByte(')')
	}
}

func writeNumbered(b *strings.Builder, w string, has bool, v uint32) {
	b.WriteString(w)
	if has {
		fmt.Fprintf(b, " %d", v)
	}
}

// words2 joins the words that are not empty and ends with a blank if there are any.
func words2(a, c string) string {
	if a != "" {
		a += " "
	}
	if c != "" {
		c += " "
	}
	return a + c
}

// String returns the direction as the language writes it, "" for either.
func (d Dir) String() string {
	return [...]string{DirEither: "", DirSrc: "src", DirDst: "dst", DirBoth: "src and dst"}[d]
}

// address prints host A, net A/len or net A mask M.
func (n *Host) address() string {
	if n.V6 {
		a := netip.AddrFrom16(n.Addr).String()
		if a4 := netip.AddrFrom16(n.Addr); a4.Is4In6() {
			a = hexIPv6(n.Addr)
		}
		if l := prefixLen(n.Mask[:]); l < 128 {
			return fmt.Sprintf("net %s/%d", a, l)
		}
		return "host " + a
	}
	a := netip.AddrFrom4([4]byte(n.Addr[:4])).String()
	switch l := prefixLen(n.Mask[:4]); {
	case l == 32:
		return "host " + a
	case l >= 0:
		return fmt.Sprintf("net %s/%d", a, l)
	}
	return fmt.Sprintf("net %s mask %s", a, netip.AddrFrom4([4]byte(n.Mask[:4])))
}

// hexIPv6 prints all eight groups.
func hexIPv6(a [16]byte) string {
	var g []string
	for i := 0; i < 16; i += 2 {
		g = append(g, strconv.FormatUint(uint64(binary.BigEndian.Uint16(a[i:])), 16))
	}
	return strings.Join(g, ":")
}

// prefixLen counts the leading ones of a mask; -1 if ones follow zeroes.
func prefixLen(mask []byte) int {
	n, ended := 0, false
	for _, m := range mask {
		for bit := byte(0x80); bit != 0; bit >>= 1 {
			switch {
			case m&bit == 0:
				ended = true
			case ended:
				return -1
			default:
				n++
			}
		}
	}
	return n
}

func (n *MAC) text() string {
	a := n.Addr
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}

// word returns the protocol word that means the same as n, Any if there is none.
func (n *Proto) word() Protocol {
	for p := Link; int(p) < len(protocols); p++ {
		if l, num, ok := p.Meaning(); ok && l == n.Layer && num == n.Num {
			return p
		}
	}
	return Any
}

func (n *Proto) text() string {
	if p := n.word(); p != Any {
		return p.String()
	}
	switch n.Layer {
	case LayerLink:
		return fmt.Sprintf("ether proto 0x%04x", n.Num)
	case LayerIPv4:
		return fmt.Sprintf("ip proto %d", n.Num)
	case LayerIPv6:
		return fmt.Sprintf("ip6 proto %d", n.Num)
	}
	return fmt.Sprintf("proto %d", n.Num)
}

// String returns the operator.
func (o RelOp) String() string { return [...]string{"=", "!=", ">", ">=", "<", "<="}[o] }

// String returns the operator.
func (o ArithOp) String() string {
	return [...]string{"+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"}[o]
}

// writeArith prints a value; every operation inside another is in parentheses.
func writeArith(b *strings.Builder, a Arith, inner bool) {
	switch a := a.(type) {
	case *Const:
		fmt.Fprintf(b, "%d", a.V)
	case *Len:
		b.WriteString("len")
	case *Load:
		b.WriteString(a.Proto.String() + "[")
		writeArith(b, a.Index, false)
		if a.Size != 1 {
			fmt.Fprintf(b, ":%d", a.Size)
		}
		b.WriteByte(']')
	case *Neg:
		b.WriteString("(-")
		writeArith(b, a.X, true)
		b.WriteByte(')')
	case *Binary:
		if inner {
			b.WriteByte('(')
		}
		writeArith(b, a.L, true)
		b.WriteString(" " + a.Op.String() + " ")
		writeArith(b, a.R, true)
		if inner {
			b.WriteByte(')')
		}
	}
}
