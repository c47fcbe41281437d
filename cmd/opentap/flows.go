package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/flow"
	"opentap/flow/query"
	"opentap/packet"
	"opentap/want"
)

// flowsRun is one question to flow records.
type flowsRun struct {
	a                *app
	by, filter       string
	from, to, metric string
	step             time.Duration
	n                int
	biflow           bool
	points           []string
}

func (a *app) flowsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "flows", Short: "Ask questions of flow records", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(a.flowsTopCmd(), a.flowsSeriesCmd())
	return cmd
}

const flowsSources = `FILE is CSV as opentap writes it, or a capture file, which is metered; - is standard input. Anything that is no file is the
ID of a netflow capture on the server. With neither, the flow records are asked that the server keeps at all times: of points
and of exporters, or of those that --point names.

Keys: ` + "`src`, `dst`, `sport`, `dport`, `proto`, `vlan`, `tos`, `smac`, `dmac`, `ipversion`, `end`" + `. A record of both directions is
taken for two, so that src is always who sent. --filter takes of the filter language what a record can answer: hosts,
networks, ports, protocols, MAC addresses, VLANs. Records that touch the time between --from and --to count whole.`

func (a *app) flowsTopCmd() *cobra.Command {
	q := &flowsRun{a: a}
	cmd := &cobra.Command{
		Use: "top [FILE|ID]", Short: "Show who has most", Args: cobra.MaximumNArgs(1),
		Long:    "top adds up flow records by their keys and shows the largest.\n\n" + flowsSources,
		Example: "  opentap flows top --by src,dport --from -1h\n  opentap flows top --by src cap-1\n  opentap flows top --by src,dport --from -1h --metric packets -n 20 flows.csv\n  opentap flows top --by dst --filter 'udp port 53' trace.pcapng",
		RunE: a.do(func(ctx context.Context, args []string) error {
			if len(args) == 0 {
				return q.topKept(ctx)
			}
			c, err := q.count(ctx, args)
			if err != nil {
				return err
			}
			header := append(q.keys(), "bytes", "packets", "flows", "share")
			var rows [][]string
			raw := []map[string]any{}
			for _, g := range c.Top(q.n) {
				rows = append(rows, append(append(g.Key, numbers(g.Counts)...), share(g.By(q.metric), c.Total().By(q.metric))))
				raw = append(raw, q.json(g))
			}
			if err := a.table(header, rows, map[string]any{"groups": raw, "total": q.json(query.Group{Counts: c.Total()})}); err != nil {
				return err
			}
			t := c.Total()
			a.tell("%d records: %d bytes, %d packets", c.Records(), t.Octets, t.Packets)
			return nil
		}),
	}
	q.flags(cmd, "src,dst", 10)
	return cmd
}

func (a *app) flowsSeriesCmd() *cobra.Command {
	q := &flowsRun{a: a}
	cmd := &cobra.Command{
		Use: "series [FILE|ID]", Short: "Show how flows lie in time", Args: cobra.MaximumNArgs(1),
		Long: "series shows what the largest groups have in each interval, and what all others have as other. A record's packets and bytes\n" +
			"are shared out evenly over its duration; it counts as a flow where it begins.\n\n" + flowsSources,
		Example: "  opentap flows series --step 10s cap-1\n  opentap flows series --by proto --step 1m -o csv flows.csv",
		RunE: a.do(func(ctx context.Context, args []string) error {
			if q.step <= 0 {
				return usagef("--step %v: must be longer than 0s", q.step)
			}
			c, err := q.count(ctx, args)
			if err != nil {
				return err
			}
			header := append(append([]string{"time"}, q.keys()...), "bytes", "packets", "flows")
			var rows [][]string
			raw := []map[string]any{}
			for _, p := range c.Series(q.n) {
				at := p.Start.Time().Format(time.RFC3339Nano)
				rows = append(rows, append(append([]string{at}, p.Key...), numbers(p.Counts)...))
				line := q.json(p.Group)
				line["time"] = at
				raw = append(raw, line)
			}
			return a.table(header, rows, map[string]any{"points": raw, "step": q.step.String()})
		}),
	}
	q.flags(cmd, "", 5)
	cmd.Flags().DurationVar(&q.step, "step", 10*time.Second, "length of an interval")
	return cmd
}

func (q *flowsRun) flags(cmd *cobra.Command, by string, n int) {
	fl := cmd.Flags()
	fl.StringVar(&q.by, "by", by, "keys, separated by commas")
	fl.StringVar(&q.metric, "metric", "bytes", "bytes, packets or flows: what the largest have most of")
	fl.IntVarP(&q.n, "top", "n", n, "how many; 0 = all")
	fl.StringVar(&q.filter, "filter", "", "only these records")
	fl.StringVar(&q.from, "from", "", "only what touches the time from here on: RFC 3339, 15:04, -1h")
	fl.StringVar(&q.to, "to", "", "and up to here")
	fl.StringSliceVarP(&q.points, "point", "p", nil, "of what is kept: only of these points, by name or alias, or node/name")
	fl.BoolVar(&q.biflow, "biflow", false, "meter capture files with both directions in one record: flows are conversations")
}

func (q *flowsRun) keys() []string {
	if q.by == "" {
		return nil
	}
	return strings.Split(q.by, ",")
}

func numbers(c query.Counts) []string {
	return []string{strconv.FormatUint(c.Octets, 10), strconv.FormatUint(c.Packets, 10), strconv.FormatUint(c.Flows, 10)}
}

func share(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

func (q *flowsRun) json(g query.Group) map[string]any {
	m := map[string]any{"bytes": g.Octets, "packets": g.Packets, "flows": g.Flows}
	for i, v := range g.Key {
		m[q.keys()[i]] = v
	}
	return m
}

// count reads the source to its end.
func (q *flowsRun) count(ctx context.Context, args []string) (*query.Counter, error) {
	cfg := query.Config{By: q.keys(), Metric: q.metric, Step: q.step}
	var err error
	if cfg.Filter, err = query.NewFilter(q.filter); err != nil {
		return nil, usageError{err}
	}
	now := time.Now()
	for _, at := range []struct {
		name, text string
		to         *packet.Timestamp
	}{{"--from", q.from, &cfg.From}, {"--to", q.to, &cfg.To}} {
		t, err := parseTime(at.text, now)
		if err != nil {
			return nil, usagef("%s: %w", at.name, err)
		}
		if !t.IsZero() {
			*at.to = packet.TimestampOf(t)
		}
	}
	c, err := query.NewCounter(cfg)
	if err != nil {
		return nil, usageError{err}
	}
	if len(args) == 0 {
		return c, q.readKept(ctx, c)
	}
	if len(q.points) > 0 {
		return nil, usagef("--point is of what the server keeps; a file or a capture has its points")
	}
	source := args[0]
	st, serr := os.Stat(source)
	switch {
	case source == "-":
		err = q.read(ctx, "-", q.a.stdin, c)
	case serr == nil && !st.IsDir():
		f, oerr := os.Open(source)
		if oerr != nil {
			return nil, oerr
		}
		defer f.Close()
		err = q.read(ctx, source, f, c)
	default:
		err = q.retrieve(ctx, source, c)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// read counts the records of a CSV or a capture file.
func (q *flowsRun) read(ctx context.Context, name string, r io.Reader, c *query.Counter) error {
	b := bufio.NewReaderSize(&canceled{ctx, r}, 64<<10)
	if magic, _ := b.Peek(4); len(magic) == 4 && isCapture(magic) {
		m := &meterRun{a: q.a, cfg: flow.DefaultConfig(), jobs: 1}
		m.cfg.MaxFlows, m.cfg.Bidirectional = 1<<22, q.biflow
		add := func(r *flow.Record) {
			if m.err == nil {
				m.err = c.Add(r)
			}
		}
		m.a = &app{stdin: b, stderr: q.a.stderr, quiet: q.a.quiet}
		_, err := m.meter(ctx, []string{"-"}, add)
		return inFile(name, errors.Join(m.err, err))
	}
	return inFile(name, query.ReadCSV(b, c.Add))
}

func inFile(name string, err error) error {
	if err == nil || name == "-" {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// isCapture reports whether a file that begins so is pcap or pcapng.
func isCapture(magic []byte) bool {
	for _, m := range [][]byte{{0x0a, 0x0d, 0x0d, 0x0a}, {0xd4, 0xc3, 0xb2, 0xa1}, {0xa1, 0xb2, 0xc3, 0xd4}, {0x4d, 0x3c, 0xb2, 0xa1}, {0xa1, 0xb2, 0x3c, 0x4d}} {
		if bytes.Equal(magic, m) {
			return true
		}
	}
	return false
}

// canceled reads until ctx ends.
type canceled struct {
	ctx context.Context
	r   io.Reader
}

func (c *canceled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// retrieve counts the records of a capture while they come from the server; none are kept.
func (q *flowsRun) retrieve(ctx context.Context, id string, c *query.Counter) error {
	cl, err := q.a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	v, err := cl.Capture(ctx, id)
	if err != nil {
		return err
	}
	if err := checkFormat(want.CSV, v.Kind); err != nil || v.Kind != want.Flows {
		return usagef("%s is a %s capture: only netflow captures have flow records", id, v.Kind)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := query.ReadCSV(out, c.Add)
		_ = out.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		done <- err
	}()
	p := q.a.progress()
	err = cl.Download(ctx, id, want.CSV, &client.Sequential{W: in}, new(client.Part), func(part client.Part) error {
		p.download(part, time.Now())
		return nil
	})
	p.done()
	_ = in.CloseWithError(err)
	if rerr := <-done; rerr != nil {
		return rerr // it is why the download ended, if both have failed
	}
	return err
}
