package flow

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
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
	if len(table.index.slots) > 16384 || len(table.arena.chunks) > 5 || cap(table.exp.heap) > 8192 {
		t.Errorf("%d slots, %d chunks, heap %d", len(table.index.slots), len(table.arena.chunks), cap(table.exp.heap))
	}
}

// TestMemoryPerFlow asks the runtime what a table of a million flows takes, and the table itself where it is fullest of air:
// when the index has just grown (below 200,000 flows the 128 KiB of the wheel count for more than half an octet each).
func TestMemoryPerFlow(t *testing.T) {
	const most = 128 // octets a flow, as Config says
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	for _, bidirectional := range []bool{false, true} {
		cfg := DefaultConfig()
		cfg.Bidirectional = bidirectional
		before := inUse()
		table, err := New(cfg, func(*Record) {})
		if err != nil {
			t.Fatal(err)
		}
		p := traffic(1, 1, 0)[0]
		worst, grown := 0.0, 0
		for i := range 1_000_000 {
			p.Time += 1000
			binary.BigEndian.PutUint32(p.Src[12:], uint32(i))
			table.Add(&p)
			if len(table.index.slots) != grown && i > 200_000 {
				grown = len(table.index.slots)
				a := &table.arena
				octets := len(a.chunks)*int(unsafe.Sizeof(*a.chunks[0])+unsafe.Sizeof(*a.lives[0])) + 4*len(table.index.slots) + 4*len(table.exp.heads)
				if bidirectional {
					octets += len(a.rev) * int(unsafe.Sizeof(*a.rev[0]))
				}
				worst = max(worst, float64(octets)/float64(table.Stats().Flows))
			}
		}
		flows := table.Stats().Flows
		per := float64(inUse()-before) / float64(flows)
		t.Logf("bidirectional %v: %.1f octets for each of %d flows, %.1f at the most", bidirectional, per, flows, worst)
		if flows != 1_000_000 || per > most || worst > most || worst == 0 {
			t.Errorf("bidirectional %v: %.1f octets for each of %d flows, %.1f at the most; %d are promised", bidirectional, per, flows, worst, most)
		}
		runtime.KeepAlive(table)
	}
}

// TestCountersAreLong counts beyond the short parts of the counters of a live flow.
func TestCountersAreLong(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Bidirectional = true
	var got Record
	table, err := New(cfg, func(r *Record) { got = *r })
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
	p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	p.TOS, p.IPOctets = 4, 1<<32-1
	table.Add(&p)
	p.TOS, p.IPOctets = 8, 1<<31
	r := table.arena.revAt(0)
	r.packets, r.octets, r.octetsHigh = 1<<32-1, 1<<32-1, 1<<16-1
	table.Add(&p) // the low bits become zero: it is not the first packet for that
	p.TOS = 12
	table.Add(&p)
	table.Flush(EndForced)
	if got.Packets != 1<<32-1000+70_000 || got.Fragments != 70_004 || len(table.arena.many) != 0 {
		t.Errorf("%d packets, %d fragments, %d kept aside", got.Packets, got.Fragments, len(table.arena.many))
	}
	if got.RevPackets != 1<<32+1 || got.RevOctets != 1<<48-1+1<<32 || got.RevTOS != 4 {
		t.Errorf("back: %d packets, %d octets, ToS %d", got.RevPackets, got.RevOctets, got.RevTOS)
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
		for _, slot := range table.index.slots {
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

// BenchmarkChurn is the cost of a flow of one packet each way: it begins, waits, ends, and is given, while so many are alive.
func BenchmarkChurn(b *testing.B) {
	for _, flows := range []int{10_000, 800_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.Bidirectional, cfg.MaxFlows = true, 2*flows
			table, err := New(cfg, func(*Record) {})
			if err != nil {
				b.Fatal(err)
			}
			p := traffic(1, 1, 0)[0]
			step := packet.Timestamp(cfg.IdleTimeout) / packet.Timestamp(flows)
			n := uint32(0)
			add := func() {
				p.Time += step
				n += 0x9e3779b1
				binary.BigEndian.PutUint32(p.Src[12:], n)
				table.Add(&p)
			}
			for range 2 * flows {
				add()
			}
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				add()
			}
		})
	}
}
