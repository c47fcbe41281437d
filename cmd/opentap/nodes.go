package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) nodesCmd() *cobra.Command {
	list := a.nodeListCmd()
	cmd := &cobra.Command{
		Use: "node", Aliases: []string{"nodes"}, Short: "List the hosts that capture, let hosts join and shut them out",
		Long: `node lists the hosts that capture. Without a subcommand it is node list.

A host joins with a join token, which an administrator makes. The token is good for one host and a short time.`,
		Example: "  opentap node list\n  opentap node join-token",
		Args:    cobra.NoArgs, RunE: list.RunE,
	}
	cmd.AddCommand(list, a.nodeShowCmd(), a.joinTokenCmd(), a.nodeRevokeCmd(), a.nodeForgetCmd())
	return a.listing(cmd)
}

// nodeState is what a list says of a host.
func nodeState(n want.Node) string {
	switch {
	case !n.Revoked.IsZero():
		return "revoked"
	case n.Connected:
		return "connected"
	}
	return "gone"
}

func (a *app) nodeListCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "list", Short: "List the hosts that capture", Args: cobra.NoArgs,
		Example: "  opentap node list",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Nodes(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, n := range list {
				rows = append(rows, []string{n.Name, nodeState(n), when(n.Since), n.Version, octets(n.DiskUsed), octets(n.DiskFree), strings.Join(n.Problems, "; ")})
			}
			return a.table([]string{"NAME", "STATE", "SINCE", "VERSION", "USED", "FREE", "PROBLEMS"}, rows, map[string]any{"nodes": list})
		}),
	})
}

func (a *app) nodeShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a host", Args: cobra.ExactArgs(1),
		Example: "  opentap node show virgo",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			n, err := c.Node(ctx, args[0])
			if err != nil {
				return err
			}
			behind := "no"
			if n.Behind {
				behind = "yes"
			}
			return a.fields([][2]string{
				{"name", n.Name},
				{"id", n.ID},
				{"state", nodeState(n)},
				{"since", when(n.Since)},
				{"version", n.Version},
				{"joined", when(n.Enrolled)},
				{"certificate until", when(n.CertificateEnds)},
				{"revoked", when(n.Revoked)},
				{"behind", behind},
				{"used", octets(n.DiskUsed)},
				{"free", octets(n.DiskFree)},
				{"quota", octets(n.QuotaBytes)},
				{"problems", strings.Join(n.Problems, "; ")},
			}, n)
		}),
	}
}

func (a *app) joinTokenCmd() *cobra.Command {
	var r want.JoinTokenRequest
	var life time.Duration
	create := func(ctx context.Context, c *client.Client, _ []string) error {
		r.Life = want.Duration(life)
		t, err := c.CreateJoinToken(ctx, r)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.json(t)
		}
		if !a.quiet {
			fmt.Fprintf(a.stderr, "One host can join with this token until %s. On that host: opentapd agent --controllers HOST:2021 --join-token-file FILE\n", when(t.Expires))
		}
		_, err = fmt.Fprintln(a.stdout, t.Token)
		return err
	}
	cmd := &cobra.Command{
		Use: "join-token", Short: "Make a token that lets one host join, and print it, once", Args: cobra.NoArgs,
		Example: "  opentap node join-token --ttl 30m >virgo.token\n  opentap node join-token --node virgo   # lets a host that has joined before join anew",
		RunE:    a.ask(create),
	}
	cmd.Flags().DurationVar(&life, "ttl", 0, "how long it is valid (default: an hour)")
	cmd.Flags().StringVar(&r.Node, "node", "", "the only node that may join by it, also anew")
	cmd.AddCommand(a.listing(&cobra.Command{
		Use: "list", Short: "List the join tokens", Args: cobra.NoArgs,
		Example: "  opentap node join-token list",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.JoinTokens(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, t := range list {
				state := "until " + when(t.Expires)
				switch {
				case !t.Used.IsZero():
					state = "used by " + t.UsedBy
				case time.Now().After(t.Expires):
					state = "expired"
				}
				rows = append(rows, []string{t.ID, state, t.Node, when(t.Created), t.By})
			}
			return a.table([]string{"ID", "STATE", "FOR NODE", "CREATED", "BY"}, rows, map[string]any{"join_tokens": list})
		}),
	}), &cobra.Command{
		Use: "delete ID...", Short: "Forget join tokens: nobody joins by them any more", Args: cobra.MinimumNArgs(1),
		Example: "  opentap node join-token delete abcdefghijklmnop",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, id := range args {
				if err := c.DeleteJoinToken(ctx, id); err != nil {
					return fmt.Errorf("delete %s: %w", id, err)
				}
			}
			return nil
		}),
	})
	return cmd
}

func (a *app) nodeRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME...", Short: "Shut hosts out of the fleet", Args: cobra.MinimumNArgs(1),
		Example: "  opentap node revoke virgo",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if _, err := c.RevokeNode(ctx, name); err != nil {
					return fmt.Errorf("revoke %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

func (a *app) nodeForgetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "forget NAME...", Short: "Remove hosts from the fleet, with their captures", Args: cobra.MinimumNArgs(1),
		Example: "  opentap node forget virgo",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if err := c.ForgetNode(ctx, name); err != nil {
					return fmt.Errorf("forget %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

func (a *app) storeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Work with the store of what is wanted", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use: "accept", Short: "Say that what the store holds now is wanted", Args: cobra.NoArgs,
		Long: `accept says that what the store holds now is wanted.

After the store was put back from a copy, agents have taken later revisions than it has. They go on with what they know and
refuse what the store says, lest deleted captures come back unseen. Look at the list of captures; then accept it.`,
		Example: "  opentap store accept",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			e, err := c.AcceptStore(ctx)
			if err != nil {
				return err
			}
			return a.fields([][2]string{{"epoch", e.ID}, {"since", when(e.Since)}, {"replaces", strings.Join(e.Replaces, ", ")}}, e)
		}),
	})
	return cmd
}
