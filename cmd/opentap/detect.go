package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) detectCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "detect", Short: "Find remarkable flows in packet samples, and act on them", Args: cobra.NoArgs,
		Long: `detect looks at the packet samples (sFlow) that come to collectors. A rule adds up flows, and says from which rate on one is
remarkable and what is done then: a capture is started, a webhook is told. See docs/howto/triggers.md.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.detectTopCmd(), a.rulesCmd(), a.detectEventsCmd(), a.webhooksCmd(), a.detectTestCmd())
	return cmd
}

func (a *app) detectTopCmd() *cobra.Command {
	return &cobra.Command{
		Use: "top RULE", Short: "Show the largest flows of a rule now", Args: cobra.ExactArgs(1),
		Long:    "top shows each flow as the agent sees it that sees most of it; a * stands before those over the threshold.",
		Example: "  opentap detect top big-tcp",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.TopDetect(ctx, args[0])
			if err != nil {
				return err
			}
			var rows [][]string
			for _, f := range t.Flows {
				mark := ""
				if f.Active {
					mark = "*"
				}
				rows = append(rows, append(append([]string{mark}, f.Keys...), rate(f.Value, t.Unit), strconv.FormatUint(f.Samples, 10), f.Agent))
			}
			header := []string{""}
			for _, k := range t.Keys {
				header = append(header, strings.ToUpper(k))
			}
			if err := a.table(append(header, "RATE", "SAMPLES", "AGENT"), rows, t); err != nil {
				return err
			}
			if len(t.Nodes) == 0 {
				a.say("no node detects: a node does that has a collector in its configuration")
			}
			return nil
		}),
	}
}

func (a *app) webhooksCmd() *cobra.Command {
	return &cobra.Command{
		Use: "webhooks", Short: "Show how the targets fare that rules may tell", Args: cobra.NoArgs,
		Long:    "webhooks lists the targets of the server's configuration: what they were told, what waits, and what was given up.",
		Example: "  opentap detect webhooks",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Webhooks(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, h := range list {
				row := []string{h.Name, strconv.Itoa(h.Waiting)}
				for _, n := range []uint64{h.Told, h.Failed, h.Dropped} {
					row = append(row, strconv.FormatUint(n, 10))
				}
				rows = append(rows, append(row, when(h.ToldAt), h.Problem))
			}
			return a.table([]string{"TARGET", "WAITING", "TOLD", "GIVEN UP", "DROPPED", "LAST TOLD", "PROBLEM"}, rows, map[string]any{"webhooks": list})
		}),
	}
}

// rate spells a rate with its unit.
func rate(n uint64, unit string) string {
	v, prefix := float64(n), ""
	for _, p := range []string{"k", "M", "G", "T"} {
		if v < 1000 {
			break
		}
		v, prefix = v/1000, p
	}
	return strconv.FormatFloat(v, 'g', 4, 64) + " " + prefix + unit
}

func keysText(keys map[string]string) string {
	parts := make([]string, 0, len(keys))
	for k, v := range keys {
		parts = append(parts, k+"="+v)
	}
	sort.Strings(parts)
	return strings.Join(parts, " ")
}

func (a *app) detectEventsCmd() *cobra.Command {
	var rule string
	var active, follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "List what rules found, or follow it", Args: cobra.NoArgs,
		Long: `events lists what rules found, the newest first. The server keeps
them for a week, or as long as its configuration says (retention.events), at most 2000. With --follow each is
shown when it begins, when its action changes, and when it is over, until Ctrl-C.`,
		Example: "  opentap detect events --active\n  opentap detect events --follow -o json | jq .keys",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			if follow {
				return c.FollowDetections(ctx, rule, func(e want.Detection) error {
					if active && !e.Ended.IsZero() {
						return nil
					}
					if a.output == "json" {
						return json.NewEncoder(a.stdout).Encode(e) // a line each
					}
					_, err := fmt.Fprintln(a.stdout, clean(strings.Join(eventRow(&e), "  ")))
					return err
				})
			}
			list, err := c.Detections(ctx, rule, active)
			if err != nil {
				return err
			}
			var rows [][]string
			for i := range list {
				rows = append(rows, eventRow(&list[i]))
			}
			return a.table([]string{"ID", "RULE", "FLOW", "PEAK", "BEGAN", "ENDED", "ACTION"}, rows, map[string]any{"events": list})
		}),
	}
	cmd.Flags().StringVar(&rule, "rule", "", "only of this rule")
	cmd.Flags().BoolVar(&active, "active", false, "only what goes on")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with what comes")
	cmd.AddCommand(a.decideCmd("confirm", "Let actions that wait be done", true), a.decideCmd("refuse", "Have actions that wait not be done", false))
	return a.listing(cmd)
}

func eventRow(e *want.Detection) []string {
	ended := "-"
	if !e.Ended.IsZero() {
		ended = e.Ended.Sub(e.Began).Round(time.Second/10).String() + " later"
	}
	action := e.Action.State
	for _, more := range [][2]string{{"capture", e.Action.Capture}, {"tap", e.Action.Tap}, {"policy", e.Action.Policy}, {"because", e.Action.Reason}} {
		if more[1] != "" {
			action += ", " + more[0] + " " + more[1]
		}
	}
	if e.Action.Webhook != "" {
		action += ", webhook " + e.Action.Webhook
	}
	return []string{e.ID, e.Rule, keysText(e.Keys), rate(e.Peak, e.Unit), when(e.Began), ended, action}
}

func (a *app) decideCmd(verb, short string, agree bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID...", Short: short, Args: cobra.MinimumNArgs(1),
		Example: "  opentap detect events " + verb + " 20260102T030405.000-1a2b3c4d",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, id := range args {
				if _, err := c.DecideDetection(ctx, id, agree); err != nil {
					return fmt.Errorf("%s: %w", id, err)
				}
			}
			return nil
		}),
	}
}
