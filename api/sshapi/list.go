package sshapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/report"
	"opentap/want"
)

// table writes rows in the form that was asked for. raw is what -o json writes.
func (c *call) table(header []string, rows [][]string, raw any) error {
	return report.Table(c.out, report.Form(c.output), header, rows, raw)
}

// fields writes one thing, a line a property.
func (c *call) fields(list [][2]string, raw any) error {
	return report.Fields(c.out, report.Form(c.output), list, raw)
}

// when writes a time for people, who may be anywhere: in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

var pointsVerb = verb{
	name: "points", short: "List observation points", example: "  ssh HOST points\n  ssh HOST points -o json", lists: true,
	prepare: func(*options) func(context.Context, *call) error {
		return func(ctx context.Context, c *call) error {
			list, err := c.s.ctl.Points(ctx, c.id)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, p := range list {
				var notes []string
				if p.Default {
					notes = append(notes, "default")
				}
				if !p.Present {
					notes = append(notes, "absent")
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
					detail = strconv.FormatFloat(float64(p.SpeedBPS)/1e6, 'f', -1, 64) + " Mbit/s"
				}
				rows = append(rows, []string{p.Name, strings.Join(p.Aliases, ","), p.Node, string(p.Kind), state, detail, strings.Join(notes, "; ")})
			}
			return c.table([]string{"NAME", "ALIASES", "NODE", "KIND", "STATE", "DETAIL", "NOTES"}, rows, map[string]any{"points": list})
		}
	},
}

var capabilitiesVerb = verb{
	name: "capabilities", short: "Say what the server can do", example: "  ssh HOST capabilities", lists: true,
	prepare: func(*options) func(context.Context, *call) error {
		return func(ctx context.Context, c *call) error {
			v, err := c.s.ctl.Capabilities(ctx, c.id)
			if err != nil {
				return err
			}
			list := [][2]string{{"name", v.Name}, {"version", v.Version}}
			for _, k := range v.Kinds {
				list = append(list, [2]string{"captures", strings.TrimSpace(string(k) + "  " + report.Formats(v.Formats[k]))})
			}
			for _, k := range slices.Sorted(maps.Keys(v.Missing)) {
				list = append(list, [2]string{"missing", k + ": " + v.Missing[k]})
			}
			list = append(list, [2]string{"default point", v.DefaultPoint}, [2]string{"retention", report.Limit(v.RetentionDefault)},
				[2]string{"longest retention", report.Limit(v.RetentionMax)}, [2]string{"longest capture", report.Limit(v.MaxDuration)}, [2]string{"quota", report.Octets(v.QuotaBytes)})
			return c.fields(list, v)
		}
	},
}

var capturesVerb = verb{
	name: "captures", short: "List captures", example: "  ssh HOST captures\n  ssh HOST captures -o csv", lists: true,
	prepare: func(*options) func(context.Context, *call) error {
		return func(ctx context.Context, c *call) error {
			list, err := c.s.ctl.Captures(ctx, c.id)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for i := range list {
				v := &list[i]
				st := &v.Status
				n := st.Records
				if v.Kind == want.Packets {
					n = st.Ledger.Captured
				}
				rows = append(rows, []string{
					v.ID, string(v.Kind), strings.Join(v.Query.Points, ","), string(st.State), when(v.Query.From), when(v.End()),
					strconv.FormatUint(n, 10), report.Octets(st.Bytes), strconv.FormatUint(st.Ledger.DroppedTotal(), 10), v.Query.Filter,
				})
			}
			return c.table([]string{"ID", "KIND", "POINTS", "STATE", "FROM", "TO", "RECORDS", "SIZE", "DROPPED", "FILTER"}, rows, map[string]any{"captures": list})
		}
	},
}

var showVerb = verb{
	name: "show", args: "ID", short: "Show a capture with its packet accounts", example: "  ssh HOST show cap-1", lists: true, min: 1, max: 1,
	prepare: func(*options) func(context.Context, *call) error {
		return func(ctx context.Context, c *call) error {
			v, err := c.s.ctl.Capture(ctx, c.id, c.args[0])
			if err != nil {
				return err
			}
			return c.show(&v)
		}
	},
}

// show writes one capture.
func (c *call) show(v *want.View) error {
	st := &v.Status
	list := [][2]string{
		{"id", v.ID},
		{"kind", string(v.Kind)},
		{"points", strings.Join(v.Query.Points, ", ")},
		{"node", v.Node},
		{"owner", v.Owner},
		{"state", string(st.State)},
		{"reason", st.Reason},
		{"filter", v.Query.Filter},
		{"from", when(v.Query.From)},
		{"to", when(v.End())},
		{"started", when(st.Started)},
		{"ended", when(st.Ended)},
		{"expires", when(v.Expires)},
		{"size", report.Octets(st.Bytes)},
		{"note", v.Note},
	}
	if v.Kind == want.Packets || v.Kind == want.Flows {
		list = append(list, [2]string{"packets", report.Accounts(&st.Ledger)})
	}
	if v.Kind != want.Packets {
		list = append(list, [2]string{"records", strconv.FormatUint(st.Records, 10)})
	}
	for _, g := range st.Gaps {
		list = append(list, [2]string{"gap", gapText(g)})
	}
	list = append(list, [2]string{"formats", report.Formats(v.Formats)})
	return c.fields(list, v)
}

func gapText(g want.Gap) string {
	to := "now"
	if !g.To.IsZero() {
		to = when(g.To)
	}
	return fmt.Sprintf("%s to %s: %s", when(g.From), to, g.Reason)
}

var stopVerb = verb{
	name: "stop", args: "ID", short: "Stop a capture; what was captured is kept", example: "  ssh HOST stop cap-1", lists: true, min: 1, max: 1,
	prepare: func(*options) func(context.Context, *call) error {
		return func(ctx context.Context, c *call) error {
			v, err := c.s.ctl.StopCapture(ctx, c.id, c.args[0])
			if err != nil {
				return err
			}
			return c.show(&v)
		}
	},
}

var deleteVerb = verb{
	name: "delete", args: "ID...", short: "Delete captures and their data", example: "  ssh HOST delete cap-1 cap-2", min: 1, max: -1,
	prepare: func(*options) func(context.Context, *call) error {
		return func(ctx context.Context, c *call) error {
			for _, id := range c.args {
				if err := c.s.ctl.DeleteCapture(ctx, c.id, id); err != nil {
					return fmt.Errorf("delete %s: %w", id, err)
				}
			}
			return nil
		}
	},
}
