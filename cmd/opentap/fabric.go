package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) fabricCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fabric", Short: "Mirror traffic with OpenFlow switches", Args: cobra.NoArgs,
		Long: `fabric describes OpenFlow switches as one tap fabric: which ports traffic is taken from, which tools get copies, and
what they get. The server (opentapd --openflow ADDR:PORT) keeps the switches to it.`,
		Example: "  opentap fabric plan -f fabric.yaml\n  opentap fabric apply -f fabric.yaml\n  opentap fabric verify",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.fabricApplyCmd(), a.fabricPlanCmd(), a.fabricDiffCmd(), a.fabricShowCmd(), a.fabricVerifyCmd(), a.fabricDriftCmd(), a.fabricProbeCmd(), a.fabricDeleteCmd())
	return cmd
}

// maxFabric bounds a description. Octets.
const maxFabric = 1 << 20

// readFabric reads a description in YAML or JSON; "-" is standard input.
func (a *app) readFabric(path string) (f want.Fabric, err error) {
	in := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return f, err
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFabric+1))
	if err != nil {
		return f, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxFabric {
		return f, fmt.Errorf("read %s: it has more than %d octets", path, maxFabric)
	}
	if err := yaml.UnmarshalWithOptions(b, &f, yaml.Strict()); err != nil {
		return f, fmt.Errorf("read %s: %s", path, yaml.FormatError(err, false, true))
	}
	return f, nil
}

// fileFlags are those of commands that read a description.
func fileFlags(cmd *cobra.Command, file *string, prune *bool) {
	cmd.Flags().StringVarP(file, "file", "f", "", "description in YAML or JSON; - is standard input")
	cmd.Flags().BoolVar(prune, "prune", false, "end policies that the description does not name")
	_ = cmd.MarkFlagRequired("file") // only a flag that is not there fails
}

func (a *app) fabricApplyCmd() *cobra.Command {
	var file string
	var prune bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Have the switches be what a description says", Args: cobra.NoArgs,
		Long: `apply replaces switches, links, pairs, ports and tools by those of the description, and makes or changes its policies. Policies that
it does not name stay, unless --prune is given. What is unchanged is not touched: copies go on without a gap. It takes an
administrator's token. It fails when a policy cannot be (infeasible).`,
		Example: "  opentap fabric apply -f fabric.yaml\n  opentap fabric apply -f fabric.yaml --prune",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			f, err := a.readFabric(file)
			if err != nil {
				return err
			}
			v, err := c.SetFabric(ctx, f, prune)
			if err != nil {
				return err
			}
			if err := a.policyTable(v.Policies, v); err != nil {
				return err
			}
			return unfit(v.Policies)
		}),
	}
	fileFlags(cmd, &file, &prune)
	return cmd
}

// unfit is the error of policies that cannot be.
func unfit(list []want.FabricPolicyView) error {
	var names []string
	for _, p := range list {
		if p.State == want.PolicyInfeasible {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("infeasible: %s", strings.Join(names, ", "))
}

func (a *app) policyTable(list []want.FabricPolicyView, raw any) error {
	rows := make([][]string, 0, len(list))
	for _, p := range list {
		rows = append(rows, []string{
			p.Name, strings.Join(p.From, ","), strings.Join(p.To, ","), p.Filter, strconv.Itoa(p.Rules), strconv.FormatUint(p.Packets, 10), when(p.Expires), policyState(p),
		})
	}
	if err := a.table([]string{"POLICY", "FROM", "TO", "FILTER", "RULES", "PACKETS", "EXPIRES", "STATE"}, rows, raw); err != nil {
		return err
	}
	a.printSplits(list)
	return nil
}

// printSplits says of policies which part of their filter is where.
func (a *app) printSplits(list []want.FabricPolicyView) {
	if a.output != "table" {
		return
	}
	for _, p := range list {
		if p.Split != "" {
			fmt.Fprintf(a.stdout, "\n%s: %s\n", clean(p.Name), clean(p.Split))
		}
	}
}

func policyState(p want.FabricPolicyView) string {
	if p.Reason == "" {
		return string(p.State)
	}
	return string(p.State) + ": " + p.Reason
}

func (a *app) fabricDeleteCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "delete [POLICY...]", Short: "End policies, or with --all take everything out of the switches",
		Long: `delete ends policies. With --all it takes everything of OpenTap's out of all switches, pairs included: what was
forwarded by them stops.`,
		Example: "  opentap fabric delete mirror-h1\n  opentap fabric delete --all",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("give policies, or --all")
			}
			return nil
		},
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			if all {
				return c.DeleteFabric(ctx)
			}
			for _, name := range args {
				if err := c.DeleteFabricPolicy(ctx, name); err != nil {
					return fmt.Errorf("delete %s: %w", name, err)
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything, pairs included")
	return cmd
}
