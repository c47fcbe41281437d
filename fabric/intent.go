package fabric

import (
	"encoding/binary"
	"fmt"
	"slices"

	"opentap/want"
	"opentap/wire/of13"
)

// Rule is one rule that a switch shall have.
type Rule struct {
	Priority uint16
	Match    of13.Match
	Do       of13.Instructions
	Cookie   uint64
	Ingress  bool     // at the edge: it comes when all behind it is there, and goes first
	Policies []string // whose; none = the fabric's own
	Why      string   // in words
}

// key tells rules of a switch apart. All are in table 0.
func ruleKey(table uint8, priority uint16, m of13.Match) string {
	return string(binary.BigEndian.AppendUint16([]byte{table}, priority)) + m.Key()
}

// Key tells the rules of a switch apart.
func (r *Rule) Key() string { return ruleKey(0, r.Priority, r.Match) }

// String writes the rule for people.
func (r *Rule) String() string { return ruleText(0, r.Priority, r.Match, &r.Do) }

func ruleText(table uint8, priority uint16, m of13.Match, do *of13.Instructions) string {
	at := ""
	if table != 0 {
		at = fmt.Sprintf("table %d ", table)
	}
	return fmt.Sprintf("%spriority=%d %s → %s", at, priority, m, do)
}

// Bucketed is a group that a switch shall have. Its number follows from what it does, so that one that does something else is another.
type Bucketed struct {
	Kind    of13.GroupKind
	Buckets []of13.Bucket
	Why     string
}

// String writes the group for people.
func (g *Bucketed) String() string { return of13.BucketsString(g.Kind, g.Buckets) }

// Limit is a meter that a switch shall have.
type Limit struct {
	Kbps uint32
	Why  string
}

func (m *Limit) bands() []of13.Band { return []of13.Band{of13.DropBand(m.Kbps, 0)} }

// String writes the meter for people.
func (m *Limit) String() string { return fmt.Sprintf("drop above %d kbit/s", m.Kbps) }

// Holding is what one switch shall have.
type Holding struct {
	Rules  map[string]*Rule // by key
	Groups map[uint32]*Bucketed
	Meters map[uint32]*Limit
}

func newHolding() *Holding {
	return &Holding{Rules: make(map[string]*Rule), Groups: make(map[uint32]*Bucketed), Meters: make(map[uint32]*Limit)}
}

func (h *Holding) add(r *Rule) { h.Rules[r.Key()] = r }

// Sorted returns the rules, highest priority first.
func (h *Holding) Sorted() []*Rule {
	out := make([]*Rule, 0, len(h.Rules))
	for _, k := range sortedKeys(h.Rules) {
		out = append(out, h.Rules[k])
	}
	slices.SortStableFunc(out, func(a, b *Rule) int { return int(b.Priority) - int(a.Priority) })
	return out
}

// group takes a group into the holding and returns its number.
func (h *Holding) group(g *Bucketed) uint32 {
	text := g.String()
	for n := hash32(text); ; n++ {
		id := groupBase + n%groupRange
		if have, taken := h.Groups[id]; !taken || have.String() == text {
			h.Groups[id] = g
			return id
		}
	}
}

// meter takes a meter into the holding and returns its number. Meters are not shared: each limits what goes through it alone.
func (h *Holding) meter(m *Limit) uint32 {
	for n := hash32(m.Why); ; n++ {
		id := meterBase + n%meterRange
		if _, taken := h.Meters[id]; !taken {
			h.Meters[id] = m
			return id
		}
	}
}

// Intent is what the whole fabric shall have.
type Intent struct {
	Switches map[uint64]*Holding // those of the layout, all of them
	Policies []Outcome           // in the layout's order
	Ways     map[string]bool     // whose tags are in use
	Paths    []Path              // from each filter port to each tool
}

// Outcome is what became of a policy in the computation.
type Outcome struct {
	Name   string
	State  want.PolicyState
	Reason string
	Rules  int
}

// Path is how copies of one filter port reach one tool.
type Path struct {
	From     Endpoint // the filter port
	Tool     string
	Policies []string
	Cell     *Rule  // the rule that copies
	Switch   uint64 // where the tool is
	Outputs  []uint32
	Tag      uint16 // 0 = the tool is at the same switch
	Hops     []Hop  // switches behind the first, in order
}

// Hop is a switch on a path.
type Hop struct {
	Switch uint64
	Rules  []*Rule     // one for each cable that copies may come by
	Step   of13.Action // with which the switch before sends here
}

// Outcome returns what became of a policy.
func (i *Intent) Outcome(name string) (Outcome, bool) {
	for _, o := range i.Policies {
		if o.Name == name {
			return o, true
		}
	}
	return Outcome{}, false
}
