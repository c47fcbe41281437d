package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

// errSilent says that a probe was not answered, which was told.
var errSilent = errors.New("the target did not answer")

func (a *app) probeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "probe", Short: "Send crafted frames out of a point, and time what answers", Args: cobra.NoArgs,
		Long: `probe has a node send frames out of one of its devices, past the host's own routes and filters, and shows what answered each.
It takes an administrator, or a project that may probe (opentap project set NAME --probe). See docs/howto/probe.md.

The exit code is 0 if the target answered a frame, and 1 if it did not: with tcp-syn, RST is an answer too, which says closed.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.probeKindCmd(want.ProbePing, "ping TARGET", "Send ICMP echo requests",
			"  opentap probe ping 192.0.2.7 --point left/eth1\n  opentap probe ping 2001:db8::7 --size 1400 --dont-fragment\n  opentap probe ping 10.1.0.7 --vlan 100 --source 10.1.0.99"),
		a.probeKindCmd(want.ProbeUDP, "udp TARGET PORT", "Send UDP datagrams",
			"  opentap probe udp 192.0.2.7 33434 --ttl 3\n  opentap probe udp 192.0.2.7 7 --size 100 --pattern 6f74"),
		a.probeKindCmd(want.ProbeTCPSYN, "tcp-syn TARGET PORT", "Find out whether a TCP port is open, without connecting",
			"  opentap probe tcp-syn 192.0.2.7 443 --point left/eth1 -o json"))
	return cmd
}

func (a *app) probeKindCmd(kind, use, short, example string) *cobra.Command {
	p := want.Probe{Kind: kind}
	var interval, wait time.Duration
	var source, via, pattern string
	size := -1
	args := 1
	if kind != want.ProbePing {
		args = 2
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(args), Example: example,
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) (err error) {
			if p.Target, err = netip.ParseAddr(args[0]); err != nil {
				return usagef("%q is no IP address", args[0])
			}
			if len(args) > 1 {
				port, err := strconv.ParseUint(args[1], 10, 16)
				if err != nil || port == 0 {
					return usagef("%q is no port", args[1])
				}
				p.Port = uint16(port)
			}
			for _, x := range []struct {
				flag, text string
				addr       *netip.Addr
			}{{"source", source, &p.Source}, {"via", via, &p.Via}} {
				if x.text == "" {
					continue
				}
				if *x.addr, err = netip.ParseAddr(x.text); err != nil {
					return usagef("--%s: %q is no IP address", x.flag, x.text)
				}
			}
			if p.Pattern, err = hex.DecodeString(pattern); err != nil {
				return usagef("--pattern: %q is not octets in hexadecimal", pattern)
			}
			if size >= 0 {
				p.Size = &size
			}
			p.Interval, p.Wait = want.Duration(interval), want.Duration(wait)
			r, err := c.Probe(ctx, p)
			if err != nil {
				return err
			}
			return a.probed(&r)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&p.Point, "point", "", "device that the frames leave by, as node/name or alias (default: the server's default point)")
	f.IntVarP(&p.Count, "count", "c", 5, "frames, up to 1000")
	f.DurationVarP(&interval, "interval", "i", 200*time.Millisecond, "between frames, from 1ms")
	f.DurationVarP(&wait, "wait", "W", time.Second, "for answers to the last frame, up to 30s")
	f.StringVar(&source, "source", "", "source address (default: the device's own)")
	f.StringVar(&p.SourceMAC, "src-mac", "", "source link-layer address (default: the device's own)")
	f.StringVar(&p.TargetMAC, "dst-mac", "", "link-layer address of the next hop (default: the kernel's neighbour table, ARP or neighbour discovery)")
	f.StringVar(&via, "via", "", "next hop (default: the kernel's route; with a tag, the target)")
	f.Uint16Var(&p.VLAN, "vlan", 0, "802.1Q tag with this id")
	f.Uint8Var(&p.Priority, "priority", 0, "of the tag, 0 to 7")
	f.Uint8Var(&p.TTL, "ttl", 64, "time to live, or hop limit")
	f.Uint8Var(&p.TOS, "tos", 0, "type of service, or traffic class")
	f.BoolVar(&p.DontFragment, "dont-fragment", false, "routers must not fragment the packets")
	f.BoolVar(&p.AllowGroup, "allow-group", false, "the target may be a group or everybody, who may all answer")
	if kind != want.ProbePing {
		f.Uint16Var(&p.SourcePort, "source-port", 0, "source port (default: a free one for each frame)")
	}
	if kind != want.ProbeTCPSYN {
		f.IntVarP(&size, "size", "s", -1, "octets of payload (default 56 with ping, else 0)")
		f.StringVar(&pattern, "pattern", "", "octets in hexadecimal that fill the payload (default 000102…ff)")
	}
	return cmd
}

// probed shows what a probe found.
func (a *app) probed(r *want.ProbeReport) error {
	var rows [][]string
	for i := range r.Answers {
		x := &r.Answers[i]
		rtt, from, ttl := "-", "-", "-"
		if x.From.IsValid() {
			rtt, from, ttl = micros(x.RTT), x.From.String(), strconv.Itoa(int(x.TTL))
		}
		var more []string
		for _, note := range []struct {
			on   bool
			text string
		}{
			{x.Text != "", x.Text},
			{x.MTU > 0, fmt.Sprintf("MTU %d", x.MTU)},
			{x.Again > 0, fmt.Sprintf("%d further answers", x.Again)},
			{x.Damaged, "what came back is not what was sent"},
		} {
			if note.on {
				more = append(more, note.text)
			}
		}
		rows = append(rows, []string{strconv.Itoa(x.Number), x.Outcome, from, rtt, ttl, strings.Join(more, "; ")})
	}
	if err := a.table([]string{"FRAME", "OUTCOME", "FROM", "TIME", "TTL", "NOTE"}, rows, r); err != nil {
		return err
	}
	if a.output == "table" {
		to := r.Target.String()
		if r.Port != 0 {
			to = netip.AddrPortFrom(r.Target, r.Port).String()
		}
		line := fmt.Sprintf("%s/%s %s to %s: %d sent, %d answered, %d lost", r.Node, r.Device, r.Source, to, r.Sent, r.Answered, r.Lost)
		if r.Refused > 0 {
			line += fmt.Sprintf(", %d ICMP errors", r.Refused)
		}
		if r.RTT != nil {
			line += fmt.Sprintf("; %s min, %s median, %s max", micros(r.RTT.Min), micros(r.RTT.Median), micros(r.RTT.Max))
		}
		fmt.Fprintf(a.stdout, "\n%s\n", clean(line))
	}
	for _, n := range r.Notes {
		a.say("%s", n)
	}
	if r.Answered == 0 {
		return errSilent
	}
	return nil
}

// micros spells microseconds.
func micros(n float64) string {
	if n >= 1000 {
		return strconv.FormatFloat(n/1000, 'f', 3, 64) + " ms"
	}
	return strconv.FormatFloat(n, 'f', 1, 64) + " µs"
}
