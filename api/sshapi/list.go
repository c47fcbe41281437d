package sshapi

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"opentap/ledger"
	"opentap/want"
)

// clean makes text from elsewhere safe for a terminal: control characters, which could move the cursor or hide text, and
// characters that change the writing direction, are shown as codes.
func clean(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	var b strings.Builder
	for _, r := range s {
		if unsafeRune(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unsafeRune(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f || r == 0x061c || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}

// table writes rows in the form that was asked for. raw is what -o json writes.
func (c *call) table(header []string, rows [][]string, raw any) error {
	switch c.output {
	case "json":
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(raw); err != nil {
			return err
		}
		var out strings.Builder
		for _, r := range b.String() {
			if r != '\n' && unsafeRune(r) {
				fmt.Fprintf(&out, `\u%04x`, r)
				continue
			}
			out.WriteRune(r)
		}
		_, err := io.WriteString(c.out, out.String())
		return err
	case "csv":
		w := csv.NewWriter(c.out)
		names := make([]string, len(header))
		for i, h := range header {
			names[i] = strings.ReplaceAll(strings.ToLower(h), " ", "_")
		}
		_ = w.Write(names)
		for _, r := range rows {
			for i := range r {
				r[i] = clean(r[i])
			}
			_ = w.Write(r)
		}
		w.Flush()
		return w.Error()
	}
	all := append([][]string{header}, rows...)
	width := make([]int, len(header))
	for _, r := range all {
		for i := range r {
			if r[i] = clean(r[i]); r[i] == "" {
				r[i] = "-"
			}
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	var b strings.Builder
	for _, r := range all {
		for i, cell := range r {
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

// fields writes one thing, a line a property.
func (c *call) fields(list [][2]string, raw any) error {
	rows := make([][]string, 0, len(list))
	for _, f := range list {
		if f[1] != "" || c.output == "csv" {
			rows = append(rows, []string{f[0], f[1]})
		}
	}
	return c.table([]string{"PROPERTY", "VALUE"}, rows, raw)
}

func octets[T ~int64 | ~uint64 | ~int](n T) string {
	f, i := float64(n), 0
	names := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for f >= 999.95 && i < len(names)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, names[i])
}

// when writes a time for people, who may be anywhere: in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func limit(d want.Duration) string {
	if d == 0 {
		return "no limit"
	}
	return time.Duration(d).String()
}

func joinFormats(list []want.Format) string {
	s := make([]string, len(list))
	for i, f := range list {
		s[i] = string(f)
	}
	return strings.Join(s, ", ")
}

// accounts tells what became of packets in one line.
func accounts(l *ledger.Account) string {
	return fmt.Sprintf("%d seen, %d captured, %d filtered, %d dropped%s", l.Seen, l.Captured, l.Filtered, l.DroppedTotal(), reasons(l))
}

// reasons names why packets were dropped.
func reasons(l *ledger.Account) string {
	var r []string
	for i, n := range l.Dropped {
		if n > 0 {
			r = append(r, fmt.Sprintf("%s %d", strings.ReplaceAll(ledger.Reason(i).String(), "_", " "), n))
		}
	}
	if len(r) == 0 {
		return ""
	}
	return " (" + strings.Join(r, ", ") + ")"
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
				list = append(list, [2]string{"captures", strings.TrimSpace(string(k) + "  " + joinFormats(v.Formats[k]))})
			}
			for _, k := range slices.Sorted(maps.Keys(v.Missing)) {
				list = append(list, [2]string{"missing", k + ": " + v.Missing[k]})
			}
			list = append(list, [2]string{"default point", v.DefaultPoint}, [2]string{"retention", limit(v.RetentionDefault)},
				[2]string{"longest retention", limit(v.RetentionMax)}, [2]string{"longest capture", limit(v.MaxDuration)}, [2]string{"quota", octets(v.QuotaBytes)})
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
					strconv.FormatUint(n, 10), octets(st.Bytes), strconv.FormatUint(st.Ledger.DroppedTotal(), 10), v.Query.Filter,
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
		{"size", octets(st.Bytes)},
		{"note", v.Note},
	}
	if v.Kind == want.Packets || v.Kind == want.Flows {
		list = append(list, [2]string{"packets", accounts(&st.Ledger)})
	}
	if v.Kind != want.Packets {
		list = append(list, [2]string{"records", strconv.FormatUint(st.Records, 10)})
	}
	for _, g := range st.Gaps {
		list = append(list, [2]string{"gap", gapText(g)})
	}
	list = append(list, [2]string{"formats", joinFormats(v.Formats)})
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
