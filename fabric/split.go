package fabric

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"opentap/fault"
	"opentap/filter"
	"opentap/want"
	"opentap/wire/of13"
)

// lowering is the decision of a policy of the layout.
type lowering struct {
	filter, exactAt string
	d               decision
	split           string
}

// lowered turns a policy's filter into a decision. Where an agent filters exactly behind the delivery ports, switches need not match
// all of it: they copy more, as little as they can, and split says in words which part is where. "" = the switches do it all.
func (l *Layout) lowered(p *want.FabricPolicy) (d decision, split string, err error) {
	at := l.exactAt(p)
	if k, ok := l.known[p.Name]; ok && k.filter == p.Filter && k.exactAt == at {
		return k.d, k.split, nil
	}
	d, err = lowerText(p.Filter)
	if err == nil || at == "" || !fault.Is(err, fault.Unsupported) {
		return d, "", err
	}
	d, text, perr := coarse(p.Filter)
	if perr != nil {
		return nil, "", perr
	}
	if text == "" {
		text = "everything"
	}
	var f *fault.Error
	errors.As(err, &f)
	return d, "the switches copy: " + text + "; " + at + " filters exactly, because " + f.Msg, nil
}

// exactAt is where an agent filters a policy's copies; "" = nowhere, at one of its destinations at least.
func (l *Layout) exactAt(p *want.FabricPolicy) string {
	if p.ExactAt != "" {
		return p.ExactAt
	}
	at := ""
	for _, name := range p.To {
		port := l.Fabric.Ports[name]
		if port.Into == "" {
			return ""
		}
		node, _, _ := CutPlace(port.LeadsTo)
		if at != "" {
			at += ", "
		}
		at += node + "/" + port.Into
	}
	return at
}

// coarse is a decision that holds wherever the filter does, and the filter that it is; "" = everything.
func coarse(text string) (decision, string, error) {
	e, err := filter.Parse(text)
	if err != nil || e.Root == nil {
		return whole(true), "", err
	}
	c := approximate(e.Root, true)
	if c.node == nil {
		return whole(c.all), "", nil
	}
	d, err := lower(c.node)
	if err != nil {
		return whole(true), "", nil
	}
	// A switch looks behind one tag only. Whatever has two is left to who looks behind both.
	var tagged decision
	for _, t := range [...]uint64{0x8100, 0x88a8, 0x9100} {
		tagged = append(tagged, clause{and(ether(t), of13.UintMask(of13.VLANVID, of13.VLANPresent, of13.VLANPresent)), true})
	}
	return append(tagged, d...), (&filter.Expr{Root: c.node}).String(), nil
}

// checkExact refuses what could not be exact behind a delivery port: the agent there knows copies by what they are, not by where they
// come from.
func (l *Layout) checkExact() error {
	for i := range l.Fabric.Policies {
		p := &l.Fabric.Policies[i]
		if l.Split(p) == "" {
			continue
		}
		field := fmt.Sprintf("policies[%d]", i)
		if p.Truncate > 0 {
			return &fault.Error{
				Kind: fault.Unsupported, Field: field + ".truncate", Msg: "the switches cannot match the whole filter, and an agent that filters the rest must see whole packets",
				Hint: "cut them at the tool",
			}
		}
		for j := range l.Fabric.Policies {
			o := &l.Fabric.Policies[j]
			meet := slices.ContainsFunc(o.To, func(name string) bool { return slices.Contains(l.members(p.To), name) || slices.Contains(p.To, name) })
			if i != j && meet && (o.Direction != p.Direction || !sameNames(o.From, p.From)) {
				return &fault.Error{
					Kind: fault.Unsupported, Field: field + ".filter",
					Msg:  "the switches cannot match all of it, and behind the delivery port the agent cannot tell its packets from those of " + o.Name + ", which come from other ports",
					Hint: "give it a delivery port of its own",
				}
			}
		}
	}
	return nil
}

// members are the tools that share any of these delivery ports.
func (l *Layout) members(ports []string) []string {
	var out []string
	for name, t := range l.Fabric.Tools {
		if slices.ContainsFunc(t.Members, func(m string) bool { return slices.Contains(ports, m) }) {
			out = append(out, name)
		}
	}
	return out
}

func sameNames(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// ExactFilter is what the agent behind a delivery port lets through: what any policy wants there. ok is false when none does.
func ExactFilter(f *want.Fabric, port string) (text string, ok bool) {
	var all []string
	for i := range f.Policies {
		p := &f.Policies[i]
		here := slices.ContainsFunc(p.To, func(name string) bool {
			return name == port || slices.Contains(f.Tools[name].Members, port)
		})
		switch {
		case !here || p.ExactAt != "":
		case p.Filter == "":
			return "", true
		case !slices.Contains(all, "("+p.Filter+")"):
			all = append(all, "("+p.Filter+")")
		}
	}
	return strings.Join(all, " or "), len(all) > 0
}

// CutPlace takes NODE/DEVICE apart.
func CutPlace(s string) (node, device string, ok bool) {
	node, device, ok = strings.Cut(s, "/")
	return node, device, ok && node != "" && device != "" && !strings.Contains(device, "/")
}

// checkPlace checks where a port leads to.
func (l *Layout) checkPlace(field string, p *want.FabricPort) error {
	_, device, ok := CutPlace(p.LeadsTo)
	switch {
	case p.LeadsTo == "" && p.Into == "":
		return nil
	case !ok:
		return fault.Field(field+".leads_to", "%q is not NODE/DEVICE such as host2/eth1", p.LeadsTo)
	case p.Role != want.RoleFilter && p.Role != want.RoleDelivery:
		return fault.Field(field+".leads_to", "is of filter and delivery ports alone")
	case p.Into == "":
		return nil
	case p.Role != want.RoleDelivery:
		return fault.Field(field+".into", "is of delivery ports alone")
	case p.Into == device || strings.ContainsAny(p.Into, "/ "):
		return fault.Field(field+".into", "%q must be another device of the same node", p.Into)
	}
	return nil
}

// approximation is a condition that switches can match: node, or with nil all packets or none.
type approximation struct {
	node filter.Node
	all  bool
}

// approximate leaves out of a tree what switches cannot match. What is left holds wherever the tree does, when over is
// true, and else nowhere where the tree does not.
func approximate(n filter.Node, over bool) approximation {
	if _, err := lower(n); err == nil {
		return approximation{node: n}
	}
	switch n := n.(type) {
	case *filter.Not:
		x := approximate(n.X, !over)
		if x.node == nil {
			return approximation{all: !x.all}
		}
		return approximation{node: &filter.Not{X: x.node}}
	case *filter.And:
		return terms(n.Terms, over, true)
	case *filter.Or:
		return terms(n.Terms, over, false)
	}
	return approximation{all: over}
}

// terms approximates all of a list of conditions, or one of them.
func terms(list []filter.Node, over, and bool) approximation {
	var kept []filter.Node
	tagged := false
	for _, t := range list {
		x := approximate(t, over)
		if x.node != nil && tagged && hasVLAN(x.node) {
			x = approximation{all: over} // of the next tag inwards
		}
		tagged = tagged || hasVLAN(t)
		if x.node != nil {
			kept = append(kept, x.node)
		} else if x.all != and {
			return x // it decides alone
		}
		if shifts(t) { // what stands to the right is about what is inside
			if over != and {
				return approximation{all: over}
			}
			break
		}
	}
	join := func() filter.Node {
		if len(kept) == 1 {
			return kept[0]
		}
		if and {
			return &filter.And{Terms: kept}
		}
		return &filter.Or{Terms: kept}
	}
	for len(kept) > 0 {
		n := join()
		if _, err := lower(n); err == nil {
			return approximation{node: n}
		}
		if over != and {
			return approximation{all: over} // too many rules, and none can be left out
		}
		kept = slices.Delete(kept, heaviest(kept), heaviest(kept)+1)
	}
	return approximation{all: and}
}

// heaviest is the condition that takes most rules.
func heaviest(list []filter.Node) int {
	at, most := 0, -1
	for i, n := range list {
		if d, _ := lower(n); len(d) > most {
			at, most = i, len(d)
		}
	}
	return at
}

// shifts reports whether a condition changes what those to the right of it are about.
func shifts(n filter.Node) bool {
	switch n := n.(type) {
	case *filter.MPLS, *filter.PPPoE, *filter.Geneve:
		return true
	case *filter.Not:
		return shifts(n.X)
	case *filter.And:
		return slices.ContainsFunc(n.Terms, shifts)
	case *filter.Or:
		return slices.ContainsFunc(n.Terms, shifts)
	}
	return false
}
