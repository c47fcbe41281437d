package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"opentap/client"
	"opentap/tap"
)

func (a *app) portsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ports", Aliases: []string{"port"}, Short: "List ports that can be tapped, declare them, and say whose they are", Args: cobra.NoArgs,
		Long: `ports lists what packets can be copied from and delivered to: the network devices that nodes report, and ports that were declared.
A port belongs to a project, which may tap it. What belongs to none is the administrators' own.`,
		Example: "  opentap ports\n  opentap ports set host1/eth1 --project red",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Ports(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, p := range list {
				state := "away"
				if p.Present {
					state = "present"
				}
				rows = append(rows, []string{p.ID, p.Name, strings.Join(p.Nodes, ","), p.Device, p.MAC, p.Project, string(p.Origin), state, strconv.Itoa(p.Services + p.Flows + p.Mirrors)})
			}
			return a.table([]string{"ID", "NAME", "NODE", "DEVICE", "MAC", "PROJECT", "ORIGIN", "STATE", "TAPS"}, rows, map[string]any{"ports": list})
		}),
	}
	cmd.AddCommand(a.portCreateCmd(), a.portSetCmd(), a.portDeleteCmd())
	return a.listing(cmd)
}

// portWish are the flags that say what a port is; the function tells what was given.
func portWish(f *pflag.FlagSet) func() tap.PortWish {
	var name, description, project, mac, node, device string
	f.StringVar(&name, "name", "", "its name")
	f.StringVar(&description, "description", "", "what it is for")
	f.StringVar(&project, "project", "", "whose it is; an administrator says")
	f.StringVar(&mac, "mac", "", "it is the device with this MAC, on whatever node; an administrator says")
	f.StringVar(&node, "node", "", "it is a device of this node; an administrator says")
	f.StringVar(&device, "device", "", "the device's name there (default: the port's name)")
	return func() tap.PortWish {
		given := func(flag string, v *string) *string {
			if f.Changed(flag) {
				return v
			}
			return nil
		}
		return tap.PortWish{
			Name: given("name", &name), Description: given("description", &description), Project: given("project", &project),
			MAC: given("mac", &mac), Node: given("node", &node), Device: given("device", &device),
		}
	}
}

func (a *app) showPort(v tap.PortView) error {
	return a.fields([][2]string{
		{"id", v.ID},
		{"name", v.Name},
		{"description", v.Description},
		{"project", v.Project},
		{"origin", string(v.Origin)},
		{"node", strings.Join(v.Nodes, ",")},
		{"device", v.Device},
		{"mac", v.MAC},
		{"present", strconv.FormatBool(v.Present)},
	}, v)
}

func (a *app) portCreateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Declare a port", Args: cobra.NoArgs,
		Example: "  opentap ports create --name web --mac fa:16:3e:00:00:02 --project red\n  opentap ports create --name tool0 --node host2",
	}
	wish := portWish(cmd.Flags())
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
		v, err := c.CreatePort(ctx, wish())
		if err != nil {
			return err
		}
		return a.showPort(v)
	})
	return cmd
}

func (a *app) portSetCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "set PORT", Short: "Change what is known of a port, such as whose it is", Args: cobra.ExactArgs(1),
		Example: "  opentap ports set host1/eth1 --project red",
	}
	wish := portWish(cmd.Flags())
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		v, err := c.UpdatePort(ctx, args[0], wish())
		if err != nil {
			return err
		}
		return a.showPort(v)
	})
	return cmd
}

func (a *app) portDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete PORT...", Short: "Forget declared ports, and delete the taps of them", Args: cobra.MinimumNArgs(1),
		Example: "  opentap ports delete web",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if err := c.DeletePort(ctx, name); err != nil {
					return fmt.Errorf("delete %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}
