package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
	seen, polled      uint64          // samples, counter samples
	devices           map[string]bool // whose packets were looked at
	device            string          // --point
}

func (a *app) detectTestCmd() *cobra.Command {
	t := &replay{a: a}
	cmd := &cobra.Command{
		Use: "test FILE", Short: "Try rules on a capture file, without a server", Args: cobra.ExactArgs(1),
		Long: `test gives the sFlow datagrams in a pcap or pcapng file to rules, samples and counters, in the time in which they were captured,
and shows what the rules find: the same as live. With --packets it gives them the packets themselves, as if one in --sampling had been sampled.

A rule that looks at what the file does not hold is not judged, which is said: what the kernel counts of devices (input: counters) is in
no capture file, and flow records are not read here.`,
		Example: "  opentap detect test --rules rules.yaml sflow.pcap\n  opentap detect test --rules rules.yaml --packets --point eth0 trace.pcapng",
		RunE:    a.do(t.run),
	}
	cmd.Flags().StringVar(&t.rules, "rules", "", "file with rules, as for apply; - is standard input")
	cmd.Flags().Uint16Var(&t.port, "port", 6343, "UDP port of sFlow; 0 = any")
	cmd.Flags().BoolVar(&t.packets, "packets", false, "the packets of the file are the samples")
	cmd.Flags().Uint32Var(&t.rate, "sampling", 1, "with --packets: each stands for so many")
	cmd.Flags().StringVar(&t.device, "point", "", "with --packets: the device that they are of, for rules with input: packets (default: as a pcapng file names it)")
	_ = cmd.MarkFlagRequired("rules") // only a flag that is not there fails
	return cmd
}

func (t *replay) run(ctx context.Context, args []string) error {
	rules, err := t.a.readRules(t.rules)
	if err != nil {
		return err
	}
	t.names, t.devices = make(map[string]*detect.Compiled), make(map[string]bool)
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
	return t.show(t.notJudged(list))
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
			t.seen++
			t.engine.Sample(&x)
			if x.Point = t.device; x.Point == "" {
				x.Point = r.Interfaces()[pk.Interface].Name
			}
			if x.Point != "" {
				t.devices[x.Point] = true
				x.Source, x.Rate = sflow.Source{Type: 3, Index: x.In}, 1
				t.engine.Sample(&x)
			}
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
				t.seen++
			}
		}, func(c *sflow.CounterSample) {
			t.engine.Counters(pk.Time, &d, c)
			t.polled++
		}); err != nil {
			t.broken++
		}
	}
}

// notJudged says of each rule that looked at nothing why. Rules that are not named were judged.
func (t *replay) notJudged(list []*detect.Compiled) map[string]string {
	out := make(map[string]string)
	for _, c := range list {
		switch c.Input {
		case want.InputCounters:
			out[c.Name] = "it looks at what the kernel counts of devices, which no capture file holds"
		case want.InputRecords:
			out[c.Name] = "it looks at flow records, which are not read from capture files"
		case want.InputInterfaces:
			if t.polled == 0 {
				out[c.Name] = "it looks at counter samples of sFlow, and the file holds none"
			}
		case want.InputPackets:
			switch {
			case !t.packets:
				out[c.Name] = "it looks at packets of devices: give --packets"
			case !slices.ContainsFunc(c.Points, func(p string) bool { return t.devices[p] }):
				out[c.Name] = "it looks at packets of " + strings.Join(c.Points, ", ") + ", and the file has none of these (--point says whose they are)"
			}
		default:
			if t.datagrams == 0 && !t.packets {
				out[c.Name] = fmt.Sprintf("it looks at samples of sFlow, and the file holds none to UDP port %d (--port)", t.port)
			}
		}
	}
	return out
}

func (t *replay) show(notJudged map[string]string) error {
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
	if err := t.a.table([]string{"TIME", "RULE", "FLOW", "KEYS", "RATE", "PEAK", "SAMPLES", "AGENT"}, rows, map[string]any{"crossings": t.told, "not_judged": notJudged}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(notJudged)) {
		t.a.say("warning: the rule %s was not judged: %s", name, notJudged[name])
	}
	t.a.tell("%d samples and %d counter samples, in %d datagrams of sFlow, %d of them broken", t.seen, t.polled, t.datagrams, t.broken)
	if n := t.engine.Untracked; n > 0 {
		t.a.say("warning: %d flows were given up for others: the keys tell too many apart", n)
	}
	return nil
}
