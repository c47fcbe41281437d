package filter

// arithmetic levels: operators of a higher level bind more tightly.
const unaryLevel = 6

var arithOps = map[string]struct {
	op    ArithOp
	level int
}{
	"|": {OpOr, 1}, "&": {OpAnd, 2}, "<<": {OpShl, 3}, ">>": {OpShr, 3}, "+": {OpAdd, 4}, "-": {OpSub, 4},
	"*": {OpMul, 5}, "/": {OpDiv, 5}, "%": {OpMod, 0}, "^": {OpXor, 0},
}

// arithmetic reads a value, with operators of at least the level.
func (p *parser) arithmetic(level int) operand {
	if !p.enter() {
		return operand{arith: &Const{}}
	}
	defer p.leave()
	o := p.primary(quals{})
	if p.err == nil && o.arith == nil {
		p.fail(o.pos, "", "expected a value, not a condition")
	}
	if p.err != nil {
		return operand{arith: &Const{}}
	}
	return p.climb(o, level)
}

// climb reads operators after o. % and ^ have no precedence in libpcap's grammar: they take all that follows, and bind
// to what is directly before them.
func (p *parser) climb(o operand, level int) operand {
	for p.err == nil && p.tok.kind == tOp {
		op, ok := arithOps[p.tok.text]
		if !ok || op.level != 0 && op.level <= level && level != 0 {
			break
		}
		opTok := p.tok
		p.advance()
		r := p.arithmetic(op.level)
		if c, ok := r.arith.(*Const); ok && p.err == nil {
			switch {
			case op.op == OpDiv && c.V == 0, op.op == OpMod && c.V == 0:
				p.fail(opTok.pos, "", "division by zero")
			case (op.op == OpShl || op.op == OpShr) && c.V > 31:
				p.fail(opTok.pos, "", "shift by more than 31 bits")
			}
		}
		b := &Binary{Op: op.op, L: o.arith, R: r.arith}
		o = operand{arith: b, pos: o.pos}
		if p.err == nil && shifts(b) > maxShifts {
			p.fail(opTok.pos, "", "more than %d shifts by a computed number of bits inside one another", maxShifts)
		}
	}
	return o
}

// maxShifts bounds how deep shifts by a computed number of bits are nested: each computes that number twice.
const maxShifts = 3

// shifts is how many of them are nested in a.
func shifts(a Arith) int {
	switch a := a.(type) {
	case *Neg:
		return shifts(a.X)
	case *Load:
		return shifts(a.Index)
	case *Binary:
		n := max(shifts(a.L), shifts(a.R))
		if _, ok := a.R.(*Const); !ok && (a.Op == OpShl || a.Op == OpShr) {
			n++
		}
		return n
	}
	return 0
}

// slots is how many intermediate values must be kept to compute a.
func slots(a Arith) int {
	switch a := a.(type) {
	case *Neg:
		return slots(a.X)
	case *Load:
		return slots(a.Index)
	case *Binary:
		if _, ok := a.R.(*Const); ok {
			return slots(a.L)
		}
		if a.Op == OpShl || a.Op == OpShr {
			return max(slots(a.R), slots(a.L)+1) + 2 // see cbpf: a factor that is zero for shifts beyond 31
		}
		return max(slots(a.R), slots(a.L)+1)
	}
	return 0
}
