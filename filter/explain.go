package filter

import (
	"fmt"
	"strings"
)

// Explain says in one sentence what the filter selects.
func (e *Expr) Explain() string {
	if e == nil || e.Root == nil {
		return "Every packet."
	}
	return "Packets " + explain(e.Root, false, false) + "."
}

// explain says that n holds, or with not, that it does not.
func explain(n Node, not, inner bool) string {
	switch n := n.(type) {
	case *And:
		return explainSequence(n.Terms, " and ", " or ", not, inner)
	case *Or:
		return explainSequence(n.Terms, " or ", " and ", not, inner)
	case *Not:
		return explain(n.X, !not, inner)
	case *Host:
		return explainHost(n, not)
	case *MAC:
		return with(not, "the Ethernet address "+n.text()+" as "+n.Dir.end())
	case *Port:
		transport := "TCP, UDP or SCTP"
		if n.Proto != Any {
			transport = strings.ToUpper(n.Proto.String())
		}
		if n.Range {
			return with(not, fmt.Sprintf("a %s port from %d to %d as %s", transport, n.Lo, n.Hi, n.Dir.end()))
		}
		return with(not, fmt.Sprintf("%s port %d as %s", transport, n.Lo, n.Dir.end()))
	case *Proto:
		return "that are " + negation(not) + explainProto(n)
	case *Cast:
		kind := map[Protocol]string{Link: "Ethernet", IP: "IPv4", IP6: "IPv6"}[n.Proto]
		if n.Multicast {
			return "that are " + negation(not) + "sent to an " + kind + " multicast address"
		}
		return "that are " + negation(not) + "sent to the " + kind + " broadcast address"
	case *VLAN:
		return with(not, n.explain())
	case *Geneve:
		return with(not, numbered("a Geneve tunnel", n.HasVNI, "a Geneve tunnel of VNI", n.VNI))
	case *Inner:
		return with(not, "a tunnel payload ("+explain(n.X, false, false)+")")
	case *Bound:
		if n.Out {
			return "that are " + negation(not) + "sent by this host"
		}
		return "that are " + negation(not) + "received by this host"
	case *LLC:
		if n.Kind == "" {
			return "that are " + negation(not) + "802.2 LLC frames"
		}
		return "that are " + negation(not) + "802.2 LLC frames of kind " + strings.ToUpper(n.Kind)
	case *OSI:
		return "that are " + negation(not) + "OSI packets (" + n.text() + ")"
	case *MPLS:
		return with(not, numbered("an MPLS label", n.HasLabel, "MPLS label", n.Label))
	case *PPPoE:
		if n.Discovery {
			return "that are " + negation(not) + "PPPoE discovery"
		}
		return with(not, numbered("a PPPoE session", n.HasSession, "PPPoE session", uint32(n.Session)))
	case *Relation:
		return explainRelation(n, not)
	}
	return ""
}

func explainSequence(terms []Node, op, negated string, not, inner bool) string {
	if not {
		op = negated
	}
	var p []string
	for _, t := range terms {
		p = append(p, explain(t, not, true))
	}
	s := strings.Join(p, op)
	if inner {
		return "(" + s + ")"
	}
	return s
}

func negation(not bool) string {
	if not {
		return "not "
	}
	return ""
}

func with(not bool, what string) string {
	if not {
		return "without " + what
	}
	return "with " + what
}

func numbered(any string, has bool, one string, v uint32) string {
	if has {
		return fmt.Sprintf("%s %d", one, v)
	}
	return any
}

// text prints the word.
func (n *Bound) text() string {
	if n.Out {
		return "outbound"
	}
	return "inbound"
}

func (n *VLAN) explain() string {
	switch {
	case len(n.IDs) == 0:
		return "a VLAN tag"
	case len(n.IDs) == 1 && n.IDs[0].Lo == n.IDs[0].Hi:
		return fmt.Sprintf("VLAN %d", n.IDs[0].Lo)
	}
	return "a VLAN of " + n.text()
}

// end says which end a direction means.
func (d Dir) end() string {
	return [...]string{
		DirEither: "source or destination", DirSrc: "source", DirDst: "destination",
		DirBoth: "source and destination",
	}[d]
}

func explainHost(h *Host, not bool) string {
	kind, where := "IPv4 address", ""
	switch {
	case h.V6:
		kind = "IPv6 address"
	case h.Proto == Any:
		where = " (in ARP and RARP too)"
	case h.Proto != IP:
		kind = strings.ToUpper(h.Proto.String()) + " protocol address"
	}
	word, addr, _ := strings.Cut(h.address(), " ")
	if word == "net" {
		return with(not, "an "+kind+" of "+strings.Replace(addr, " mask ", " with mask ", 1)+" as "+h.Dir.end()+where)
	}
	return with(not, "the "+kind+" "+addr+" as "+h.Dir.end()+where)
}

func explainProto(p *Proto) string {
	if w := p.word(); w != Any {
		switch w {
		case IP:
			return "IPv4"
		case IP6:
			return "IPv6"
		case ICMP6:
			return "ICMPv6"
		}
		return strings.ToUpper(w.String())
	}
	switch {
	case p.Layer == LayerLink && p.Num > 1500:
		return fmt.Sprintf("of EtherType 0x%04x", p.Num)
	case p.Layer == LayerLink:
		return fmt.Sprintf("802.3 frames with LLC SAP 0x%02x", p.Num)
	case p.Layer == LayerIPv4:
		return fmt.Sprintf("IPv4 with protocol %d", p.Num)
	case p.Layer == LayerIPv6:
		return fmt.Sprintf("IPv6 with next header %d", p.Num)
	}
	return fmt.Sprintf("IPv4 or IPv6 with protocol %d", p.Num)
}

func explainRelation(r *Relation, not bool) string {
	words := [...]string{RelEQ: "is", RelNE: "is not", RelGT: "is more than", RelGE: "is at least", RelLT: "is less than", RelLE: "is at most"}
	if _, ok := r.L.(*Len); ok && not {
		// A length always exists, so the opposite relation says the same.
		r = &Relation{Op: [...]RelOp{RelNE, RelEQ, RelLE, RelLT, RelGE, RelGT}[r.Op], L: r.L, R: r.R}
		not = false
	}
	var l, rt strings.Builder
	writeArith(&l, r.L, false)
	writeArith(&rt, r.R, false)
	left := l.String()
	if left == "len" {
		left = "length in octets"
	}
	s := "whose " + left + " " + words[r.Op] + " " + rt.String()
	if not {
		return "for which it is not so that " + left + " exists and " + words[r.Op] + " " + rt.String()
	}
	return s
}
