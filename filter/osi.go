package filter

import (
	"fmt"
	"slices"
)

// LLC is an 802.3 frame with an 802.2 header, of the kind that its control octet says.
type LLC struct {
	Pos   int
	Kind  string // "": any; else as libpcap names it
	Mask  uint8  // of the control octet; 0: not looked at
	Value uint8
}

// llcKinds are control octets (IEEE 802.2 section 5.4) as libpcap tests them.
var llcKinds = map[string]struct{ mask, value uint8 }{
	"i": {0x01, 0}, "s": {0x03, 0x01}, "u": {0x03, 0x03}, "rr": {0x0f, 0x01}, "rnr": {0x0f, 0x05}, "rej": {0x0f, 0x09},
	"ui": {0xef, 0x03}, "ua": {0xef, 0x63}, "disc": {0xef, 0x43}, "sabme": {0xef, 0x6f}, "test": {0xef, 0xe3},
	"xid": {0xef, 0xaf}, "frmr": {0xef, 0x87},
}

// llc reads llc and the kind that may follow.
func (p *parser) llc() operand {
	n := &LLC{Pos: p.tok.pos}
	p.advance()
	if k, ok := llcKinds[p.tok.text]; ok && (p.tok.kind == tName || p.tok.kind == tWord) {
		n.Kind, n.Mask, n.Value = p.tok.text, k.mask, k.value
		p.advance()
	}
	return operand{node: n, pos: n.Pos}
}

// OSI is a network protocol of ISO behind the SAP 0xfe: CLNP, ES-IS or IS-IS.
type OSI struct {
	Pos   int
	NLPID uint8   // ISO/IEC TR 9577
	PDUs  []uint8 // IS-IS only: one of these PDU types (ISO/IEC 10589); none: any
}

// osiWords are the words of OSI protocols and of groups of IS-IS PDUs.
var osiWords = map[string]OSI{
	"clnp": {NLPID: 0x81}, "esis": {NLPID: 0x82}, "es-is": {NLPID: 0x82}, "isis": {NLPID: 0x83}, "is-is": {NLPID: 0x83},
	"l1": {NLPID: 0x83, PDUs: []uint8{26, 24, 18, 15, 17}}, "l2": {NLPID: 0x83, PDUs: []uint8{27, 25, 20, 16, 17}},
	"iih": {NLPID: 0x83, PDUs: []uint8{17, 15, 16}}, "lsp": {NLPID: 0x83, PDUs: []uint8{18, 20}},
	"snp": {NLPID: 0x83, PDUs: []uint8{27, 26, 24, 25}}, "csnp": {NLPID: 0x83, PDUs: []uint8{24, 25}},
	"psnp": {NLPID: 0x83, PDUs: []uint8{26, 27}},
}

// osi reads an OSI word, or isis proto N.
func (p *parser) osi() operand {
	t := p.tok
	n := osiWords[t.text]
	n.Pos = t.pos
	p.advance()
	if p.isWord(wProtoNum) && n.NLPID == 0x83 && n.PDUs == nil {
		p.advance()
		v := p.tok
		if v.kind != tNum || v.value > 255 {
			p.fail(v.pos, "a number up to 255", "an IS-IS PDU type must follow, not %s", v)
			return operand{}
		}
		p.advance()
		n.PDUs = []uint8{uint8(v.value)}
	}
	return operand{node: &n, pos: t.pos}
}

// text prints the word, or the number.
func (n *OSI) text() string {
	for _, w := range [...]string{"clnp", "esis", "isis", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp"} {
		if o := osiWords[w]; o.NLPID == n.NLPID && slices.Equal(o.PDUs, n.PDUs) {
			return w
		}
	}
	if len(n.PDUs) > 0 {
		return fmt.Sprintf("isis proto %d", n.PDUs[0])
	}
	return fmt.Sprintf("iso proto %d", n.NLPID)
}
