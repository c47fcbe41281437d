package flow

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"opentap/packet"
)

// model is the table as one would say it in words: a list of flows, looked through from end to end for every packet.
type model struct {
	cfg   Config
	flows []*modelFlow
	now   packet.Timestamp
	any   bool
	seq   int
	out   []Record
}

type modelFlow struct {
	key   string
	seq   int
	ended bool
	r     Record
}

func (m *model) deadline(f *modelFlow) (packet.Timestamp, EndReason) {
	quiet, why := m.cfg.IdleTimeout, EndIdle
	if f.ended {
		quiet, why = min(m.cfg.LingerTimeout, m.cfg.IdleTimeout), EndOfFlow
	}
	d := f.r.Last.Add(quiet)
	if a := f.r.First.Add(m.cfg.ActiveTimeout); a < d {
		return a, EndActive
	}
	return d, why
}

func (m *model) sort() {
	slices.SortFunc(m.flows, func(a, b *modelFlow) int {
		da, _ := m.deadline(a)
		db, _ := m.deadline(b)
		return cmp.Or(cmp.Compare(da, db), cmp.Compare(a.seq, b.seq))
	})
}

func (m *model) give(f *modelFlow, why EndReason) {
	if f.ended && why != EndActive {
		why = EndOfFlow
	}
	f.r.EndReason = why
	m.out = append(m.out, f.r)
	m.flows = slices.DeleteFunc(m.flows, func(g *modelFlow) bool { return g == f })
}

func (m *model) expire() {
	for {
		m.sort()
		if len(m.flows) == 0 {
			return
		}
		d, why := m.deadline(m.flows[0])
		if d > m.now {
			return
		}
		m.give(m.flows[0], why)
	}
}

func (m *model) flush(why EndReason) {
	slices.SortFunc(m.flows, func(a, b *modelFlow) int { return cmp.Compare(a.seq, b.seq) })
	for len(m.flows) > 0 {
		m.give(m.flows[0], why)
	}
}

func (m *model) add(p *packet.Parsed) {
	if m.any && p.Time < m.now && m.now.Sub(p.Time) > m.cfg.MaxReorder {
		m.flush(EndForced)
		m.now = p.Time
	}
	if !m.any || p.Time > m.now {
		m.now, m.any = p.Time, true
	}
	m.expire()
	if !p.IsIP() {
		return
	}
	r := Record{First: p.Time, Last: p.Time, Src: p.Src, Dst: p.Dst, Proto: p.Proto, Version: 4, TOS: p.TOS, SrcMAC: p.SrcMAC, DstMAC: p.DstMAC}
	if p.Layers&packet.LayerIPv6 != 0 {
		r.Version = 6
	}
	if p.VLANCount > 0 {
		r.VLAN = p.VLANs[0] & 4095
	}
	if p.VLANCount > 1 {
		r.InnerVLAN = p.VLANs[1] & 4095
	}
	query := false
	reply := false
	switch {
	case p.Layers&packet.LayerTransport != 0:
		r.SrcPort, r.DstPort = p.SrcPort, p.DstPort
	case p.Layers&packet.LayerICMP != 0:
		r.DstPort = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
		r.ICMPType, r.ICMPCode = p.ICMPType, p.ICMPCode
		if p.Proto == 1 {
			query, reply = p.ICMPType == 8, p.ICMPType == 0
		} else {
			query, reply = p.ICMPType == 128, p.ICMPType == 129
		}
	case p.Proto == 6 || p.Proto == 17 || p.Proto == 1 || p.Proto == 58:
		r.PortsUnknown = true
	}
	end := func(a [16]byte, port uint16) string { return fmt.Sprintf("%x/%05d", a, port) }
	a, b := end(r.Src, r.SrcPort), end(r.Dst, r.DstPort)
	rest := fmt.Sprint(r.Version, r.Proto, r.VLAN, r.InnerVLAN, r.PortsUnknown)
	if m.cfg.Bidirectional {
		switch {
		case p.Layers&packet.LayerICMP != 0 && query:
			a, b = fmt.Sprintf("ask %x %d", r.Src, r.ICMPCode), fmt.Sprintf("%x", r.Dst)
		case p.Layers&packet.LayerICMP != 0 && reply:
			a, b = fmt.Sprintf("ask %x %d", r.Dst, r.ICMPCode), fmt.Sprintf("%x", r.Src)
		case p.Layers&packet.LayerICMP != 0:
		case a > b:
			a, b = b, a
		}
	}
	k := a + " " + b + " " + rest
	at := slices.IndexFunc(m.flows, func(f *modelFlow) bool { return f.key == k })
	tcp := p.Layers&packet.LayerTCP != 0
	if at >= 0 && m.flows[at].ended && tcp && p.TCPFlags&2 != 0 && (!m.cfg.Bidirectional || p.TCPFlags&16 == 0) {
		m.give(m.flows[at], EndOfFlow)
		at = -1
	}
	var f *modelFlow
	if at < 0 {
		if len(m.flows) == m.cfg.MaxFlows {
			m.sort()
			m.give(m.flows[0], EndLack)
		}
		m.seq++
		f = &modelFlow{key: k, seq: m.seq, r: r}
		m.flows = append(m.flows, f)
	} else {
		f = m.flows[at]
	}
	f.r.First, f.r.Last = min(f.r.First, p.Time), max(f.r.Last, p.Time)
	if p.Layers&packet.LayerFragment != 0 {
		f.r.Fragments++
	}
	forward := f.r.Src == r.Src && f.r.SrcPort == r.SrcPort && f.r.DstPort == r.DstPort
	if f.r.Src == f.r.Dst && f.r.SrcPort == f.r.DstPort && !query && !reply {
		forward = true
	}
	if forward {
		f.r.Packets++
		f.r.Octets += uint64(p.IPOctets)
		if tcp {
			f.r.TCPFlags |= p.TCPFlags
		}
	} else {
		if f.r.RevPackets == 0 {
			f.r.RevTOS = p.TOS
		}
		f.r.RevPackets++
		f.r.RevOctets += uint64(p.IPOctets)
		if tcp {
			f.r.RevTCPFlags |= p.TCPFlags
		}
	}
	if tcp && (p.TCPFlags&4 != 0 || p.TCPFlags&1 != 0 && (!m.cfg.Bidirectional || f.r.TCPFlags&f.r.RevTCPFlags&1 != 0)) {
		f.ended = true
	}
}

func drawConfig(t *rapid.T) Config {
	ms := func(name string, lo, hi int) time.Duration {
		return time.Duration(rapid.IntRange(lo, hi).Draw(t, name)) * time.Millisecond
	}
	return Config{
		IdleTimeout: ms("idle", 1, 3000), ActiveTimeout: ms("active", 1, 9000), LingerTimeout: ms("linger", 0, 500),
		MaxFlows: rapid.IntRange(1, 40).Draw(t, "max"), Bidirectional: rapid.Bool().Draw(t, "bidirectional"), MaxReorder: ms("reorder", 0, 2000),
	}
}

func drawPackets(t *rapid.T) []packet.Parsed {
	n := rapid.IntRange(1, 300).Draw(t, "n")
	var out []packet.Parsed
	now := packet.Timestamp(rapid.SampledFrom([]int64{0, -5e9, 1700000000e9, 1<<63 - 1 - 200000e9, -1 << 62}).Draw(t, "epoch"))
	host := rapid.IntRange(0, 3)
	for range n {
		step := rapid.SampledFrom([]int{0, 1, 1, 10, 50, 200, 900, 5000, -1, -20, -800, -4000, 400000}).Draw(t, "step")
		now = now.Add(time.Duration(step) * time.Millisecond)
		p := packet.Parsed{Time: now}
		if rapid.IntRange(0, 19).Draw(t, "nonip") == 0 {
			p.Defect = packet.Defect(rapid.IntRange(0, 2).Draw(t, "defect"))
			out = append(out, p)
			continue
		}
		p.Src[15], p.Dst[15] = byte(host.Draw(t, "src")), byte(host.Draw(t, "dst"))
		p.Layers = packet.LayerEthernet | packet.LayerIPv4
		v6 := rapid.IntRange(0, 4).Draw(t, "v6") == 0
		if v6 {
			p.Layers = packet.LayerEthernet | packet.LayerIPv6
		}
		p.IPOctets = uint32(rapid.IntRange(20, 1500).Draw(t, "octets"))
		p.TOS = uint8(rapid.IntRange(0, 2).Draw(t, "tos"))
		p.SrcMAC[5], p.DstMAC[5] = p.Src[15], p.Dst[15]
		p.VLANCount = uint8(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "tags"))
		p.VLANs = [2]uint16{0xe000 | uint16(host.Draw(t, "vlan")), 0x2000 | uint16(host.Draw(t, "inner"))}
		p.SrcPort, p.DstPort = uint16(host.Draw(t, "sp")), uint16(host.Draw(t, "dp"))
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0, 1, 2:
			p.Proto = 6
			p.Layers |= packet.LayerTransport | packet.LayerTCP
			p.TCPFlags = rapid.SampledFrom([]uint8{2, 18, 16, 16, 24, 17, 4}).Draw(t, "flags")
		case 3:
			p.Proto = 17
			p.Layers |= packet.LayerTransport
		case 4:
			p.Proto = 1
			p.ICMPType = rapid.SampledFrom([]uint8{8, 0, 3}).Draw(t, "type")
			if v6 {
				p.Proto = 58
				p.ICMPType = rapid.SampledFrom([]uint8{128, 129, 135}).Draw(t, "type")
			}
			p.ICMPCode = uint8(rapid.IntRange(0, 1).Draw(t, "code"))
			p.Layers |= packet.LayerICMP
		case 5:
			p.Proto = 47
		case 6:
			p.Proto = 17
			p.Layers |= packet.LayerFragment
			p.FragOff = 1480
		}
		out = append(out, p)
	}
	return out
}

// TestTableIsTheModel says that the table and the model give the same records in the same order, whatever the secret of
// the hash, and that no packet is lost from the totals.
func TestTableIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, packets := drawConfig(t), drawPackets(t)
		m := &model{cfg: cfg}
		var got []Record
		s := secret{}
		for i := range s {
			s[i] = rapid.Uint64().Draw(t, "secret")
		}
		table := newTable(cfg, func(r *Record) { got = append(got, *r) }, s)
		for i := range packets {
			table.Add(&packets[i])
			m.add(&packets[i])
			if len(m.out) != len(got) {
				t.Fatalf("packet %d: %d records, want %d", i, len(got), len(m.out))
			}
			if table.Stats().Flows != len(m.flows) {
				t.Fatalf("packet %d: %d flows alive, want %d", i, table.Stats().Flows, len(m.flows))
			}
		}
		live := 0
		var sum, sumLive Stats
		table.Snapshot(func(r *Record) {
			live++
			sumLive.Metered += r.Packets + r.RevPackets
			sumLive.Octets += r.Octets + r.RevOctets
		})
		if live != len(m.flows) {
			t.Fatalf("snapshot of %d flows, want %d", live, len(m.flows))
		}
		for _, r := range got {
			sumLive.Metered += r.Packets + r.RevPackets
			sumLive.Octets += r.Octets + r.RevOctets
		}
		table.Advance(table.nowForTest() + 1e9)
		m.now += 1e9
		m.expire()
		table.Flush(EndForced)
		m.flush(EndForced)
		for i, r := range got {
			if i < len(m.out) && r != m.out[i] {
				t.Fatalf("record %d is\n%+v, want\n%+v", i, r, m.out[i])
			}
			if r.Duration() < 0 {
				t.Fatalf("record %d has duration %v", i, r.Duration())
			}
			sum.Metered += r.Packets + r.RevPackets
			sum.Octets += r.Octets + r.RevOctets
		}
		if len(got) != len(m.out) {
			t.Fatalf("%d records, want %d", len(got), len(m.out))
		}
		st := table.Stats()
		if st.Metered != sum.Metered || st.Octets != sum.Octets || sumLive.Metered != sum.Metered || sumLive.Octets != sum.Octets {
			t.Fatalf("metered %d packets %d octets, records hold %d and %d (with a snapshot %d and %d)", st.Metered, st.Octets, sum.Metered, sum.Octets, sumLive.Metered, sumLive.Octets)
		}
		if st.Packets != uint64(len(packets)) || st.Packets != st.Metered+st.NonIP+st.Truncated+st.Malformed {
			t.Fatalf("accounts do not add up: %+v", st)
		}
		if st.Flows != 0 || st.RecordsGiven != uint64(len(got)) || st.FlowsBegun != st.RecordsGiven {
			t.Fatalf("flows do not add up: %+v", st)
		}
	})
}

func (t *Table) nowForTest() packet.Timestamp { return packet.Timestamp(t.now) }

// TestBatchIsAdd says that packets added in batches give what they give one by one.
func TestBatchIsAdd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, packets := drawConfig(t), drawPackets(t)
		var one, many []Record
		a := newTable(cfg, func(r *Record) { one = append(one, *r) }, secret{1, 2, 3, 4})
		b := newTable(cfg, func(r *Record) { many = append(many, *r) }, secret{1, 2, 3, 4})
		for i := range packets {
			a.Add(&packets[i])
		}
		b.AddBatch(packets)
		a.Flush(EndForced)
		b.Flush(EndForced)
		if a.Stats() != b.Stats() || !slices.Equal(one, many) {
			t.Fatalf("batch gives %+v, one by one %+v", b.Stats(), a.Stats())
		}
	})
}

// TestReplay says that two tables with different secrets write the same octets.
func TestReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, packets := drawConfig(t), drawPackets(t)
		var out [2]bytes.Buffer
		for n := range out {
			table, err := New(cfg, func(r *Record) { _ = binary.Write(&out[n], binary.LittleEndian, r) })
			if err != nil {
				t.Fatal(err)
			}
			for i := range packets {
				table.Add(&packets[i])
			}
			table.Flush(EndForced)
		}
		if !bytes.Equal(out[0].Bytes(), out[1].Bytes()) {
			t.Fatal("two runs differ")
		}
	})
}
