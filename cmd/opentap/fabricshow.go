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

func (a *app) fabricShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [POLICY]", Short: "Show switches, links and policies, or where one policy's copies pass", Args: cobra.MaximumNArgs(1),
		Long: `show reads the switches and shows them, the links between them, and the policies. Of one policy it shows the counters
along its paths: where a number is less than the one before, copies are lost between the two.`,
		Example: "  opentap fabric show\n  opentap fabric show mirror-h1",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 1 {
				p, err := c.FabricPolicy(ctx, args[0])
				if err != nil {
					return err
				}
				return a.showPolicy(p)
			}
			v, err := c.Fabric(ctx, true)
			if err != nil {
				return err
			}
			return a.showFabric(v)
		}),
	}
}

func (a *app) showPolicy(p want.FabricPolicyView) error {
	if a.output == "json" {
		return a.json(p)
	}
	rows := make([][]string, 0, len(p.Hops))
	for _, h := range p.Hops {
		rows = append(rows, []string{h.Switch, strconv.FormatUint(h.Packets, 10), strconv.FormatUint(h.Octets, 10), h.What})
	}
	if a.output == "table" {
		if err := a.fields([][2]string{
			{"policy", p.Name},
			{"state", policyState(p)},
			{"from", strings.Join(p.From, ", ")},
			{"to", strings.Join(p.To, ", ")},
			{"filter", p.Filter},
			{"split", p.Split},
			{"tap flow", p.Tap},
			{"services", strings.Join(p.Services, ", ")},
			{"owner", p.Owner},
			{"changed", when(p.Changed)},
			{"rules", strconv.Itoa(p.Rules)},
			{"last probe", probedText(p.Probed)},
			{"packets", fmt.Sprintf("%d of %d, %d octets", p.Packets, p.Seen, p.Octets)},
		}, p); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	return a.table([]string{"SWITCH", "PACKETS", "OCTETS", "WHAT"}, rows, p)
}

func probedText(p *want.FabricProbed) string {
	switch {
	case p == nil:
		return ""
	case p.Detail == "":
		return p.Result + ", " + when(p.At)
	}
	return p.Result + ": " + p.Detail + ", " + when(p.At)
}

func (a *app) showFabric(v want.FabricView) error {
	if a.output != "table" {
		return a.policyTable(v.Policies, v)
	}
	rows := make([][]string, 0, len(v.Switches))
	for _, s := range v.Switches {
		state := "in sync"
		switch {
		case !s.Connected:
			state = "not connected"
		case !s.InSync:
			state = "not in sync"
		}
		if s.Problem != "" {
			state += ": " + s.Problem
		}
		rows = append(rows, []string{s.Name, s.DPID.String(), s.Address, s.Software, s.Role, strconv.Itoa(s.Rules), strconv.Itoa(s.Foreign), state})
	}
	if err := a.table([]string{"SWITCH", "DPID", "ADDRESS", "SOFTWARE", "ROLE", "RULES", "FOREIGN", "STATE"}, rows, nil); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	rows = nil
	for _, k := range v.Links {
		state := "up"
		switch {
		case !k.Up:
			state = "down"
		case k.Confirmed:
			state = "confirmed"
		}
		rows = append(rows, []string{k.A, k.B, state, k.Problem})
	}
	if err := a.table([]string{"LINK", "TO", "STATE", "PROBLEM"}, rows, nil); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return a.policyTable(v.Policies, nil)
}
