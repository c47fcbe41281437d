package filter

// Bounds of a filter's text. They keep the parser's memory and stack small whatever a client sends.
const (
	MaxText  = 64 << 10 // octets
	MaxDepth = 200      // nesting of parentheses, not and minus
	maxTerms = 8192
	maxSlots = 12 // intermediate values of one arithmetic expression; classic BPF has 16 memory words
)

// address-type qualifiers.
type addrKind uint8

const (
	kUnset addrKind = iota // no qualifier in force: a bare value is an error
	kDefault
	kHost
	kNet
	kPort
	kPortrange
	kProto
)

// quals are the qualifiers in force. A bare value takes over those of the term before it.
type quals struct {
	proto Protocol
	dir   Dir
	kind  addrKind
	pos   int
}

// operand is what a piece of text turned out to be: a condition, or a value.
type operand struct {
	node  Node
	arith Arith
	num   bool // a plain number, which may also be a bare value of the qualifiers in force
	value uint32
	bare  bool // a bare value
	q     quals
	pos   int
}

type parser struct {
	lex   lexer
	tok   token // current
	ahead token
	depth int
	terms int
	err   *SyntaxError
}

// Parse reads a filter. "" (or only blanks) is everything. The error is a *SyntaxError.
func Parse(expr string) (*Expr, error) {
	if len(expr) > MaxText {
		return nil, &SyntaxError{Expr: expr, Pos: MaxText, Msg: "the filter is longer than 65536 octets"}
	}
	p := &parser{lex: lexer{src: expr}}
	p.advance()
	p.advance()
	e := &Expr{Text: expr}
	if p.err == nil && p.tok.kind != tEOF {
		o := p.sequence(quals{})
		if p.err == nil && p.tok.kind != tEOF {
			p.unexpected()
		}
		o = p.condition(o, quals{})
		e.Root = o.node
	}
	if p.err != nil {
		return nil, p.err
	}
	return e, nil
}

// advance moves one token on. After an error every token is the end.
func (p *parser) advance() {
	p.tok = p.ahead
	if p.err != nil {
		p.tok, p.ahead = token{kind: tEOF, pos: len(p.lex.src)}, token{kind: tEOF, pos: len(p.lex.src)}
		return
	}
	t, err := p.lex.next()
	if err != nil {
		// Only the first complaint counts, and a complaint about an earlier character is better: the token before
		// the unreadable one is still parsed.
		p.ahead = token{kind: tEOF, pos: err.Pos}
		p.err = err
		return
	}
	p.ahead = t
}

func (p *parser) fail(pos int, hint, format string, args ...any) {
	if p.err == nil {
		p.err = p.lex.fail(pos, hint, format, args...)
	}
}

// unexpected complains about the current token.
func (p *parser) unexpected() {
	t := p.tok
	if t.kind == tEOF {
		p.fail(t.pos, "", "the filter ends too early")
		return
	}
	hint := ""
	switch {
	case t.kind == tName:
		hint = didYouMean(t.text)
	case t.kind == tOp && t.text == ")":
		hint = "there is no ( for it"
	case t.kind == tOp && t.text == ",":
		hint = "only VLAN ids come as lists; join values with or: port 80 or 443"
	case t.kind == tNum || t.kind == tIP4 || t.kind == tIP6 || t.kind == tMAC:
		hint = "join conditions with and, or; a value needs host, net, port, proto before it"
	case t.kind == tWord && t.word.kind == wProto:
		hint = "join conditions with and, or"
	case t.kind == tWord && t.word.kind == wRefused:
		hint = refused[t.text]
	}
	p.fail(t.pos, hint, "did not expect %s here", t)
}

func (p *parser) isOp(s string) bool     { return p.tok.kind == tOp && p.tok.text == s }
func (p *parser) isWord(k wordKind) bool { return p.tok.kind == tWord && p.tok.word.kind == k }
func (t token) is(k wordKind) bool       { return t.kind == tWord && t.word.kind == k }
func (p *parser) isAnd() bool            { return p.isWord(wAnd) || p.isOp("&&") }
func (p *parser) isOr() bool             { return p.isWord(wOr) || p.isOp("||") }
func (p *parser) isNot() bool            { return p.isWord(wNot) || p.isOp("!") }
func (p *parser) startsAddress() bool    { return p.tok.kind >= tNum && p.tok.kind <= tName }

func (p *parser) enter() bool {
	p.depth++
	if p.depth > MaxDepth {
		p.fail(p.tok.pos, "", "nested deeper than %d levels", MaxDepth)
		return false
	}
	return true
}
func (p *parser) leave() { p.depth-- }

// sequence reads conditions joined by and and or, which bind equally and to the left, as in libpcap. ctx are the
// qualifiers in force before it. A lone value comes back as it is.
func (p *parser) sequence(ctx quals) operand {
	if !p.enter() {
		return operand{}
	}
	defer p.leave()
	first := p.term(ctx)
	if !p.isAnd() && !p.isOr() {
		return first
	}
	left := p.condition(first, ctx)
	bare := left.bare
	var terms []Node
	terms = append(terms, left.node)
	isAnd := p.isAnd()
	fold := func() Node {
		if len(terms) == 1 {
			return terms[0]
		}
		if isAnd {
			return &And{Terms: terms}
		}
		return &Or{Terms: terms}
	}
	q := left.q
	for p.err == nil && (p.isAnd() || p.isOr()) {
		if p.isAnd() != isAnd {
			terms = []Node{fold()}
			isAnd = p.isAnd()
		}
		p.advance()
		start := p.tok.pos
		right := p.condition(p.term(q), q)
		if bare && !right.bare {
			p.fail(start, "parentheses that begin with a value hold values only", "did not expect a condition here")
		}
		terms = append(terms, right.node)
		q = right.q
	}
	return operand{node: fold(), q: q, bare: bare, pos: first.pos}
}

// condition makes sure o is a condition: a plain number becomes a bare value of q.
func (p *parser) condition(o operand, q quals) operand {
	if p.err != nil || o.node != nil {
		return o
	}
	if o.num {
		n := p.number(o.value, "", o.pos, q)
		return operand{node: n, q: q, bare: true, pos: o.pos}
	}
	if o.arith != nil {
		p.fail(p.tok.pos, "compare it: = != < <= > >=", "a computed value is no condition")
	} else {
		p.unexpected()
	}
	return o
}

// term reads one condition or value.
func (p *parser) term(ctx quals) operand {
	if !p.enter() {
		return operand{}
	}
	defer p.leave()
	if p.terms++; p.terms > maxTerms {
		p.fail(p.tok.pos, "", "more than %d conditions", maxTerms)
		return operand{}
	}
	if p.isNot() {
		pos := p.tok.pos
		p.advance()
		o := p.condition(p.term(ctx), ctx)
		return operand{node: &Not{X: o.node}, q: o.q, bare: o.bare, pos: pos}
	}
	o := p.primary(ctx)
	if o.arith == nil || p.err != nil {
		return o
	}
	o = p.climb(o, 0)
	op, ok := relOps[p.tok.text]
	if p.tok.kind != tOp || !ok {
		return o
	}
	p.advance()
	r := p.arithmetic(0)
	rel := &Relation{Pos: o.pos, Op: op, L: o.arith, R: r.arith}
	if p.err == nil && slots(rel.L)+slots(rel.R) > maxSlots {
		p.fail(o.pos, "", "the calculation needs too many intermediate values")
	}
	return operand{node: rel, pos: o.pos}
}

var relOps = map[string]RelOp{"=": RelEQ, "==": RelEQ, "!=": RelNE, ">": RelGT, ">=": RelGE, "<": RelLT, "<=": RelLE}

// primary reads one piece without operators.
func (p *parser) primary(ctx quals) operand {
	t := p.tok
	switch {
	case p.isOp("("):
		p.advance()
		o := p.sequence(ctx)
		if !p.isOp(")") {
			if p.tok.kind == tEOF {
				p.fail(p.tok.pos, "", "the parenthesis opened at character %d is not closed", t.pos+1)
			}
			p.unexpected()
			return o
		}
		p.advance()
		if o.node != nil {
			o.q = ctx
		}
		return o
	case p.isOp("-"), t.is(wLen), t.kind == tNum, t.is(wConst):
		return p.value()
	case p.startsAddress():
		return operand{node: p.address(ctx), q: ctx, bare: true, pos: t.pos}
	case t.kind == tWord:
		return p.keyword()
	}
	p.unexpected()
	return operand{}
}

// value reads a number, len or a minus.
func (p *parser) value() operand {
	t := p.tok
	p.advance()
	switch {
	case t.kind == tNum:
		return operand{arith: &Const{V: t.value}, num: true, value: t.value, pos: t.pos}
	case t.is(wConst):
		return operand{arith: &Const{V: t.word.value}, num: true, value: t.word.value, pos: t.pos}
	case t.is(wLen):
		return operand{arith: &Len{}, pos: t.pos}
	}
	if !p.enter() {
		return operand{}
	}
	defer p.leave()
	o := p.arithmetic(unaryLevel)
	return operand{arith: &Neg{X: o.arith}, pos: t.pos}
}

// keyword reads what begins with a keyword.
func (p *parser) keyword() operand {
	t := p.tok
	switch t.word.kind {
	case wProto:
		return p.protocol()
	case wSrc, wDst, wHost, wNet, wPort, wPortrange, wProtoNum:
		return p.head(Any, t.pos)
	case wBroadcast, wMulticast:
		return p.cast(Any, t.pos)
	case wLess, wGreater:
		p.advance()
		n := p.tok
		if n.kind != tNum {
			p.fail(n.pos, "as in less 128", "a number of octets must follow %s", t)
			return operand{}
		}
		p.advance()
		op := RelLE
		if t.word.kind == wGreater {
			op = RelGE
		}
		return operand{node: &Relation{Pos: t.pos, Op: op, L: &Len{}, R: &Const{V: n.value}}, pos: t.pos}
	case wVLAN:
		p.advance()
		return operand{node: &VLAN{Pos: t.pos, IDs: p.vlanIDs()}, pos: t.pos}
	case wMPLS:
		p.advance()
		m := &MPLS{Pos: t.pos}
		m.Label = p.optionalNumber(&m.HasLabel, 0xfffff, "MPLS label")
		return operand{node: m, pos: t.pos}
	case wPPPoED:
		p.advance()
		return operand{node: &PPPoE{Pos: t.pos, Discovery: true}, pos: t.pos}
	case wPPPoES:
		p.advance()
		s := &PPPoE{Pos: t.pos}
		s.Session = uint16(p.optionalNumber(&s.HasSession, 0xffff, "PPPoE session"))
		return operand{node: s, pos: t.pos}
	case wGeneve:
		p.advance()
		g := &Geneve{Pos: t.pos}
		g.VNI = p.optionalNumber(&g.HasVNI, 0xffffff, "Geneve VNI")
		return operand{node: g, pos: t.pos}
	case wInner:
		return p.inner()
	case wBound:
		p.advance()
		return operand{node: &Bound{Pos: t.pos, Out: t.text == "outbound"}, pos: t.pos}
	case wLLC:
		return p.llc()
	case wOSI:
		return p.osi()
	case wRefused:
		p.fail(t.pos, refused[t.text], "%s is not supported", t)
		return operand{}
	}
	p.unexpected()
	return operand{}
}

// inner reads inner(EXPR). Qualifiers carry over neither into it nor out of it.
func (p *parser) inner() operand {
	pos := p.tok.pos
	if !p.enter() {
		return operand{}
	}
	defer p.leave()
	p.advance()
	open := p.tok.pos
	if !p.isOp("(") {
		p.fail(open, "as in inner(host 10.0.0.1)", "( must follow inner, not %s", p.tok)
		return operand{}
	}
	p.advance()
	o := p.condition(p.sequence(quals{}), quals{})
	if p.err == nil && !p.isOp(")") {
		if p.tok.kind == tEOF {
			p.fail(p.tok.pos, "", "the parenthesis opened at character %d is not closed", open+1)
		}
		p.unexpected()
	}
	p.advance()
	return operand{node: &Inner{Pos: pos, X: o.node}, pos: pos}
}

// optionalNumber reads a number in any number of parentheses, if there is one.
func (p *parser) optionalNumber(has *bool, limit uint32, what string) uint32 {
	open := 0
	for p.isOp("(") && (p.ahead.kind == tNum || p.ahead.kind == tOp && p.ahead.text == "(") {
		open++
		p.advance()
	}
	if p.tok.kind != tNum && !p.tok.is(wConst) {
		if open > 0 {
			p.unexpected()
		}
		return 0
	}
	n := p.tok
	v := n.value
	if n.kind == tWord {
		v = n.word.value
	}
	p.advance()
	if v > limit {
		p.fail(n.pos, "", "%s %d is more than %d", what, v, limit)
	}
	for ; open > 0; open-- {
		if !p.isOp(")") {
			p.unexpected()
			return 0
		}
		p.advance()
	}
	*has = true
	return v
}

// protocol reads what begins with a protocol word: the word alone, a qualifier of what follows, or an octet access.
func (p *parser) protocol() operand {
	t := p.tok
	proto := t.word.proto
	p.advance()
	switch {
	case p.isOp("["):
		return p.load(proto, t)
	case p.tok.kind == tWord:
		switch p.tok.word.kind {
		case wSrc, wDst, wHost, wNet, wPort, wPortrange, wProtoNum:
			return p.head(proto, t.pos)
		case wBroadcast, wMulticast:
			return p.cast(proto, t.pos)
		case wRefused:
			p.unexpected()
			return operand{}
		}
	}
	if p.startsAddress() {
		hint := "put host, net, port or proto between them"
		if p.tok.kind == tName {
			if h := didYouMean(p.tok.text); h != "" {
				hint = h
			}
		}
		p.fail(p.tok.pos, hint, "did not expect %s after %s", p.tok, t)
		return operand{}
	}
	layer, num, ok := proto.Meaning()
	if !ok {
		p.fail(p.tok.pos, "host, src, dst, proto, broadcast, multicast or [offset] must follow ether", "%s alone is no condition", t)
		return operand{}
	}
	return operand{node: &Proto{Pos: t.pos, Layer: layer, Num: num}, pos: t.pos}
}

// load reads [index] or [index:size].
func (p *parser) load(proto Protocol, t token) operand {
	if !p.enter() {
		return operand{}
	}
	defer p.leave()
	if !protocols[proto].index {
		p.fail(p.tok.pos, "", "octets of %s cannot be read", t)
		return operand{}
	}
	p.advance()
	l := &Load{Pos: t.pos, Proto: proto, Size: 1}
	l.Index = p.arithmetic(0).arith
	if p.isOp(":") {
		p.advance()
		if p.tok.kind != tNum || p.tok.value != 1 && p.tok.value != 2 && p.tok.value != 4 {
			p.fail(p.tok.pos, "", "the size must be 1, 2 or 4")
			return operand{}
		}
		l.Size = uint8(p.tok.value)
		p.advance()
	}
	if !p.isOp("]") {
		p.fail(p.tok.pos, "", "expected ] and not %s", p.tok)
		return operand{}
	}
	p.advance()
	return operand{arith: l, pos: t.pos}
}

// cast reads broadcast or multicast.
func (p *parser) cast(proto Protocol, pos int) operand {
	multicast := p.isWord(wMulticast)
	t := p.tok
	p.advance()
	if proto == Any {
		proto = Link
	}
	switch {
	case proto == IP && !multicast:
		p.fail(t.pos, "give the addresses: dst host 10.0.0.255 or dst host 255.255.255.255",
			"ip broadcast needs the network's mask, which a filter does not know")
	case proto != Link && (proto != IP && proto != IP6 || !multicast):
		p.fail(t.pos, "ether broadcast, ether multicast, ip multicast, ip6 multicast", "%s has no %s", proto, t.text)
	}
	return operand{node: &Cast{Pos: pos, Proto: proto, Multicast: multicast}, pos: pos}
}
