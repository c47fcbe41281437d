package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

// errSick ends opentap doctor when something is bad.
var errSick = errors.New("something is bad: see the fixes above")

func (a *app) doctorCmd() *cobra.Command {
	var settings bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Have the server's host look at itself", Args: cobra.NoArgs,
		Long: `doctor has the server look at the host that it runs on: kernel and its features, capabilities, clock, speed of the disks,
room, memory for rings, what was left behind, audit log, certificate; and says for each what to do about it. It takes an
administrator's token, and a few seconds: the disks are written to. Exit code 1 when something is bad.

-o json has everything, the settings too; -o csv and the table have the findings, or with --settings the configuration: each
value with where it is from (default, file, flag).`,
		Example: "  opentap doctor\n  opentap doctor --settings\n  opentap doctor -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			x, err := c.Doctor(ctx)
			if err != nil {
				return err
			}
			bad := false
			rows := make([][]string, 0, len(x.Findings))
			for _, f := range x.Findings {
				bad = bad || f.Severity == want.Bad
				rows = append(rows, []string{string(f.Severity), f.Check, f.Text, f.Fix})
			}
			switch {
			case settings && a.output != "json":
				rows = rows[:0]
				for _, s := range x.Settings {
					rows = append(rows, []string{s.Key, s.Value, s.Origin})
				}
				err = a.table([]string{"KEY", "VALUE", "ORIGIN"}, rows, x)
			case a.output == "table":
				for _, f := range x.Findings {
					if _, err = fmt.Fprintf(a.stdout, "%-4s  %-14s %s\n", clean(string(f.Severity)), clean(f.Check), clean(f.Text)); err == nil && f.Fix != "" {
						_, err = fmt.Fprintf(a.stdout, "      %-14s → %s\n", "", clean(f.Fix))
					}
				}
			default:
				err = a.table([]string{"SEVERITY", "CHECK", "TEXT", "FIX"}, rows, x)
			}
			if err == nil && bad {
				return errSick
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&settings, "settings", false, "show the configuration and where each value is from")
	return cmd
}
