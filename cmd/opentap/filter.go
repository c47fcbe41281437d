package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/pcap"
)

func (a *app) filterExplainCmd() *cobra.Command {
	var strict, kernel bool
	cmd := &cobra.Command{
		Use: "explain EXPR", Short: "Show what a filter means: its tree, its program, and a sentence; asks no server", Args: cobra.ExactArgs(1),
		Long: `explain shows how a filter was understood, in plain words and as a tree, and the classic BPF program for Ethernet that it
becomes, written as tcpdump -d does. The program is the one for stored frames; --kernel shows that for a socket, where the
outermost VLAN tag may be beside the frame.`,
		Example: "  opentap filter explain 'tcp port 443 and not host 10.0.0.1'\n  opentap filter explain --kernel --strict 'vlan 100 and tcp'",
		RunE: a.do(func(_ context.Context, args []string) error {
			e, err := filter.Parse(args[0])
			if err != nil {
				return err
			}
			o := cbpf.Options{Link: packet.LinkEthernet, Strict: strict, Target: cbpf.File}
			if kernel {
				o.Target = cbpf.Kernel
			}
			p, err := cbpf.Compile(e, o)
			if errors.Is(err, cbpf.ErrNoDirection) && !kernel {
				a.say("showing the program for the kernel: a stored packet does not tell its direction")
				o.Target = cbpf.Kernel
				p, err = cbpf.Compile(e, o)
			}
			if err != nil {
				return err
			}
			list := cbpf.Listing(p)
			raw := map[string]any{"filter": e.String(), "explanation": e.Explain(), "tree": e.Tree(), "program": strings.Split(strings.TrimSpace(list), "\n")}
			if err := a.fields([][2]string{{"filter", e.String()}, {"means", e.Explain()}, {"instructions", strconv.Itoa(len(p))}}, raw); err != nil || a.output != "table" {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "\n%s\n%s", e.Tree(), list)
			return err
		}),
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "libpcap's meaning of offsets behind VLAN tags")
	cmd.Flags().BoolVar(&kernel, "kernel", false, "the program for a socket instead of that for a file")
	return cmd
}

// filterCounts are what filter test tells.
type filterCounts struct {
	Matched         uint64 `json:"matched"`
	Refused         uint64 `json:"not_matched"`
	MatchedOctets   uint64 `json:"matched_octets"`
	RefusedOctets   uint64 `json:"not_matched_octets"`
	MatchedDamaged  uint64 `json:"matched_malformed"`
	RefusedDamaged  uint64 `json:"not_matched_malformed"`
	MatchedCut      uint64 `json:"matched_cut_short"`
	RefusedCut      uint64 `json:"not_matched_cut_short"`
	UnsupportedLink uint64 `json:"unsupported_link,omitempty"`
}

func (a *app) filterTestCmd() *cobra.Command {
	var strict, count bool
	cmd := &cobra.Command{
		Use: "test EXPR FILE", Short: "Count what a filter selects from a capture file; asks no server", Args: cobra.ExactArgs(2),
		Long: `test reads a pcap or pcapng file (- is standard input) and counts the packets that a filter selects and those it does
not, their octets on the wire, those with headers that contradict themselves, and those that end within a header.`,
		Example: "  opentap filter test 'tcp port 443' https.pcapng\n  opentap filter test --strict --count 'vlan 100' trunk.pcap",
		RunE: a.do(func(ctx context.Context, args []string) error {
			e, err := filter.Parse(args[0])
			if err != nil {
				return err
			}
			c, err := a.countMatches(ctx, e, args[1], strict, !count)
			if err != nil {
				return err
			}
			if count {
				_, err = fmt.Fprintln(a.stdout, c.Matched)
				return err
			}
			n := func(v uint64) string { return strconv.FormatUint(v, 10) }
			if c.UnsupportedLink > 0 {
				a.say("%d packets were left out: their link type is neither Ethernet nor bare IP", c.UnsupportedLink)
			}
			return a.table([]string{"", "PACKETS", "OCTETS", "MALFORMED", "CUT SHORT"}, [][]string{
				{"matched", n(c.Matched), n(c.MatchedOctets), n(c.MatchedDamaged), n(c.MatchedCut)},
				{"not matched", n(c.Refused), n(c.RefusedOctets), n(c.RefusedDamaged), n(c.RefusedCut)},
			}, c)
		}),
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "libpcap's meaning of offsets behind VLAN tags")
	cmd.Flags().BoolVar(&count, "count", false, "only the number of packets that match")
	return cmd
}

// countMatches reads a capture file to its end.
func (a *app) countMatches(ctx context.Context, e *filter.Expr, name string, strict, details bool) (filterCounts, error) {
	var c filterCounts
	in, size := a.stdin, int64(0)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return c, err
		}
		defer f.Close()
		if s, err := f.Stat(); err == nil {
			size = s.Size()
		}
		in = f
	}
	matchers := map[packet.LinkType]*cbpf.Matcher{}
	for _, link := range []packet.LinkType{packet.LinkEthernet, packet.LinkRaw} {
		m, err := cbpf.NewMatcher(e, cbpf.Options{Link: link, Strict: strict})
		if err != nil && link == packet.LinkEthernet {
			return c, err
		}
		matchers[link] = m // nil: the filter has no meaning on bare IP
	}
	r, err := pcap.NewReader(in)
	if err != nil {
		return c, fmt.Errorf("read %s: %w", name, err)
	}
	show := a.progress()
	defer show.done()
	var p pcap.Packet
	var parsed packet.Parsed
	for n := 0; ; n++ {
		if n&4095 == 4095 {
			if err := ctx.Err(); err != nil {
				return c, err
			}
			if show.due(time.Now()) {
				line := fmt.Sprintf("%d packets, %d match", n, c.Matched)
				if size > 0 {
					line += fmt.Sprintf("  %d%%", r.Offset()*100/size)
				}
				show.show(line)
			}
		}
		if err := r.Next(&p); err == io.EOF {
			return c, nil
		} else if err != nil {
			return c, fmt.Errorf("read %s: %w", name, err)
		}
		link := r.Interfaces()[p.Interface].Link
		m, known := matchers[link]
		if !known {
			c.UnsupportedLink++
			continue
		}
		if m == nil {
			return c, fmt.Errorf("read %s: packet %d is bare IP, where this filter has no meaning", name, n+1)
		}
		matched := m.Match(p.Data, p.OrigLen)
		packets, wire, damaged, cut := &c.Matched, &c.MatchedOctets, &c.MatchedDamaged, &c.MatchedCut
		if !matched {
			packets, wire, damaged, cut = &c.Refused, &c.RefusedOctets, &c.RefusedDamaged, &c.RefusedCut
		}
		*packets++
		*wire += uint64(p.OrigLen)
		if !details {
			continue
		}
		switch parsed.Decode(link, p.Data, p.OrigLen); parsed.Defect {
		case packet.DefectMalformed:
			*damaged++
		case packet.DefectTruncated:
			*cut++
		}
	}
}
