package segment

import (
	"encoding/binary"
	"sync"
	"testing"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// laneConfig makes small chunks, so that lanes take turns.
func laneConfig(dir string, lanes int) Config {
	cfg := DefaultConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes, cfg.Lanes, cfg.NoSync, cfg.FlushEvery = 16*Page, 2<<20, lanes, true, 0
	cfg.Interface = pcap.Interface{Name: "veth0", Link: packet.LinkEthernet}
	return cfg
}

// Lanes that append at once lose nothing and double nothing; each chunk is of one lane, in the order of the calls, and counts
// what is before it in the file.
func TestLanesAppendBesideOneAnother(t *testing.T) {
	const lanes, each = 4, 20_000
	dir := t.TempDir()
	w, err := Create(laneConfig(dir, lanes))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range lanes {
		wg.Go(func() {
			l := w.Lane(n)
			data := make([]byte, 60)
			for i := range uint32(each) {
				binary.BigEndian.PutUint32(data, uint32(n))
				binary.BigEndian.PutUint32(data[4:], i)
				for !l.Append(packet.Timestamp(1e9+i), 60, data, pcap.DirectionIn) {
					if err := w.Flush(); err != nil { // wait for the disk
						t.Error(err)
						return
					}
				}
				if i%5000 == 0 {
					w.Stats() // which holds all lanes
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(ledger.Account{Seen: lanes * each, Captured: lanes * each}); err != nil {
		t.Fatal(err)
	}
	if s := w.Stats(); s.Packets != lanes*each || s.WrittenPackets != lanes*each {
		t.Errorf("%+v", s)
	}
	rec, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	if rec.Lanes() != lanes {
		t.Errorf("%d lanes", rec.Lanes())
	}
	var next [lanes]uint32
	var buf []byte
	before := uint64(0)
	for h, err := range rec.Chunks(0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if h.Before != before {
			t.Fatalf("chunk %d of segment %d counts %d packets before it, there are %d", h.Sequence, h.Segment, h.Before, before)
		}
		before += uint64(h.Packets)
		if buf, err = rec.ReadChunk(h, buf); err != nil {
			t.Fatal(err)
		}
		for rest := buf[h.Header:]; len(rest) > 0; {
			_, body, n, err := pcap.NextBlock(rest)
			var p pcap.Packet
			if err == nil {
				err = pcap.DecodePacket(body, &p)
			}
			if err != nil {
				t.Fatal(err)
			}
			lane, number := binary.BigEndian.Uint32(p.Data), binary.BigEndian.Uint32(p.Data[4:])
			if lane != h.Lane || number != next[lane] {
				t.Fatalf("packet %d of lane %d in a chunk of lane %d, want packet %d", number, lane, h.Lane, next[h.Lane])
			}
			next[lane]++
			rest = rest[n:]
		}
	}
	if next != [lanes]uint32{each, each, each, each} {
		t.Errorf("packets by lane: %v", next)
	}
	if v, err := Verify(t.Context(), dir, nil); err != nil || len(v.Problems) > 0 || v.Indexed != v.Segments {
		t.Errorf("%+v, %v", v, err)
	}
}

// A lane appends without an allocation while another one does.
func TestLaneAppendAllocatesNothing(t *testing.T) {
	cfg := laneConfig(t.TempDir(), 2)
	cfg.NoIndex = true
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(ledger.Account{})
	data := make([]byte, 60)
	if n := testing.AllocsPerRun(100, func() {
		for n := range 2 {
			b := w.Lane(n).Begin()
			b.Append(1e9, 60, data, pcap.DirectionIn)
			b.End()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A recording goes on with another number of lanes, and one from before there were lanes has one.
func TestLanesMayChange(t *testing.T) {
	dir := t.TempDir()
	for i, lanes := range []int{0, 3, 1} {
		w, err := Create(laneConfig(dir, lanes))
		if err != nil {
			t.Fatal(err)
		}
		for n := range max(lanes, 1) {
			w.Lane(n).Append(packet.Timestamp(1e9*(i+1)), 60, make([]byte, 60), pcap.DirectionIn)
		}
		if err := w.Close(ledger.Account{}); err != nil {
			t.Fatal(err)
		}
	}
	rec, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	if rec.Lanes() != 3 || len(rec.segments) != 3 || rec.segments[0].lanes != 0 || rec.segments[2].lanes != 0 {
		t.Errorf("%d lanes: %+v", rec.Lanes(), rec.segments)
	}
	for _, bad := range []int{-1, MaxLanes + 1, 17} { // 17 need more buffers
		if _, err := Create(laneConfig(t.TempDir(), bad)); err == nil {
			t.Errorf("%d lanes are accepted", bad)
		}
	}
}
