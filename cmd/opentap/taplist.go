package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/tap"
)

func named(id, name string) string {
	if name == "" {
		return id
	}
	return name
}

func (a *app) tapServiceListCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "list", Short: "List tap services", Args: cobra.NoArgs, Example: "  opentap tap service list",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.TapServices(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, v := range list {
				rows = append(rows, []string{v.ID, v.Name, named(v.PortID, v.Port), strconv.Itoa(v.Flows), v.Project, string(v.Status), v.Reason})
			}
			return a.table([]string{"ID", "NAME", "PORT", "FLOWS", "PROJECT", "STATUS", "REASON"}, rows, map[string]any{"services": list})
		}),
	})
}

func (a *app) tapFlowListCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "list", Short: "List tap flows", Args: cobra.NoArgs, Example: "  opentap tap flow list -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.TapFlows(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, v := range list {
				rows = append(rows, []string{
					v.ID, v.Name, named(v.PortID, v.Port), string(v.Direction), named(v.ServiceID, v.Service), v.Options.Filter, v.Project,
					strconv.FormatUint(v.Counts.Seen, 10), strconv.FormatUint(v.Counts.Mirrored, 10), string(v.Status), v.Reason,
				})
			}
			return a.table([]string{"ID", "NAME", "PORT", "DIRECTION", "SERVICE", "FILTER", "PROJECT", "SEEN", "MIRRORED", "STATUS", "REASON"}, rows, map[string]any{"flows": list})
		}),
	})
}

func (a *app) tapMirrorListCmd() *cobra.Command {
	return a.listing(&cobra.Command{
		Use: "list", Short: "List tap mirrors", Args: cobra.NoArgs, Example: "  opentap tap mirror list",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.TapMirrors(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, v := range list {
				rows = append(rows, []string{
					v.ID, v.Name, named(v.PortID, v.Port), string(v.Type), v.Remote.String(), directionsText(v.Directions), v.Options.Filter, v.Project,
					strconv.FormatUint(v.Counts.Mirrored, 10), string(v.Status), v.Reason,
				})
			}
			return a.table([]string{"ID", "NAME", "PORT", "TYPE", "REMOTE", "DIRECTIONS", "FILTER", "PROJECT", "MIRRORED", "STATUS", "REASON"}, rows, map[string]any{"mirrors": list})
		}),
	})
}

// tapShowCmd is the command that shows one service, flow or mirror.
func tapShowCmd[V any](a *app, short, example string, ask func(*client.Client, context.Context, string) (V, error), show func(*V) error) *cobra.Command {
	return &cobra.Command{
		Use: "show ID-OR-NAME", Short: short, Args: cobra.ExactArgs(1), Example: example,
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			v, err := ask(c, ctx, args[0])
			if err != nil {
				return err
			}
			return show(&v)
		}),
	}
}

func (a *app) tapServiceShowCmd() *cobra.Command {
	return tapShowCmd(a, "Show a tap service", "  opentap tap service show monitor", (*client.Client).TapService, a.showTapService)
}

func (a *app) tapFlowShowCmd() *cobra.Command {
	return tapShowCmd(a, "Show a tap flow with its counters and gaps", "  opentap tap flow show web", (*client.Client).TapFlow, a.showTapFlow)
}

func (a *app) tapMirrorShowCmd() *cobra.Command {
	return tapShowCmd(a, "Show a tap mirror with its counters and gaps", "  opentap tap mirror show web", (*client.Client).TapMirror, a.showTapMirror)
}

func (a *app) showTapService(v *tap.ServiceView) error {
	list := [][2]string{
		{"id", v.ID},
		{"name", v.Name},
		{"description", v.Description},
		{"project", v.Project},
		{"port", named(v.PortID, v.Port)},
		{"flows", strconv.Itoa(v.Flows)},
		{"tunnel id", strconv.FormatUint(uint64(v.TunnelID), 10)},
		{"encapsulation", string(v.Options.Encap)},
	}
	return a.fields(append(append(list, expiry(v.Options)...), tapReport(&v.Report, false)...), v)
}

func (a *app) showTapFlow(v *tap.FlowView) error {
	list := [][2]string{
		{"id", v.ID},
		{"name", v.Name},
		{"description", v.Description},
		{"project", v.Project},
		{"port", named(v.PortID, v.Port)},
		{"direction", string(v.Direction)},
		{"service", named(v.ServiceID, v.Service)},
	}
	return a.fields(append(append(list, options(&v.Options, v.Filtering)...), tapReport(&v.Report, true)...), v)
}

func (a *app) showTapMirror(v *tap.MirrorView) error {
	list := [][2]string{
		{"id", v.ID},
		{"name", v.Name},
		{"description", v.Description},
		{"project", v.Project},
		{"port", named(v.PortID, v.Port)},
		{"directions", directionsText(v.Directions)},
		{"type", string(v.Type)},
		{"remote", v.Remote.String()},
	}
	return a.fields(append(append(list, options(&v.Options, v.Filtering)...), tapReport(&v.Report, true)...), v)
}

func expiry(o tap.Options) [][2]string {
	if o.Expires.IsZero() {
		return nil
	}
	return [][2]string{{"until", when(o.Expires)}}
}

// options shows what was asked for beyond the ordinary.
func options(o *tap.Options, filtering string) [][2]string {
	var out [][2]string
	add := func(name string, given bool, text string) {
		if given {
			out = append(out, [2]string{name, text})
		}
	}
	add("filter", o.Filter != "", o.Filter)
	add("which means", filtering != "", filtering)
	add("vlans", o.VLANs != "", o.VLANs)
	add("sample", o.SampleN > 1, "1 in "+strconv.FormatUint(uint64(o.SampleN), 10))
	add("snap", o.Snap > 0, strconv.FormatUint(uint64(o.Snap), 10)+" octets")
	add("rate", o.RateBPS > 0, bitRate(float64(o.RateBPS)))
	add("priority", o.Priority != 0, strconv.Itoa(o.Priority))
	add("too long", o.OnMTU != "", string(o.OnMTU))
	return append(out, expiry(*o)...)
}

// tapReport shows what became of a tap.
func tapReport(r *tap.Report, counts bool) [][2]string {
	out := [][2]string{{"status", string(r.Status)}, {"reason", r.Reason}}
	for _, n := range r.Notes {
		out = append(out, [2]string{"note", n})
	}
	for _, e := range r.Ends {
		out = append(out, [2]string{e.Role, strings.TrimSpace(fmt.Sprintf("%s %s on %s: %s %s", e.Device, e.Driver, e.Node, e.State, e.Reason))})
	}
	if counts {
		c := &r.Counts
		for _, x := range []struct {
			name string
			n    uint64
		}{
			{"seen", c.Seen},
			{"mirrored", c.Mirrored},
			{"octets", c.Octets},
			{"not matched", c.NotMatched},
			{"sampled out", c.SampledOut},
			{"rate limited", c.RateLimited},
			{"too long", c.TooLong},
			{"truncated", c.Truncated},
		} {
			if x.n > 0 || x.name == "seen" || x.name == "mirrored" {
				out = append(out, [2]string{x.name, strconv.FormatUint(x.n, 10)})
			}
		}
		for _, why := range slices.Sorted(maps.Keys(c.Errors)) {
			if c.Errors[why] > 0 {
				out = append(out, [2]string{"lost", strconv.FormatUint(c.Errors[why], 10) + " (" + why + ")"})
			}
		}
	}
	for _, g := range r.Gaps {
		to := "now"
		if !g.To.IsZero() {
			to = g.To.Format(time.RFC3339Nano)
		}
		out = append(out, [2]string{"blind", g.From.Format(time.RFC3339Nano) + " to " + to + ": " + g.Reason})
	}
	return out
}

func (a *app) showEstimate(e tap.Estimate) error {
	way := "on the same node"
	if !e.Local {
		way = fmt.Sprintf("by %s, %d octets more a frame", e.Encap, e.Overhead)
	}
	list := [][2]string{
		{"source", e.Device + " on " + e.Node},
		{"passes now", fmt.Sprintf("%s, %.0f packets/s", bitRate(e.BPS), e.PPS)},
		{"would mirror", fmt.Sprintf("about %s, %.0f packets/s", bitRate(e.MirrorBPS), e.MirrorPPS)},
		{"way", way},
	}
	if e.MTUShort > 0 {
		list = append(list, [2]string{"MTU", "short by " + strconv.Itoa(e.MTUShort)})
	}
	for _, n := range e.Notes {
		list = append(list, [2]string{"note", n})
	}
	return a.fields(list, e)
}
