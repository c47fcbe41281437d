package main

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

// errSick ends opentap doctor when something is bad.
var errSick = errors.New("something is bad: see the fixes above")

func (a *app) doctorCmd() *cobra.Command {
	var settings bool
	var node string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Have the server's host and those of its agents look at themselves", Args: cobra.NoArgs,
		Long: `doctor has the host that the server runs on and the host of each agent look at themselves: kernel and its features, capabilities,
clock, speed of the disks, room, memory for rings, lost packets, what was left behind (captures, and taps of agents that do not
run), audit log, certificate; and says for each what to do about it. A node that cannot be asked, or does not answer within ten
seconds, is a finding too. It takes an administrator's token, and a few seconds: the disks are written to. Exit code 1 when
something is bad.

-o json has everything, the settings too; -o csv and the table have the findings, or with --settings the configuration of the
server, or with --node of that node: each value with where it is from (default, file, flag).`,
		Example: "  opentap doctor\n  opentap doctor --node left\n  opentap doctor --settings\n  opentap doctor -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			x, err := c.Doctor(ctx, node)
			if err != nil {
				return err
			}
			bad := false
			rows := make([][]string, 0, len(x.Findings))
			for _, f := range x.Findings {
				bad = bad || f.Severity == want.Bad
				rows = append(rows, []string{string(f.Severity), f.Check, f.Text, f.Fix, f.Node})
			}
			switch {
			case settings && a.output != "json":
				rows = rows[:0]
				for _, s := range x.Settings {
					rows = append(rows, []string{s.Key, s.Value, s.Origin})
				}
				err = a.table([]string{"KEY", "VALUE", "ORIGIN"}, rows, x)
			case a.output == "table":
				err = a.findings(x.Findings)
			default:
				err = a.table([]string{"SEVERITY", "CHECK", "TEXT", "FIX", "NODE"}, rows, x)
			}
			if err == nil && bad {
				return errSick
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&settings, "settings", false, "show the configuration and where each value is from")
	cmd.Flags().StringVar(&node, "node", "", "have only this node's host look at itself")
	return cmd
}

// findings prints them for people, with what to do about each below it.
func (a *app) findings(list []want.Finding) error {
	wide := 0
	for _, f := range list {
		wide = max(wide, utf8.RuneCountInString(clean(f.Node)))
	}
	for _, f := range list {
		if _, err := fmt.Fprintf(a.stdout, "%-4s  %-*s  %-14s %s\n", clean(string(f.Severity)), wide, clean(f.Node), clean(f.Check), clean(f.Text)); err != nil {
			return err
		}
		if f.Fix == "" {
			continue
		}
		if _, err := fmt.Fprintf(a.stdout, "      %-*s  %-14s → %s\n", wide, "", "", clean(f.Fix)); err != nil {
			return err
		}
	}
	return nil
}
