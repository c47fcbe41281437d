package bpftap

import (
	"testing"

	"github.com/cilium/ebpf"

	"opentap/internal/nettest"
	"opentap/tap"
)

// BenchmarkNetnsProgram measures what a tap costs a packet that it does not copy.
func BenchmarkNetnsProgram(b *testing.B) {
	spec, err := loadTap()
	if err != nil {
		b.Fatal(err)
	}
	frame := nettest.Packet{DstPort: 53, Payload: make([]byte, 200)}.Bytes()
	for _, o := range []tap.Options{{VLANs: "7"}, {Filter: "tcp port 443"}, {Filter: "udp port 53 and host 192.0.2.77"}} {
		b.Run(o.VLANs+o.Filter, func(b *testing.B) {
			spec := spec.Copy()
			cookie, err := netnsCookie()
			if err != nil {
				b.Fatal(err)
			}
			if err := describe(spec, &plan{Source: tap.Source{Options: o}}, 0, true, cookie); err != nil {
				b.Fatal(err)
			}
			c, err := ebpf.NewCollection(spec)
			if err != nil {
				b.Skip(err)
			}
			defer c.Close()
			best := uint64(1 << 62)
			for range 10 {
				_, d, err := c.Programs[tapProgTap].Benchmark(frame, 200_000, nil)
				if err != nil {
					b.Fatal(err)
				}
				best = min(best, uint64(d.Nanoseconds()))
			}
			b.ReportMetric(float64(best), "ns/packet")
		})
	}
}
