package capture

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"opentap/capture/ring"
	"opentap/capture/segment"
	"opentap/flow"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// store writes what it is shown into segments.
type store struct {
	w     *segment.Writer
	batch *segment.Batch
}

func (s *store) Begin() { s.batch = s.w.Begin() }
func (s *store) End()   { s.batch.End() }
func (s *store) Frame(f *Frame) Verdict {
	if !s.batch.Append(f.Time, f.OrigLen, f.Data, pcap.DirectionIn) {
		return LostDisk
	}
	return Took
}
func (s *store) Idle(_ packet.Timestamp, a *ledger.Account) { s.w.Account(*a) }

// meter makes flow records of what it is shown.
type meter struct{ *flow.Table }

func (meter) Begin() {}
func (meter) End()   {}
func (m meter) Frame(f *Frame) Verdict {
	m.Add(f.Parsed())
	return Took
}
func (m meter) Idle(now packet.Timestamp, _ *ledger.Account) { m.Advance(now) }

func TestNetnsNoAllocationPerPacket(t *testing.T) {
	const flows, rounds = 2000, 20
	frames := make([][]byte, flows)
	for i := range frames {
		frames[i] = nettest.Packet{
			Src: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Dst: netip.MustParseAddr("10.0.0.2"),
			Proto: 17, SrcPort: uint16(i), DstPort: 53, Payload: make([]byte, 64),
		}.Bytes()
	}
	s := newStage(t, ring.Config{})
	cfg := segment.DefaultConfig(t.TempDir())
	cfg.Interface = pcap.Interface{Name: "in", Link: packet.LinkEthernet}
	w, err := segment.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	table, err := flow.New(flow.DefaultConfig(), func(*flow.Record) {})
	if err != nil {
		t.Fatal(err)
	}
	a := s.attach(t, Spec{}, &store{w: w})
	s.begun(t, a)
	b := s.attach(t, Spec{}, meter{table})
	s.begun(t, b)
	round := func(n uint64) {
		s.sender.Send(frames...)
		await.Until(t, fmt.Sprintf("%d packets are stored", n), func() bool { return a.Progress().Account.Seen >= n && b.Progress().Account.Seen >= n })
	}
	round(flows) // buffers and tables grow now
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range rounds {
		round(uint64(flows * (i + 2)))
	}
	runtime.ReadMemStats(&after)
	per := float64(after.Mallocs-before.Mallocs) / (flows * rounds)
	// The sender, the waiting and the block timers of this test allocate too, by the round; nothing may by the packet.
	if per > 0.1 {
		t.Errorf("%.3f allocations per packet", per)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(a.Progress().Account); err != nil {
		t.Fatal(err)
	}
	if got := table.Stats(); got.Metered != flows*(rounds+1) || got.Flows != flows {
		t.Errorf("metered %d packets in %d flows", got.Metered, got.Flows)
	}
}
