package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/internal/nettest"
	"opentap/packet"
)

// benchFilter has five terms, all of which a third of the frames reach.
const benchFilter = "tcp and src net 10.0.0.0/8 and dst net 198.51.100.0/24 and dst port 443 and not host 10.0.0.7"

// filter measures the filter that retrieval applies to stored packets against the virtual machine of x/net/bpf running
// the same program.
func (b *bench) filter(ctx context.Context) error {
	e, err := filter.Parse(benchFilter)
	if err != nil {
		return err
	}
	o := cbpf.Options{Link: packet.LinkEthernet, Target: cbpf.File}
	m, err := cbpf.NewMatcher(e, o)
	if err != nil {
		return err
	}
	raw, err := cbpf.Compile(e, o)
	if err != nil {
		return err
	}
	prog := make([]bpf.Instruction, len(raw))
	for i, r := range raw {
		prog[i] = r.Disassemble()
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		return err
	}
	frames := filterFrames()
	ours, peer := &series{tool: "cbpf.Matcher"}, &series{tool: "x/net/bpf VM"}
	var matched [2]int
	const loops = 200
	for range 5 {
		began := time.Now()
		for range loops {
			for _, f := range frames {
				if m.Match(f, uint32(len(f))) {
					matched[0]++
				}
			}
		}
		ours.add(float64(time.Since(began)) / float64(loops*len(frames)))
		began = time.Now()
		for range loops {
			for _, f := range frames {
				if n, err := vm.Run(f); err == nil && n > 0 {
					matched[1]++
				}
			}
		}
		peer.add(float64(time.Since(began)) / float64(loops*len(frames)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if matched[0] != matched[1] {
		return fmt.Errorf("the matcher took %d packets, the virtual machine %d", matched[0], matched[1])
	}
	ours.extra = fmt.Sprintf("%d %% match", 100*matched[0]/(5*loops*len(frames)))
	b.rows = append(b.rows, row{task: "filter of five terms", unit: "ns per packet", better: lower, digits: 1, series: []*series{ours, peer}})
	return nil
}

func filterFrames() [][]byte {
	var out [][]byte
	for i := range 1024 {
		p := nettest.Packet{
			Src: netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), Dst: netip.AddrFrom4([4]byte{198, 51, 100, 1}),
			SrcPort: 1024, DstPort: 443, Proto: nettest.TCP,
		}
		switch {
		case i%3 == 0:
			p.Proto = nettest.UDP
		case i%7 == 0:
			p.DstPort = 80
		case i%5 == 0:
			p.Src, p.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		case i%11 == 0:
			p.Tags = []nettest.Tag{{TCI: 7}}
		}
		out = append(out, p.Bytes())
	}
	return out
}
