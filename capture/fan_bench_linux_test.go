package capture

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"opentap/capture/ring"
	"opentap/capture/segment"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/pcap"
)

// gated writes what it is shown to a lane of a recording, once it is let.
type gated struct {
	taker
	lane  *segment.Lane
	batch *segment.Batch
	gate  <-chan struct{}
}

func (g *gated) Begin() { <-g.gate; g.batch = g.lane.Begin() }

func (g *gated) End() { g.batch.End() }

// Ready implements Patient: what is measured is readers, not a disk's refusals.
func (g *gated) Ready(octets int) bool { return g.lane.Room() >= octets }

func (g *gated) Frame(f *Frame) Verdict {
	if !g.batch.Append(f.Time, f.OrigLen, f.Data, pcap.DirectionIn) {
		return LostDisk
	}
	return Took
}

// BenchmarkNetnsFan measures how fast one, two and three readers record what is in their rings: those are filled first, and the
// readers have all processors when they begin. One op is a fill; pps is packets read per second of wall time, cpu-ns what one
// costs, in all threads together. Needs a machine to itself, and TMPDIR in memory if it is not to measure the disk.
func BenchmarkNetnsFan(b *testing.B) {
	for _, index := range []bool{false, true} {
		for _, readers := range []int{1, 2, 3} {
			b.Run(fmt.Sprintf("index=%t/readers=%d", index, readers), func(b *testing.B) { benchmarkFan(b, readers, index) })
		}
	}
}

func benchmarkFan(b *testing.B, readers int, index bool) {
	const fill = 400_000 // half of the rings
	s := newStage(b, ring.Config{Blocks: 128, BlockSize: 1 << 20, Retire: 50 * time.Millisecond})
	var gen *nettest.Generator
	var err error
	s.far.Do(func() { gen, err = nettest.NewGenerator(nettest.GeneratorConfig{Interface: "out", CPU: -1}) })
	if err != nil {
		b.Skipf("needs BPF_F_TEST_XDP_LIVE_FRAMES (Linux 5.18): %v", err)
	}
	defer gen.Close()
	var sink *nettest.Sink
	s.tap.Do(func() { sink, err = nettest.NewSink("in") })
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	var took time.Duration
	var cpu, packets int64
	for range b.N {
		cfg := segment.DefaultConfig(b.TempDir())
		cfg.NoIndex, cfg.Lanes, cfg.Buffers = !index, readers, max(cfg.Buffers, 4*readers)
		cfg.Interface = pcap.Interface{Name: "in", Link: packet.LinkEthernet}
		w, err := segment.Create(cfg)
		if err != nil {
			b.Fatal(err)
		}
		gate := make(chan struct{})
		consumers := make([]Consumer, readers)
		for i := range consumers {
			consumers[i] = &gated{lane: w.Lane(i), gate: gate}
		}
		f, err := s.AttachFan(Spec{Point: "in"}, consumers)
		if err != nil {
			b.Fatal(err)
		}
		<-f.Open()
		s.far.Do(func() { err = gen.Run(context.Background(), fill, 0) })
		if err != nil {
			b.Fatal(err)
		}
		before, began := processorTime(b), time.Now()
		close(gate)
		await.Until(b, "the rings are read", func() bool { a := f.Progress().Account; return a.Captured+a.DroppedTotal() >= fill })
		took += time.Since(began)
		cpu += processorTime(b) - before
		if err := f.Detach(context.Background()); err != nil {
			b.Fatal(err)
		}
		a := f.Progress().Account
		if err := w.Close(a); err != nil {
			b.Fatal(err)
		}
		if a.DroppedTotal() > 0 {
			b.Logf("%d of %d were lost", a.DroppedTotal(), a.Seen)
		}
		packets += int64(a.Captured)
	}
	b.ReportMetric(float64(packets)/took.Seconds(), "pps")
	b.ReportMetric(float64(cpu)/float64(packets), "cpu-ns/packet")
	b.ReportMetric(0, "ns/op")
}

// processorTime is what this process used of processors, in ns.
func processorTime(tb testing.TB) int64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return ru.Utime.Nano() + ru.Stime.Nano()
}
