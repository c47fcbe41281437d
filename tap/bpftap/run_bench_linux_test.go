package bpftap

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"opentap/internal/nettest"
	"opentap/tap"
)

// BenchmarkNetnsDecision: what a tap's program costs a packet that it does not copy, by the kernel's own clock.
func BenchmarkNetnsDecision(b *testing.B) {
	for _, bb := range []struct {
		name string
		o    tap.Options
	}{
		{"tcp port 443", tap.Options{Filter: "tcp port 443"}},
		{"host", tap.Options{Filter: "host 192.0.2.99"}},
		{"vlan", tap.Options{VLANs: "5"}},
		{"sample", tap.Options{SampleN: 1 << 30}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			l := newLab(b, "")
			l.source(tap.Source{ID: "a", Device: tap.Device{Name: "p0"}, Direction: tap.Out, Options: bb.o, To: tap.Target{Device: tap.Device{Name: "t0"}}})
			k, err := link.LoadPinnedLink(filepath.Join(l.d.itemDir("a", false), "in"), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer k.Close()
			info, err := k.Info()
			if err != nil {
				b.Fatal(err)
			}
			p, err := ebpf.NewProgramFromID(info.Program)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			frame := nettest.Packet{DstPort: 53}.Bytes()
			if _, _, err := p.Benchmark(frame, 1000, nil); err != nil {
				b.Fatal(err)
			}
			_, took, err := p.Benchmark(frame, 2_000_000, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
		})
	}
}
