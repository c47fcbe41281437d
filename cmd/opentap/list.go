package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/filter"
	"opentap/report"
	"opentap/want"
)

// ask wraps a command that needs the server.
func (a *app) ask(fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		return fn(ctx, c, args)
	})
}

func (a *app) pointsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "points", Short: "List observation points", Args: cobra.NoArgs,
		Example: "  opentap points\n  opentap points -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Points(ctx)
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
				if p.Dedicated {
					notes = append(notes, "dedicated")
				}
				if p.ReadBy != "" {
					notes = append(notes, "read by "+p.ReadBy)
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
					detail = bits(p.SpeedBPS)
				}
				rows = append(rows, []string{p.Name, strings.Join(p.Aliases, ","), p.Node, string(p.Kind), state, detail, strings.Join(notes, "; ")})
			}
			return a.table([]string{"NAME", "ALIASES", "NODE", "KIND", "STATE", "DETAIL", "NOTES"}, rows, map[string]any{"points": list})
		}),
	}
}

func bits(n uint64) string {
	switch {
	case n >= 1e9:
		return strconv.FormatFloat(float64(n)/1e9, 'g', 4, 64) + " Gbit/s"
	case n >= 1e6:
		return strconv.FormatFloat(float64(n)/1e6, 'g', 4, 64) + " Mbit/s"
	}
	return strconv.FormatUint(n, 10) + " bit/s"
}

func (a *app) capturesCmd() *cobra.Command {
	return &cobra.Command{
		Use: "captures", Short: "List captures", Args: cobra.NoArgs,
		Example: "  opentap captures\n  opentap captures -o csv",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Captures(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for i := range list {
				v := &list[i]
				s := &v.Status
				n := s.Records
				if v.Kind == want.Packets {
					n = s.Ledger.Captured
				}
				rows = append(rows, []string{
					v.ID, string(v.Kind), strings.Join(v.Query.Points, ","), string(s.State), when(v.Query.From), when(v.End()),
					strconv.FormatUint(n, 10), octets(s.Bytes), strconv.FormatUint(s.Ledger.DroppedTotal(), 10), v.Query.Filter,
				})
			}
			return a.table([]string{"ID", "KIND", "POINTS", "STATE", "FROM", "TO", "RECORDS", "SIZE", "DROPPED", "FILTER"}, rows, map[string]any{"captures": list})
		}),
	}
}

func (a *app) showCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a capture with its packet accounts", Args: cobra.ExactArgs(1),
		Example: "  opentap show cap-1",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			v, err := c.Capture(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showView(&v)
		}),
	}
}

func (a *app) showView(v *want.View) error {
	s, l := &v.Status, &v.Status.Ledger
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
		{"formats", report.Formats(v.Formats)},
		{"on disk", octets(s.Bytes)},
		{"records", count(s.Records)},
	}
	if v.Kind == want.Packets || v.Kind == want.Flows {
		list = append(list, [2]string{"packets", report.Accounts(l)})
	}
	for _, g := range s.Gaps {
		list = append(list, [2]string{"gap", gapText(g)})
	}
	return a.fields(list, v)
}

func gapText(g want.Gap) string {
	return fmt.Sprintf("%s to %s: %s", when(g.From), when(g.To), g.Reason)
}

func count(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func (a *app) stopCmd() *cobra.Command {
	return &cobra.Command{
		Use: "stop ID", Short: "Stop a capture; what was captured is kept", Args: cobra.ExactArgs(1),
		Example: "  opentap stop cap-1",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			v, err := c.Stop(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showView(&v)
		}),
	}
}

func (a *app) deleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID...", Aliases: []string{"rm"}, Short: "Delete captures and their data", Args: cobra.MinimumNArgs(1),
		Example: "  opentap delete cap-1 cap-2",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, id := range args {
				if err := c.Delete(ctx, id); err != nil {
					return fmt.Errorf("delete %s: %w", id, err)
				}
			}
			return nil
		}),
	}
}

func (a *app) capabilitiesCmd() *cobra.Command {
	return &cobra.Command{
		Use: "capabilities", Short: "Say what the server can do", Args: cobra.NoArgs,
		Example: "  opentap capabilities",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			v, err := c.Capabilities(ctx)
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
				[2]string{"longest retention", report.Limit(v.RetentionMax)}, [2]string{"longest capture", report.Limit(v.MaxDuration)}, [2]string{"quota", octets(v.QuotaBytes)})
			return a.fields(list, v)
		}),
	}
}

func (a *app) filterCmd() *cobra.Command {
	check := &cobra.Command{
		Use: "check EXPR", Short: "Check a filter and say what it means; asks no server", Args: cobra.ExactArgs(1),
		Example: "  opentap filter check 'tcp port 443 and not host 10.0.0.1'",
		RunE: a.do(func(_ context.Context, args []string) error {
			e, err := filter.Parse(args[0])
			if err != nil {
				return err
			}
			return a.fields([][2]string{{"filter", e.String()}, {"means", e.Explain()}}, map[string]string{"filter": e.String(), "explanation": e.Explain()})
		}),
	}
	cmd := &cobra.Command{Use: "filter", Short: "Work with filters", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(check, a.filterExplainCmd(), a.filterTestCmd())
	return cmd
}
