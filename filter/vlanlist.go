package filter

import (
	"fmt"
	"strings"
)

// maxVLANRanges bounds a list of VLAN ids.
const maxVLANRanges = 256

// vlanIDs reads what may follow vlan: nothing, an id, or a list of ids and ranges such as 100-120,300. A list that is no
// single id is OpenTap's own; libpcap takes one id.
func (p *parser) vlanIDs() []VLANRange {
	if p.tok.kind != tName {
		has := false
		id := uint16(p.optionalNumber(&has, 4095, "VLAN id"))
		if !has {
			return nil
		}
		if p.isOp("-") {
			p.fail(p.tok.pos, "as in vlan 100-120", "a range of VLAN ids is written without blanks")
		}
		return p.moreVLANs([]VLANRange{{id, id}})
	}
	r, ok := p.vlanRange()
	if !ok {
		return nil // a name: complained about by whoever meets it
	}
	return p.moreVLANs([]VLANRange{r})
}

func (p *parser) moreVLANs(ids []VLANRange) []VLANRange {
	for p.err == nil && p.isOp(",") {
		p.advance()
		pos := p.tok.pos
		switch {
		case p.tok.kind == tNum:
			v := p.tok.value
			if v > 4095 {
				p.fail(pos, "", "VLAN id %d is more than 4095", v)
				return nil
			}
			p.advance()
			ids = append(ids, VLANRange{uint16(v), uint16(v)})
		default:
			r, ok := p.vlanRange()
			if !ok {
				p.fail(pos, "as in vlan 100-120,300", "a VLAN id or a range must follow the comma, not %s", p.tok)
				return nil
			}
			ids = append(ids, r)
		}
		if len(ids) > maxVLANRanges {
			p.fail(pos, "", "more than %d VLAN ids and ranges in one list", maxVLANRanges)
		}
	}
	return ids
}

// vlanRange reads lo-hi, which the lexer takes for one name. ok is false if the token is none.
func (p *parser) vlanRange() (r VLANRange, ok bool) {
	t := p.tok
	a, b, found := strings.Cut(t.text, "-")
	if t.kind != tName || !found {
		return r, false
	}
	var v [2]uint32
	for i, s := range [2]string{a, b} {
		if dots, ok := dottedNumbers(s); !ok || dots != 0 {
			return r, false
		}
		n, msg := parseNumber(s)
		if msg != "" {
			p.fail(t.pos, "", "%s", msg)
			return r, true
		}
		if n > 4095 {
			p.fail(t.pos, "", "VLAN id %d is more than 4095", n)
			return r, true
		}
		v[i] = n
	}
	if v[0] > v[1] {
		p.fail(t.pos, fmt.Sprintf("write %d-%d", v[1], v[0]), "the range %s ends before it begins", clip(t.text))
	}
	p.advance()
	return VLANRange{uint16(v[0]), uint16(v[1])}, true
}

// text prints the list as it is written.
func (n *VLAN) text() string {
	var b strings.Builder
	for i, r := range n.IDs {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", r.Lo)
		if r.Hi != r.Lo {
			fmt.Fprintf(&b, "-%d", r.Hi)
		}
	}
	return b.String()
}

// Has reports whether the list holds the id. An empty one holds all.
func (n *VLAN) Has(id uint16) bool {
	for _, r := range n.IDs {
		if r.Lo <= id && id <= r.Hi {
			return true
		}
	}
	return len(n.IDs) == 0
}
