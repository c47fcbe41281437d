//go:build linux

package e2e

import (
	"context"
	"testing"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// More packets than the ring can take: what is lost is counted to the packet, and said everywhere.
func TestNetnsLossIsCounted(t *testing.T) {
	l := newLab(t) // not parallel: a flood takes all there is
	d := newDaemon(t, l.near, "ring:\n  blocks: 2\n  block_size: 64KiB\n")
	var sink *nettest.Sink
	var gen *nettest.Generator
	var err error
	l.near.Do(func() { sink, err = nettest.NewSink("tap0") })
	if err != nil {
		t.Skipf("needs XDP on veth: %v", err)
	}
	defer sink.Close()
	l.far.Do(func() {
		gen, err = nettest.NewGenerator(nettest.GeneratorConfig{Interface: "wire0", Mix: nettest.MixIMIX, Flows: 1000, CPU: -1})
	})
	if err != nil {
		t.Skipf("needs BPF_F_TEST_XDP_LIVE_FRAMES: %v", err)
	}
	defer gen.Close()

	d.create(m{"kind": "pcap", "id": "flood", "points": []string{"tap0"}})
	d.create(m{"kind": "pcap", "id": "part", "points": []string{"tap0"}, "filter": "ip6"})
	before, err := sink.Delivered()
	if err != nil {
		t.Fatal(err)
	}
	l.far.Do(func() { err = gen.Run(context.Background(), 400_000, 0) })
	if err != nil {
		t.Fatal(err)
	}
	var sent uint64
	await.Until(t, "all frames have arrived", func() bool {
		now, err := sink.Delivered()
		if err != nil {
			t.Fatal(err)
		}
		steady := now == sent
		sent = now
		return steady && now >= before+400_000
	})
	sent -= before

	v := d.finish("flood")
	a := v.Status.Ledger
	ring := a.Dropped["kernel_ring"]
	if !a.adds() || a.Seen != sent || a.Captured+a.DroppedTotal != sent {
		t.Errorf("%d were sent; ledger %+v", sent, a)
	}
	if ring == 0 {
		t.Errorf("a ring of 128 KiB lost nothing of %d packets: this proves nothing", sent)
	}
	path := d.file("flood.pcapng")
	r := d.opentap("retrieve", "flood", "-w", path, "--fail-on-loss")
	if r.code != 6 {
		t.Errorf("--fail-on-loss: exit code %d: %s", r.code, r.stderr)
	}
	if n := capinfosCount(t, path); n != a.Captured || n == 0 {
		t.Errorf("the file has %d packets, the ledger %d", n, a.Captured)
	}
	s := statistics(t, path)
	if uint64(s.received) != sent || uint64(s.dropped) != a.DroppedTotal {
		t.Errorf("the file's statistics: %+v; %d were sent, %d dropped", s, sent, a.DroppedTotal)
	}
	f := d.finish("part").Status.Ledger
	if !f.adds() || f.Seen != sent {
		t.Errorf("with a filter: %d were sent; ledger %+v", sent, f)
	}
	t.Logf("%d sent, %d captured, %d lost in the ring, %d for the disk; with a filter %d captured, %d filtered, %d lost", sent, a.Captured, ring, a.Dropped["disk"], f.Captured, f.Filtered, f.DroppedTotal)
}
