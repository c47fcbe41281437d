package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) fabricVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Read the switches and compare them with what they should be", Args: cobra.NoArgs,
		Long: `verify reads all rules, groups and meters of all switches and prints what differs from what they should hold, intended against
actual; also links, ports and policies that are not as they should be. It changes nothing, and exits with 1 when it found something.`,
		Example: "  opentap fabric verify\n  opentap fabric verify -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			r, err := c.VerifyFabric(ctx)
			if err != nil {
				return err
			}
			if err := a.report(r); err != nil {
				return err
			}
			if !r.OK {
				return fmt.Errorf("%d findings", len(r.Findings))
			}
			a.say("%d rules in %d switches are as they should be", r.Rules, r.Switches)
			return nil
		}),
	}
}

func (a *app) report(r want.FabricReport) error {
	if a.output != "table" {
		rows := make([][]string, 0, len(r.Findings))
		for _, f := range r.Findings {
			rows = append(rows, []string{f.Switch, f.Kind, f.Text, f.Intended, f.Actual})
		}
		return a.table([]string{"SWITCH", "KIND", "TEXT", "INTENDED", "ACTUAL"}, rows, r)
	}
	var b strings.Builder
	for _, f := range r.Findings {
		where := f.Switch
		if where == "" {
			where = "fabric"
		}
		fmt.Fprintf(&b, "%s: %s: %s\n", clean(where), f.Kind, clean(f.Text))
		if f.Intended != "" {
			fmt.Fprintf(&b, "  intended  %s\n", clean(f.Intended))
		}
		if f.Actual != "" {
			fmt.Fprintf(&b, "  actual    %s\n", clean(f.Actual))
		}
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

func (a *app) fabricDriftCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "drift", Short: "Show the log of what was not as it should be, and what was done about it", Args: cobra.NoArgs,
		Example: "  opentap fabric drift",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.FabricDrift(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, d := range list {
				rows = append(rows, []string{when(d.Time), d.Switch, d.Kind, d.Done, d.Text})
			}
			return a.table([]string{"TIME", "SWITCH", "KIND", "DONE", "WHAT"}, rows, map[string]any{"drift": list})
		}),
	})
}

func (a *app) fabricProbeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "probe POLICY", Short: "Send marked frames along a policy's paths and see whether they arrive", Args: cobra.ExactArgs(1),
		Long: `probe sends a marked frame from each filter port of a policy, as if it had come in there, and sees where it comes by and whether the tool's
switch would deliver it: once, not at all, or more than once. Neither tools nor the networks behind filter ports get the
frame. It exits with 1 unless every frame was delivered once. It takes an administrator's token.`,
		Example: "  opentap fabric probe mirror-h1",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			list, err := c.ProbeFabric(ctx, args[0])
			if err != nil {
				return err
			}
			bad := 0
			rows := make([][]string, 0, len(list))
			for _, p := range list {
				if p.Result != "delivered" {
					bad++
				}
				rows = append(rows, []string{p.From, p.To, p.Result, strings.Join(p.Hops, " → "), (time.Duration(p.Micros) * time.Microsecond).String(), p.Detail})
			}
			if err := a.table([]string{"FROM", "TO", "RESULT", "HOPS", "TIME", "DETAIL"}, rows, map[string]any{"probes": list}); err != nil {
				return err
			}
			if bad > 0 || len(list) == 0 {
				return fmt.Errorf("%s of %d probes were not delivered once", strconv.Itoa(bad), len(list))
			}
			return nil
		}),
	}
}
