package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) tokensCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Aliases: []string{"tokens"}, Short: "Make, list and revoke tokens",
		Long: `token makes, lists and revokes tokens. It takes an administrator's token.

Roles: viewer (see points and captures), operator (also start and stop them), analyst (also read captured data),
owner (also delete), admin (everything, in all projects).`,
	}
	cmd.AddCommand(a.tokenCreateCmd(), a.tokenListCmd(), a.tokenRevokeCmd())
	return cmd
}

func (a *app) tokenCreateCmd() *cobra.Command {
	r := want.TokenRequest{}
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a token and print it, once", Args: cobra.ExactArgs(1),
		Example: "  opentap token create ci --role analyst --life 720h\n  OPENTAP_TOKEN=$(opentap token create ci --role viewer) opentap points",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			r.Name, r.Life = args[0], want.Duration(life)
			t, err := c.CreateToken(ctx, r)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(t)
			}
			_, err = fmt.Fprintln(a.stdout, t.Token)
			return err
		}),
	}
	cmd.Flags().StringVar(&r.Role, "role", "viewer", "viewer, operator, analyst, owner or admin")
	cmd.Flags().StringVar(&r.Project, "project", "", "its project (default: your own)")
	cmd.Flags().DurationVar(&life, "life", 0, "how long it is valid (default: until revoked)")
	return cmd
}

func (a *app) tokenListCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "list", Short: "List tokens", Args: cobra.NoArgs,
		Example: "  opentap token list",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Tokens(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, t := range list {
				state := "valid"
				switch {
				case !t.Revoked.IsZero():
					state = "revoked " + when(t.Revoked)
				case !t.Expires.IsZero() && time.Now().After(t.Expires):
					state = "expired " + when(t.Expires)
				case !t.Expires.IsZero():
					state = "until " + when(t.Expires)
				}
				rows = append(rows, []string{t.Name, t.Role, t.Project, state, when(t.Created), when(t.LastUsed), t.ID})
			}
			return a.table([]string{"NAME", "ROLE", "PROJECT", "STATE", "CREATED", "LAST USED", "ID"}, rows, map[string]any{"tokens": list})
		}),
	})
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME-OR-ID...", Short: "End tokens for good", Args: cobra.MinimumNArgs(1),
		Example: "  opentap token revoke ci",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if _, err := c.RevokeToken(ctx, name); err != nil {
					return fmt.Errorf("revoke %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}
