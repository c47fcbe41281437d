package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"opentap/client"
)

func (a *app) dashboardCmd() *cobra.Command {
	return &cobra.Command{
		Use: "dashboard", Short: "Print a link that signs a browser in", Args: cobra.NoArgs,
		Long: `dashboard prints a link to the dashboard with a code that signs in whoever opens it, once, within ten minutes, with the rights
of the token that this command uses. The link holds no token; what is behind its # reaches no log.`,
		Example: "  opentap dashboard\n  xdg-open \"$(opentap dashboard)\"",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			code, err := c.SessionCode(ctx)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(map[string]any{"url": c.DashboardURL(code), "expires": code.Expires})
			}
			_, err = fmt.Fprintln(a.stdout, c.DashboardURL(code))
			return err
		}),
	}
}
