package sshapi

import (
	"context"
	"fmt"
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
			header, rows := report.Points(list)
			return c.table(header, rows, map[string]any{"points": list})
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
			return c.fields(report.Capabilities(&v), v)
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
			header, rows := report.Captures(list, when)
			return c.table(header, rows, map[string]any{"captures": list})
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
func (c *call) show(v *want.View) error { return c.fields(report.Capture(v, when), v) }

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
