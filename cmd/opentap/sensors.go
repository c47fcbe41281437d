package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"opentap/client"
)

func (a *app) sensorsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "sensors", Short: "See what sensors there are", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	scan := &cobra.Command{
		Use: "scan", Short: "Look for sensors on all nodes, and read each once", Args: cobra.NoArgs,
		Long: `scan has all nodes look for sensors now, and reads each once: those that a host shows by itself (hwmon, thermal zones, Industrial
I/O), and those that its configuration names (MQTT, SNMP, Phidgets). What gives no value is listed with the reason; a broker,
device or node that gives no sensors at all is told on standard error.`,
		Example: "  opentap sensors scan\n  opentap sensors scan -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			found, err := c.Sensors(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(found.Readings))
			for _, r := range found.Readings {
				value := ""
				if r.Value != nil {
					value = strconv.FormatFloat(*r.Value, 'g', 7, 64)
				}
				rows = append(rows, []string{r.Point, strings.Join(r.Aliases, ", "), r.Node, r.Quantity, value, r.Unit, r.Missing})
			}
			if err := a.table([]string{"NAME", "ALIASES", "NODE", "QUANTITY", "VALUE", "UNIT", "NOTES"}, rows, found); err != nil {
				return err
			}
			for _, p := range found.Problems {
				a.say("%s", p)
			}
			return nil
		}),
	}
	cmd.AddCommand(scan)
	return cmd
}
