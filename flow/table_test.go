package flow

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"opentap/packet"
)

// traffic makes TCP packets over a number of flows; flow n is picked at random, the time advances evenly.
func traffic(flows, packets int, span time.Duration) []packet.Parsed {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]packet.Parsed, packets)
	for i := range out {
		p := &out[i]
		n := uint32(r.IntN(flows))
		p.Time = packet.Timestamp(1_700_000_000e9 + int64(span)*int64(i)/int64(packets))
		p.Layers = packet.LayerEthernet | packet.LayerIPv4 | packet.LayerTransport | packet.LayerTCP
		p.Proto, p.TCPFlags, p.IPOctets = 6, tcpACK, 40+n%1400
		p.Src[10], p.Src[11], p.Dst[10], p.Dst[11] = 255, 255, 255, 255
		binary.BigEndian.PutUint32(p.Src[12:], 0x0a000000|n)
		binary.BigEndian.PutUint32(p.Dst[12:], 0xc0a80000|n&0xff)
		p.SrcPort, p.DstPort = uint16(1024+n%60000), 443
	}
	return out
}

func TestAddDoesNotAllocate(t *testing.T) {
	for _, bidirectional := range []bool{false, true} {
		cfg := DefaultConfig()
		cfg.Bidirectional = bidirectional
		cfg.MaxFlows = 1000 // evictions, too
		cfg.IdleTimeout = 100 * time.Millisecond
		table, err := New(cfg, func(*Record) {})
		if err != nil {
			t.Fatal(err)
		}
		packets := traffic(10000, 200000, 10*time.Second)
		at := 0
		add := func() {
			p := &packets[at%len(packets)]
			p.Time = packet.Timestamp(1_700_000_000e9 + int64(at)*50_000)
			table.Add(p)
			at++
		}
		for range 100000 {
			add()
		}
		if n := testing.AllocsPerRun(100000, add); n != 0 {
			t.Errorf("bidirectional %v: %v allocations a packet", bidirectional, n)
		}
		if s := table.Stats(); s.RecordsGiven == 0 || s.FlowsEvicted == 0 {
			t.Errorf("nothing ended: %+v", s)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxFlows = 5000
	given := 0
	table, err := New(cfg, func(*Record) { given++ })
	if err != nil {
		t.Fatal(err)
	}
	packets := traffic(1<<20, 300000, time.Second)
	for i := range packets {
		table.Add(&packets[i])
	}
	if s := table.Stats(); s.Flows != 5000 || int(s.RecordsGiven) != given || s.FlowsEvicted == 0 {
		t.Errorf("stats %+v", s)
	}
	if len(table.slots) > 16384 || len(table.arena.chunks) > 5 || cap(table.exp.heap) > 8192 {
		t.Errorf("%d slots, %d chunks, heap %d", len(table.slots), len(table.arena.chunks), cap(table.exp.heap))
	}
}

// TestMemoryPerFlow adds up what a table keeps, at the sizes it is judged by.
func TestMemoryPerFlow(t *testing.T) {
	for _, flows := range []int{100_000, 1_000_000} {
		for _, bidirectional := range []bool{false, true} {
			cfg := DefaultConfig()
			cfg.Bidirectional = bidirectional
			table, err := New(cfg, func(*Record) {})
			if err != nil {
				t.Fatal(err)
			}
			p := traffic(1, 1, 0)[0]
			for i := range flows {
				p.Time++
				binary.BigEndian.PutUint32(p.Src[12:], uint32(i))
				table.Add(&p)
			}
			a := &table.arena
			octets := len(a.chunks)*int(unsafe.Sizeof(*a.chunks[0])+unsafe.Sizeof(*a.lives[0])) + 8*len(table.slots) + 4*len(table.exp.heads)
			limit := 128
			if bidirectional {
				octets += len(a.rev) * int(unsafe.Sizeof(*a.rev[0]))
				limit = 144
			}
			if per := float64(octets) / float64(flows); per > float64(limit) {
				t.Errorf("%d flows, bidirectional %v: %.1f octets a flow, more than %d", flows, bidirectional, per, limit)
			} else {
				t.Logf("%d flows, bidirectional %v: %.1f octets a flow", flows, bidirectional, per)
			}
		}
	}
}

// TestManyPacketsAndFragments counts beyond the short counters of a live flow.
func TestManyPacketsAndFragments(t *testing.T) {
	var got Record
	table, err := New(DefaultConfig(), func(r *Record) { got = *r })
	if err != nil {
		t.Fatal(err)
	}
	p := traffic(1, 1, 0)[0]
	p.Layers |= packet.LayerFragment
	table.Add(&p)
	table.arena.at(0).packets = 1<<32 - 1000
	for range 70_000 {
		table.Add(&p)
	}
	table.Flush(EndForced)
	if got.Packets != 1<<32-1000+70_000 || got.Fragments != 70_001 || len(table.arena.many) != 0 {
		t.Errorf("%d packets, %d fragments, %d kept aside", got.Packets, got.Fragments, len(table.arena.many))
	}
}

// TestFlushOfFewAndMany ends flows both ways, and the table works on as a new one does.
func TestFlushOfFewAndMany(t *testing.T) {
	var got, want []Record
	table, err := New(DefaultConfig(), func(r *Record) { got = append(got, *r) })
	if err != nil {
		t.Fatal(err)
	}
	for _, flows := range []int{30_000, 10, 30_000, 3, 0, 5000} {
		packets := traffic(max(flows, 1), 2*flows, time.Second)
		fresh, err := New(DefaultConfig(), func(r *Record) { want = append(want, *r) })
		if err != nil {
			t.Fatal(err)
		}
		got, want = nil, nil
		table.AddBatch(packets)
		fresh.AddBatch(packets)
		table.Flush(EndForced)
		fresh.Flush(EndForced)
		if !slices.Equal(got, want) || table.Stats().Flows != 0 || len(table.exp.heap) != 0 {
			t.Fatalf("%d flows: %d records, want %d", flows, len(got), len(want))
		}
		for _, slot := range table.slots {
			if slot != 0 {
				t.Fatalf("%d flows: a slot is left", flows)
			}
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"idle":     func(c *Config) { c.IdleTimeout = 0 },
		"active":   func(c *Config) { c.ActiveTimeout = -1 },
		"linger":   func(c *Config) { c.LingerTimeout = -1 },
		"reorder":  func(c *Config) { c.MaxReorder = -1 },
		"max":      func(c *Config) { c.MaxFlows = 0 },
		"too many": func(c *Config) { c.MaxFlows = 1 << 30 },
		"too long": func(c *Config) { c.ActiveTimeout = 1000 * time.Hour },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := New(cfg, func(*Record) {}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(DefaultConfig(), nil); err == nil {
		t.Error("no sink: no error")
	}
}

// BenchmarkAdd is the cost of one packet in the table, decoding excluded, with expiry going on.
func BenchmarkAdd(b *testing.B) {
	for _, flows := range []int{1000, 100_000, 1_000_000} {
		for _, bidirectional := range []bool{false, true} {
			b.Run(fmt.Sprintf("flows=%d/bidirectional=%v", flows, bidirectional), func(b *testing.B) {
				packets := traffic(flows, 4_000_000, 8*time.Second)
				cfg := DefaultConfig()
				cfg.Bidirectional = bidirectional
				cfg.MaxFlows = 2_000_000
				table, err := New(cfg, func(*Record) {})
				if err != nil {
					b.Fatal(err)
				}
				for i := range packets {
					table.Add(&packets[i])
				}
				base := packets[len(packets)-1].Time
				b.ReportAllocs()
				b.ResetTimer()
				at, round := 0, packet.Timestamp(0)
				for b.Loop() {
					p := &packets[at]
					p.Time = base + round + packet.Timestamp(at)*2000
					table.Add(p)
					if at++; at == len(packets) {
						at = 0
						round += packet.Timestamp(len(packets)) * 2000
					}
				}
			})
		}
	}
}
