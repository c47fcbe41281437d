package fabric

import (
	"fmt"
	"slices"

	"opentap/want"
	"opentap/wire/of13"
)

// Actual is what a switch has.
type Actual struct {
	Rules  []of13.FlowStats
	Groups []of13.GroupDesc
	Meters []of13.MeterConfig
}

// Difference is how a switch's tables are not what they should be.
type Difference struct {
	Missing []*Rule
	Changed []Changed
	Extra   []of13.FlowStats // with our mark, and nobody wants them
	Foreign []Blocking       // of somebody else, and in the way

	MissingGroups, ChangedGroups []uint32
	ExtraGroups                  []of13.GroupDesc
	MissingMeters, ChangedMeters []uint32
	ExtraMeters                  []of13.MeterConfig

	Others int // rules of somebody else, in the way or not
}

// Changed is a rule that does something else than it should.
type Changed struct {
	Want *Rule
	Have of13.FlowStats
}

// Blocking is a rule of somebody else that takes packets from one of ours.
type Blocking struct {
	Have  of13.FlowStats
	First *Rule // of those it takes from
	Count int
}

// Clean reports whether everything of ours is as it should be.
func (d *Difference) Clean() bool {
	return len(d.Missing)+len(d.Changed)+len(d.Extra)+len(d.MissingGroups)+len(d.ChangedGroups)+len(d.ExtraGroups)+
		len(d.MissingMeters)+len(d.ChangedMeters)+len(d.ExtraMeters) == 0
}

// Diff compares. A rule without our mark that stands exactly where one of ours should is taken as changed: there can only be one.
func Diff(h *Holding, a *Actual) *Difference {
	d := &Difference{}
	have := make(map[string]bool)
	for _, f := range a.Rules {
		key := ruleKey(f.Table, f.Priority, f.Match)
		r := h.Rules[key]
		switch {
		case r != nil:
			have[key] = true
			if !r.Do.Equal(&f.Do) || f.Cookie != r.Cookie || f.Idle != 0 || f.Hard != 0 {
				d.Changed = append(d.Changed, Changed{r, f})
			}
		case Ours(f.Cookie):
			d.Extra = append(d.Extra, f)
		default:
			d.Others++
			if b := blocks(h, f); b.Count > 0 {
				d.Foreign = append(d.Foreign, b)
			}
		}
	}
	for _, r := range h.Sorted() {
		if !have[r.Key()] {
			d.Missing = append(d.Missing, r)
		}
	}
	groups := make(map[uint32]bool)
	for _, g := range a.Groups {
		w := h.Groups[g.ID]
		switch {
		case w != nil:
			groups[g.ID] = true
			if (&Bucketed{Kind: g.Kind, Buckets: canonical(g.Buckets)}).String() != (&Bucketed{Kind: w.Kind, Buckets: canonical(w.Buckets)}).String() {
				d.ChangedGroups = append(d.ChangedGroups, g.ID)
			}
		case OurGroup(g.ID):
			d.ExtraGroups = append(d.ExtraGroups, g)
		}
	}
	meters := make(map[uint32]bool)
	for _, m := range a.Meters {
		w := h.Meters[m.ID]
		switch {
		case w != nil:
			meters[m.ID] = true
			if len(m.Bands) != 1 || m.Bands[0].Kind != 1 || m.Bands[0].Rate != w.Kbps || m.Flags&of13.MeterPktps != 0 {
				d.ChangedMeters = append(d.ChangedMeters, m.ID)
			}
		case OurMeter(m.ID):
			d.ExtraMeters = append(d.ExtraMeters, m)
		}
	}
	d.MissingGroups, d.MissingMeters = missing(h.Groups, groups), missing(h.Meters, meters)
	return d
}

func missing[V any](want map[uint32]V, have map[uint32]bool) []uint32 {
	var out []uint32
	for id := range want {
		if !have[id] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// canonical leaves out what has no meaning for the group: switches fill it in as they like.
func canonical(list []of13.Bucket) []of13.Bucket {
	out := slices.Clone(list)
	for i := range out {
		out[i].WatchGroup = of13.GroupAny
	}
	return out
}

// blocks finds out whom a rule of somebody else takes packets from.
func blocks(h *Holding, f of13.FlowStats) Blocking {
	b := Blocking{Have: f}
	if f.Table != 0 {
		return b
	}
	for _, r := range h.Sorted() {
		if f.Priority >= r.Priority && f.Match.Overlaps(r.Match) {
			if b.Count == 0 {
				b.First = r
			}
			b.Count++
		}
	}
	return b
}

// RuleText writes a switch's rule for people.
func RuleText(f *of13.FlowStats) string {
	s := ruleText(f.Table, f.Priority, f.Match, &f.Do)
	if f.Idle != 0 || f.Hard != 0 {
		s += fmt.Sprintf(" (idle %d s, hard %d s)", f.Idle, f.Hard)
	}
	return s
}

// Findings writes the difference for people.
func (d *Difference) Findings(name string, h *Holding, a *Actual) []want.FabricFinding {
	var out []want.FabricFinding
	add := func(kind, text, intended, actual string) {
		out = append(out, want.FabricFinding{Kind: kind, Switch: name, Text: text, Intended: intended, Actual: actual})
	}
	for _, r := range d.Missing {
		add(want.FindingMissing, "the rule is not there: "+r.Why, r.String(), "")
	}
	for _, c := range d.Changed {
		text := "the rule does something else: "
		switch {
		case !Ours(c.Have.Cookie):
			text = "somebody else's rule stands in the place of ours: "
		case c.Have.Idle != 0 || c.Have.Hard != 0:
			text = "the rule would vanish by itself: "
		}
		add(want.FindingChanged, text+c.Want.Why, c.Want.String(), RuleText(&c.Have))
	}
	for i := range d.Extra {
		add(want.FindingExtra, "a rule with our mark that nobody wants", "", RuleText(&d.Extra[i]))
	}
	for _, b := range d.Foreign {
		more := ""
		if b.Count > 1 {
			more = fmt.Sprintf(", and from %d more", b.Count-1)
		}
		add(want.FindingForeign, fmt.Sprintf("somebody else's rule (cookie 0x%x) takes packets from: %s%s", b.Have.Cookie, b.First.Why, more), b.First.String(), RuleText(&b.Have))
	}
	for _, id := range d.MissingGroups {
		add(want.FindingMissing, fmt.Sprintf("group 0x%x is not there: %s", id, h.Groups[id].Why), h.Groups[id].String(), "")
	}
	for _, id := range d.ChangedGroups {
		for _, g := range a.Groups {
			if g.ID == id {
				add(want.FindingChanged, fmt.Sprintf("group 0x%x does something else: %s", id, h.Groups[id].Why), h.Groups[id].String(), of13.BucketsString(g.Kind, g.Buckets))
			}
		}
	}
	for _, g := range d.ExtraGroups {
		add(want.FindingExtra, fmt.Sprintf("group 0x%x has our mark and nobody wants it", g.ID), "", of13.BucketsString(g.Kind, g.Buckets))
	}
	for _, id := range d.MissingMeters {
		add(want.FindingMissing, fmt.Sprintf("meter %d is not there: %s", id, h.Meters[id].Why), h.Meters[id].String(), "")
	}
	for _, id := range d.ChangedMeters {
		add(want.FindingChanged, fmt.Sprintf("meter %d does something else: %s", id, h.Meters[id].Why), h.Meters[id].String(), "")
	}
	for _, m := range d.ExtraMeters {
		add(want.FindingExtra, fmt.Sprintf("meter %d has our mark and nobody wants it", m.ID), "", "")
	}
	return out
}

// Steps are the messages that make a switch what it should be, in the order in which copies are never lost and never go
// nowhere. Behind is for what comes after the edge, Edge is to take effect at once and together, After goes when frames that
// were under way have passed.
type Steps struct {
	Meters              []of13.Message // before all else; switches take them in no bundle
	Behind, Edge, After []of13.Message
	// BehindOf and EdgeOf are the policies of each message.
	BehindOf, EdgeOf [][]string
}

// Empty reports whether there is nothing to do.
func (s *Steps) Empty() bool { return len(s.Meters)+len(s.Behind)+len(s.Edge)+len(s.After) == 0 }

// Repair makes the steps of a difference.
func Repair(h *Holding, d *Difference) *Steps {
	s := &Steps{}
	behind := func(policies []string, m of13.Message) {
		s.Behind, s.BehindOf = append(s.Behind, m), append(s.BehindOf, policies)
	}
	edge := func(policies []string, m of13.Message) {
		s.Edge, s.EdgeOf = append(s.Edge, m), append(s.EdgeOf, policies)
	}
	for _, id := range d.MissingMeters {
		s.Meters = append(s.Meters, &of13.MeterMod{Command: of13.MeterAdd, Flags: of13.MeterKbps, ID: id, Bands: h.Meters[id].bands()})
	}
	for _, id := range d.ChangedMeters {
		s.Meters = append(s.Meters, &of13.MeterMod{Command: of13.MeterModify, Flags: of13.MeterKbps, ID: id, Bands: h.Meters[id].bands()})
	}
	for _, id := range d.MissingGroups {
		behind(nil, &of13.GroupMod{Command: of13.GroupAdd, Kind: h.Groups[id].Kind, ID: id, Buckets: h.Groups[id].Buckets})
	}
	for _, id := range d.ChangedGroups {
		behind(nil, &of13.GroupMod{Command: of13.GroupModify, Kind: h.Groups[id].Kind, ID: id, Buckets: h.Groups[id].Buckets})
	}
	put := func(r *Rule) {
		m := r.Add()
		if r.Ingress {
			edge(r.Policies, m)
		} else {
			behind(r.Policies, m)
		}
	}
	for _, r := range d.Missing {
		put(r)
	}
	for _, c := range d.Changed {
		put(c.Want) // an add replaces what matches the same at the same priority, at once
	}
	for i := range d.Extra {
		f := &d.Extra[i]
		m := &of13.FlowMod{
			Command: of13.FlowDeleteStrict, Table: f.Table, Cookie: f.Cookie, CookieMask: ^uint64(0), Priority: f.Priority,
			OutPort: of13.PortAny, OutGroup: of13.GroupAny, Match: f.Match,
		}
		if _, tagged := f.Match.Get(of13.VLANVID); tagged && f.Cookie>>32&0xffff == kindWay {
			s.After = append(s.After, m)
		} else {
			edge(nil, m)
		}
	}
	for _, g := range d.ExtraGroups {
		s.After = append(s.After, &of13.GroupMod{Command: of13.GroupDelete, Kind: g.Kind, ID: g.ID})
	}
	for _, m := range d.ExtraMeters {
		s.After = append(s.After, &of13.MeterMod{Command: of13.MeterDelete, Flags: m.Flags, ID: m.ID})
	}
	return s
}
