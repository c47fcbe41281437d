package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) fabricPlanCmd() *cobra.Command {
	var file string
	var prune bool
	cmd := &cobra.Command{
		Use: "plan -f FILE", Short: "Show what apply would change: rules in each switch, before and after", Args: cobra.NoArgs,
		Example: "  opentap fabric plan -f fabric.yaml",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			p, err := a.plan(ctx, c, file, prune)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(p.Switches))
			for _, s := range p.Switches {
				n := map[string]int{}
				for _, ch := range s.Changes {
					n[ch.Verb]++
				}
				rows = append(rows, []string{
					s.Switch, strconv.Itoa(s.Old), strconv.Itoa(s.New), strconv.Itoa(n["add"]), strconv.Itoa(n["change"]), strconv.Itoa(n["remove"]), s.Problem,
				})
			}
			if err := a.table([]string{"SWITCH", "RULES", "THEN", "ADD", "CHANGE", "REMOVE", "PROBLEM"}, rows, p); err != nil {
				return err
			}
			a.printSplits(p.Policies)
			for _, v := range p.Policies {
				if v.Reason != "" {
					a.say("%s: %s", v.Name, policyState(v))
				}
			}
			return unfit(p.Policies)
		}),
	}
	fileFlags(cmd, &file, &prune)
	return cmd
}

func (a *app) plan(ctx context.Context, c *client.Client, file string, prune bool) (want.FabricPlan, error) {
	f, err := a.readFabric(file)
	if err != nil {
		return want.FabricPlan{}, err
	}
	return c.PlanFabric(ctx, f, prune)
}

func (a *app) fabricDiffCmd() *cobra.Command {
	var file string
	var prune bool
	cmd := &cobra.Command{
		Use: "diff -f FILE", Short: "Show what apply would change, rule by rule", Args: cobra.NoArgs,
		Long: `diff shows each rule, group and meter that apply would add (+) or remove (-); a change is both. It exits with 1 when there
is something.`,
		Example: "  opentap fabric diff -f fabric.yaml",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			p, err := a.plan(ctx, c, file, prune)
			if err != nil {
				return err
			}
			n := 0
			for _, s := range p.Switches {
				n += len(s.Changes)
			}
			switch a.output {
			case "json":
				if err := a.json(p); err != nil {
					return err
				}
			case "csv":
				var rows [][]string
				for _, s := range p.Switches {
					for _, ch := range s.Changes {
						rows = append(rows, []string{s.Switch, ch.Verb, ch.What, ch.Text, ch.Was, ch.Why})
					}
				}
				if err := a.table([]string{"SWITCH", "VERB", "WHAT", "TEXT", "WAS", "WHY"}, rows, p); err != nil {
					return err
				}
			default:
				a.printDiff(p)
			}
			if n > 0 {
				return fmt.Errorf("%d differences", n)
			}
			return nil
		}),
	}
	fileFlags(cmd, &file, &prune)
	return cmd
}

func (a *app) printDiff(p want.FabricPlan) {
	var b strings.Builder
	for _, s := range p.Switches {
		if len(s.Changes) == 0 && s.Problem == "" {
			continue
		}
		fmt.Fprintf(&b, "%s\n", clean(s.Switch))
		if s.Problem != "" {
			fmt.Fprintf(&b, "  ! %s\n", clean(s.Problem))
		}
		for _, ch := range s.Changes {
			why := ""
			if ch.Why != "" {
				why = "   # " + clean(ch.Why)
			}
			switch ch.Verb {
			case "change":
				fmt.Fprintf(&b, "  - %s %s\n  + %s %s%s\n", ch.What, clean(ch.Was), ch.What, clean(ch.Text), why)
			case "remove":
				fmt.Fprintf(&b, "  - %s %s\n", ch.What, clean(ch.Text))
			default:
				fmt.Fprintf(&b, "  + %s %s%s\n", ch.What, clean(ch.Text), why)
			}
		}
	}
	fmt.Fprint(a.stdout, b.String())
}
