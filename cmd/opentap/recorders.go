package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

func (a *app) recordersCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "recorders", Aliases: []string{"recorder"}, Short: "List, set and delete recorders: the newest packets of a point, always", Args: cobra.NoArgs,
		Long: `recorders lists what keeps the newest packets of points, so that captures can reach into the past. Those of a host's
configuration file are listed too; they are changed there.`,
		Example: "  opentap recorders\n  opentap recorders set eth0 --bytes 50GiB --age 6h",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Recorders(ctx)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for _, r := range list {
				st := r.Status
				rows = append(rows, []string{
					r.Point, r.Node, string(r.Origin), r.Filter, octets(r.Bytes), time.Duration(r.Age).String(), when(st.Since),
					octets(st.Bytes), strconv.FormatUint(st.Ledger.Captured, 10), strconv.FormatUint(st.Ledger.DroppedTotal(), 10), stateText(st),
				})
			}
			return a.table([]string{"POINT", "NODE", "ORIGIN", "FILTER", "BYTES", "AGE", "SINCE", "HELD", "PACKETS", "DROPPED", "STATE"}, rows, map[string]any{"recorders": list})
		}),
	}
	cmd.AddCommand(a.recorderSetCmd(), a.recorderDeleteCmd())
	return a.listing(cmd)
}

func (a *app) recorderSetCmd() *cobra.Command {
	r := want.Recorder{}
	var age time.Duration
	var bytes string
	cmd := &cobra.Command{
		Use: "set POINT", Short: "Keep the newest packets of a point from now on, or change how", Args: cobra.ExactArgs(1),
		Long: `set makes the point's recorder, or changes the one it has: what is not given is as if it never had been. A changed filter
or snap length holds for packets to come. It takes an administrator's token.`,
		Example: "  opentap recorders set eth0 --bytes 50GiB --age 6h\n  opentap recorders set eth1 --bytes 2GiB --snap 128 --filter 'not port 22' --compress zstd\n  opentap recorders set eth2 --bytes 200GiB --fanout 4",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			n, err := parseOctets(bytes)
			if err != nil {
				return err
			}
			r.Bytes = int64(min(n, 1<<62))
			r.Age = want.Duration(age)
			v, err := c.SetRecorder(ctx, args[0], r)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(v)
			}
			a.say("%s on node %s: %s", v.Point, v.Node, stateText(v.Status))
			return nil
		}),
	}
	cmd.Flags().StringVar(&bytes, "bytes", "", "how much of the disk it may take, such as 50GiB; the oldest packets go first")
	cmd.Flags().DurationVar(&age, "age", 0, "packets go when they are older (default: any age)")
	cmd.Flags().StringVar(&r.Filter, "filter", "", "pcap-filter expression (default: all packets)")
	cmd.Flags().IntVar(&r.Snap, "snap", 0, "octets kept of each packet (default: all)")
	cmd.Flags().StringVar(&r.Compress, "compress", "", "compress full segments in the background: zstd (default: not at all)")
	cmd.Flags().IntVar(&r.Fanout, "fanout", 0, "rings that share the point's packets, each read by a thread of its own (default: one)")
	_ = cmd.MarkFlagRequired("bytes") // only a flag that is not there fails
	return cmd
}

func stateText(st want.RecorderStatus) string {
	if st.Reason == "" {
		return string(st.State)
	}
	return string(st.State) + ": " + st.Reason
}

func (a *app) recorderDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete POINT...", Short: "End recorders and remove their data, but for what captures need", Args: cobra.MinimumNArgs(1),
		Example: "  opentap recorders delete eth1",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if err := c.DeleteRecorder(ctx, name); err != nil {
					return fmt.Errorf("delete the recorder of %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}
