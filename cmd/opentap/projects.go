package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/report"
	"opentap/want"
)

func (a *app) projectsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "project", Aliases: []string{"projects"}, Short: "Say what tenants see and may have",
		Long: `project declares tenants. Who belongs to a project sees its captures and no others, and captures at its points and no others.

As long as no project is declared, every project sees all points. The project default sees all, unless points are given for it.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.projectSetCmd(), a.projectListCmd(), a.projectShowCmd(), a.projectDeleteCmd())
	return cmd
}

func (a *app) projectSetCmd() *cobra.Command {
	var r want.ProjectRequest
	var size string
	var duration, retain time.Duration
	cmd := &cobra.Command{
		Use: "set NAME", Aliases: []string{"create"}, Short: "Declare a project, or declare it otherwise", Args: cobra.ExactArgs(1),
		Long:    "set declares a project. What is not given is not bounded; points that are not given are not seen.",
		Example: "  opentap project set red --point 'left/tap-red-*' --point right/eth1 --captures 20 --bytes 10GiB",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			r.MaxDuration, r.MaxRetain = want.Duration(duration), want.Duration(retain)
			if size != "" {
				n, err := parseOctets(size)
				if err != nil {
					return err
				}
				r.Bytes = int64(n)
			}
			p, err := c.SetProject(ctx, args[0], r)
			if err != nil {
				return err
			}
			return a.project(p)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&r.Description, "description", "", "in plain words")
	f.StringArrayVar(&r.Points, "point", nil, "what it sees: node/name, with * for any characters; may be repeated")
	f.IntVar(&r.Captures, "captures", 0, "how many captures it may have at one time")
	f.StringVar(&size, "bytes", "", "how much its captures may hold before it can start another, such as 10GiB")
	f.DurationVar(&duration, "max-duration", 0, "how long one capture may be")
	f.DurationVar(&retain, "max-retention", 0, "how long data may be kept")
	f.BoolVar(&r.Probe, "probe", false, "who may start captures may send frames out of its points, from their own addresses")
	return cmd
}

// yes spells a truth.
func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// project shows one.
func (a *app) project(p want.Project) error {
	bound := func(n int64, text string) string {
		if n == 0 {
			return "as everybody"
		}
		return text
	}
	share := func(used string, n int64, text string) string {
		if n == 0 {
			return used + ", bounded as everybody's"
		}
		return used + " of " + text
	}
	points := strings.Join(p.Points, ", ")
	if points == "" && p.Name != "default" {
		points = "none: --point says what it sees"
	}
	return a.fields([][2]string{
		{"name", p.Name},
		{"description", p.Description},
		{"points", points},
		{"captures", share(strconv.Itoa(p.Used.Captures), int64(p.Captures), strconv.Itoa(p.Captures))},
		{"holds", share(octets(p.Used.Bytes), p.Bytes, octets(p.Bytes))},
		{"longest capture", bound(int64(p.MaxDuration), report.Limit(p.MaxDuration))},
		{"longest retention", bound(int64(p.MaxRetain), report.Limit(p.MaxRetain))},
		{"may probe", yes(p.Probe)},
		{"declared by", string(p.Origin)},
		{"changed", when(p.Changed)},
		{"by", p.By},
	}, p)
}

func (a *app) projectListCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "list", Short: "List the projects that you may see", Args: cobra.NoArgs,
		Example: "  opentap project list",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Projects(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, p := range list {
				rows = append(rows, []string{p.Name, strconv.Itoa(p.Used.Captures), octets(p.Used.Bytes), string(p.Origin), strings.Join(p.Points, " ")})
			}
			return a.table([]string{"NAME", "CAPTURES", "HOLDS", "DECLARED BY", "POINTS"}, rows, map[string]any{"projects": list})
		}),
	})
}

func (a *app) projectShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a project", Args: cobra.ExactArgs(1),
		Example: "  opentap project show red",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Project(ctx, args[0])
			if err != nil {
				return err
			}
			return a.project(p)
		}),
	}
}

func (a *app) projectDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME...", Short: "Forget projects that have nothing any more", Args: cobra.MinimumNArgs(1),
		Example: "  opentap project delete red",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if err := c.DeleteProject(ctx, name); err != nil {
					return fmt.Errorf("delete %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}
