package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/detect"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
	"opentap/wire/sflow"
)

// replay is one run of opentap detect test.
type replay struct {
	a                 *app
	rules             string
	port              uint16
	packets           bool
	rate              uint32
	engine            *detect.Engine
	told              []want.Crossing
	names             map[string]*detect.Compiled
	datagrams, broken uint64
}

func (a *app) detectTestCmd() *cobra.Command {
	t := &replay{a: a}
	cmd := &cobra.Command{
		Use: "test FILE", Short: "Try rules on a capture file, without a server", Args: cobra.ExactArgs(1),
		Long: `test gives the sFlow datagrams in a pcap or pcapng file to rules, in the time in which they were captured, and shows what the
rules find: the same as live. With --packets it gives them the packets themselves, as if one in --sampling had been sampled.`,
		Example: "  opentap detect test --rules rules.yaml sflow.pcap\n  opentap detect test --rules rules.yaml --packets trace.pcapng",
		RunE:    a.do(t.run),
	}
	cmd.Flags().StringVar(&t.rules, "rules", "", "file with rules, as for apply; - is standard input")
	cmd.Flags().Uint16Var(&t.port, "port", 6343, "UDP port of sFlow; 0 = any")
	cmd.Flags().BoolVar(&t.packets, "packets", false, "the packets of the file are the samples")
	cmd.Flags().Uint32Var(&t.rate, "sampling", 1, "with --packets: each stands for so many")
	_ = cmd.MarkFlagRequired("rules") // only a flag that is not there fails
	return cmd
}

func (t *replay) run(ctx context.Context, args []string) error {
	rules, err := t.a.readRules(t.rules)
	if err != nil {
		return err
	}
	t.names = make(map[string]*detect.Compiled)
	var list []*detect.Compiled
	for i := range rules {
		c, err := detect.Compile(&rules[i])
		if err != nil {
			return usageError{err}
		}
		if rules[i].Disabled {
			continue
		}
		t.names[c.Name] = c
		list = append(list, c)
	}
	t.engine = detect.New(list, func(c want.Crossing) { t.told = append(t.told, c) })
	var in io.Reader = t.a.stdin
	if args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	last, err := t.read(ctx, in)
	if err != nil {
		return inFile(args[0], err)
	}
	longest := time.Duration(0)
	for _, c := range list {
		longest = max(longest, 2*c.Window+c.Hold)
	}
	t.engine.Advance(last.Add(longest)) // what goes on at the end of the file ends for want of samples
	return t.show()
}

// read gives all samples to the rules, and returns the time of the last packet.
func (t *replay) read(ctx context.Context, in io.Reader) (last packet.Timestamp, err error) {
	r, err := pcap.NewReader(in)
	if err != nil {
		return 0, err
	}
	var (
		pk   pcap.Packet
		p, s packet.Parsed
		d    sflow.Datagram
	)
	agent := netip.IPv4Unspecified()
	for n := uint64(1); ; n++ {
		if err := r.Next(&pk); err != nil {
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return last, nil
			}
			return last, err
		}
		if n&0xffff == 0 && ctx.Err() != nil {
			return last, ctx.Err()
		}
		last = max(last, pk.Time)
		link := r.Interfaces()[pk.Interface].Link
		p.Decode(link, pk.Data, pk.OrigLen)
		p.Time = pk.Time
		if t.packets {
			x := detect.Sample{At: pk.Time, Agent: agent, In: uint32(pk.Interface) + 1, Packet: &p, Octets: uint64(pk.OrigLen), Rate: max(t.rate, 1)}
			if link == packet.LinkEthernet {
				x.Header = pk.Data
			}
			t.engine.Sample(&x)
			continue
		}
		if p.Proto != packet.ProtoUDP || p.Layers&packet.LayerTransport == 0 || t.port != 0 && p.DstPort != t.port || int(p.Payload) > len(pk.Data) || p.Payload == 0 {
			continue
		}
		t.datagrams++
		if err := d.Decode(pk.Data[p.Payload:], func(f *sflow.FlowSample) {
			if f.Parse(&s) {
				x := detect.SampleOf(pk.Time, &d, f, &s)
				t.engine.Sample(&x)
			}
		}, func(c *sflow.CounterSample) { t.engine.Counters(&d, c) }); err != nil {
			t.broken++
		}
	}
}

func (t *replay) show() error {
	slices.SortStableFunc(t.told, func(a, b want.Crossing) int { return a.At.Compare(b.At) })
	var rows [][]string
	for _, c := range t.told {
		what := "begins"
		if c.Over {
			what = "ends"
		}
		unit, keys := t.names[c.Rule].Unit(), make([]string, len(c.Keys))
		for i, k := range t.names[c.Rule].Keys {
			keys[i] = k + "=" + c.Keys[i]
		}
		rows = append(rows, []string{c.At.UTC().Format("2006-01-02T15:04:05.000Z"), c.Rule, what, strings.Join(keys, " "), rate(c.Value, unit), rate(c.Peak, unit), fmt.Sprint(c.Samples), c.Agent})
	}
	if err := t.a.table([]string{"TIME", "RULE", "FLOW", "KEYS", "RATE", "PEAK", "SAMPLES", "AGENT"}, rows, map[string]any{"crossings": t.told}); err != nil {
		return err
	}
	t.a.tell("%d samples, %d datagrams of sFlow, %d of them broken", t.engine.DetectCounts.Samples, t.datagrams, t.broken)
	if n := t.engine.Untracked; n > 0 {
		t.a.say("warning: %d flows were given up for others: the keys tell too many apart", n)
	}
	return nil
}
