package report

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/point"
	"opentap/want"
)

// Times writes times of things as the reader wants them: local or UTC. It gets the zero time where there is none.
type Times func(time.Time) string

// Points makes a table of observation points.
func Points(list []point.Point) (header []string, rows [][]string) {
	rows = make([][]string, 0, len(list))
	for i := range list {
		p := &list[i]
		var notes []string
		if p.Default {
			notes = append(notes, "default")
		}
		if !p.Present {
			notes = append(notes, "absent")
		}
		if p.Dedicated {
			notes = append(notes, "dedicated")
		}
		if p.ReadBy != "" {
			notes = append(notes, "read by "+p.ReadBy)
		}
		if p.Restraint != "" {
			notes = append(notes, p.Restraint)
		}
		if p.NoPcap != "" {
			notes = append(notes, "no packets: "+p.NoPcap)
		}
		state, detail := "down", ""
		if p.Up {
			state = "up"
		}
		switch {
		case p.Quantity != "":
			state, detail = "", p.Quantity+" ("+p.Unit+")"
		case p.SpeedBPS > 0:
			detail = Bits(p.SpeedBPS)
		}
		rows = append(rows, []string{p.Name, strings.Join(p.Aliases, ","), p.Node, string(p.Kind), state, detail, strings.Join(notes, "; ")})
	}
	return []string{"NAME", "ALIASES", "NODE", "KIND", "STATE", "DETAIL", "NOTES"}, rows
}

// Captures makes a table of captures.
func Captures(list []want.View, when Times) (header []string, rows [][]string) {
	rows = make([][]string, 0, len(list))
	for i := range list {
		v := &list[i]
		s := &v.Status
		n := s.Records
		if v.Kind == want.Packets {
			n = s.Ledger.Captured
		}
		rows = append(rows, []string{
			v.ID, string(v.Kind), strings.Join(v.Query.Points, ","), string(s.State), when(v.Query.From), when(v.End()),
			strconv.FormatUint(n, 10), Octets(s.Bytes), strconv.FormatUint(s.Ledger.DroppedTotal(), 10), v.Query.Filter,
		})
	}
	return []string{"ID", "KIND", "POINTS", "STATE", "FROM", "TO", "RECORDS", "SIZE", "DROPPED", "FILTER"}, rows
}

// Capture tells all there is to know of one.
func Capture(v *want.View, when Times) [][2]string {
	s := &v.Status
	list := [][2]string{
		{"id", v.ID},
		{"kind", string(v.Kind)},
		{"quantity", v.Quantity},
		{"points", strings.Join(v.Query.Points, ", ")},
		{"node", v.Node},
		{"state", string(s.State)},
		{"reason", s.Reason},
		{"from", when(v.Query.From)},
		{"to", when(v.End())},
		{"filter", v.Query.Filter},
		{"filtering", v.Filtering},
		{"note", v.Note},
		{"owner", v.Owner},
		{"project", v.Project},
		{"expires", when(v.Expires)},
		{"formats", Formats(v.Formats)},
		{"on disk", Octets(s.Bytes)},
	}
	if s.Records > 0 {
		list = append(list, [2]string{"records", strconv.FormatUint(s.Records, 10)})
	}
	if v.Kind == want.Packets || v.Kind == want.Flows {
		list = append(list, [2]string{"packets", Accounts(&s.Ledger)})
	}
	for _, g := range s.Gaps {
		list = append(list, [2]string{"gap", Gap(g, when)})
	}
	return list
}

// Gap tells when nothing was seen, and why.
func Gap(g want.Gap, when Times) string {
	to := "now"
	if !g.To.IsZero() {
		to = when(g.To)
	}
	return fmt.Sprintf("%s to %s: %s", when(g.From), to, g.Reason)
}

// Capabilities tells what a server can do.
func Capabilities(v *want.Capabilities) [][2]string {
	list := [][2]string{{"name", v.Name}, {"version", v.Version}}
	for _, k := range v.Kinds {
		list = append(list, [2]string{"captures", strings.TrimSpace(string(k) + "  " + Formats(v.Formats[k]))})
	}
	for _, k := range slices.Sorted(maps.Keys(v.Missing)) {
		list = append(list, [2]string{"missing", k + ": " + v.Missing[k]})
	}
	return append(list,
		[2]string{"default point", v.DefaultPoint},
		[2]string{"retention", Limit(v.RetentionDefault)},
		[2]string{"longest retention", Limit(v.RetentionMax)},
		[2]string{"longest capture", Limit(v.MaxDuration)},
		[2]string{"quota", Octets(v.QuotaBytes)})
}
