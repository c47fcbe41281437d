package main

import (
	"context"
	"fmt"

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
		if a.limit < 0 {
			return usagef("--limit cannot be negative")
		}
		return fn(ctx, c.Limited(a.limit), args)
	})
}

// listing gives a command that lists the flag --limit.
func (a *app) listing(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().IntVar(&a.limit, "limit", 0, "list `N` at most (default: all)")
	return cmd
}

func (a *app) pointsCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "points", Short: "List observation points", Args: cobra.NoArgs,
		Example: "  opentap points\n  opentap points -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Points(ctx)
			if err != nil {
				return err
			}
			header, rows := report.Points(list)
			return a.table(header, rows, map[string]any{"points": list})
		}),
	})
}

func (a *app) capturesCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "captures", Short: "List captures", Args: cobra.NoArgs,
		Example: "  opentap captures\n  opentap captures -o csv",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Captures(ctx)
			if err != nil {
				return err
			}
			header, rows := report.Captures(list, when)
			return a.table(header, rows, map[string]any{"captures": list})
		}),
	})
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
	return a.fields(report.Capture(v, when), v)
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
			return a.fields(report.Capabilities(&v), v)
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
