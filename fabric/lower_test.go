package fabric

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/filter/filtertest"
	"opentap/packet"
	"opentap/wire/of13"
)

// extract does to a frame what a switch does before it looks into its table (OpenFlow 1.3.5 section 7.2.3.8). ok is false for frames
// of which switches see other things than pcap-filter does, as docs/howto/fabric.md says: cut short, two tags, fragments but the
// first, IPv6 with further headers.
func extract(f []byte) (m of13.Match, ok bool) {
	if len(f) < 14 {
		return m, false
	}
	add := func(x of13.Match) { m, _ = m.And(x) }
	add(of13.UintMask(of13.EthDst, be(f[:6]), 0xffffffffffff))
	add(of13.UintMask(of13.EthSrc, be(f[6:12]), 0xffffffffffff))
	etherType, b := binary.BigEndian.Uint16(f[12:]), f[14:]
	vlan := uint64(0)
	if etherType == 0x8100 || etherType == 0x88a8 {
		if len(b) < 4 {
			return m, false
		}
		vlan = uint64(binary.BigEndian.Uint16(b)&0xfff) | of13.VLANPresent
		etherType, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	add(of13.Uint(of13.VLANVID, vlan))
	if etherType < 0x600 || etherType == 0x8100 || etherType == 0x88a8 || etherType == 0x9100 || etherType == 0x8035 {
		return m, false
	}
	add(of13.Uint(of13.EthType, uint64(etherType)))
	var proto byte
	switch etherType {
	case 0x0800:
		if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 || len(b) < int(b[0]&15)*4 {
			return m, false
		}
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return m, false
		}
		proto = b[9]
		add(of13.Uint(of13.IPv4Src, be(b[12:16])))
		add(of13.Uint(of13.IPv4Dst, be(b[16:20])))
		b = b[int(b[0]&15)*4:]
	case 0x86dd:
		if len(b) < 40 || b[0]>>4 != 6 {
			return m, false
		}
		proto = b[6]
		switch proto {
		case 0, 43, 44, 50, 51, 60, 135:
			return m, false
		}
		add(of13.Octets(of13.IPv6Src, b[8:24], nil))
		add(of13.Octets(of13.IPv6Dst, b[24:40], nil))
		b = b[40:]
	case 0x0806:
		if len(b) < 28 {
			return m, false
		}
		add(of13.Uint(of13.ARPSPA, be(b[14:18])))
		add(of13.Uint(of13.ARPTPA, be(b[24:28])))
		return m, true
	default:
		return m, true
	}
	add(of13.Uint(of13.IPProto, uint64(proto)))
	if len(b) < 20 {
		return m, false
	}
	for _, t := range transports {
		if uint64(proto) == t.number {
			add(of13.Uint(t.src, be(b[:2])))
			add(of13.Uint(t.dst, be(b[2:4])))
		}
	}
	if proto == 1 && etherType == 0x0800 {
		add(of13.Uint(of13.ICMPType, uint64(b[0])))
		add(of13.Uint(of13.ICMPCode, uint64(b[1])))
	}
	return m, true
}

func be(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

func (d decision) decide(packet of13.Match) bool {
	for _, c := range d {
		if c.match.Covers(packet) {
			return c.yes
		}
	}
	return false
}

// TestLoweredFiltersDecideAsTheyDo holds what switches would do against the filter that captures use, over the whole corpus.
func TestLoweredFiltersDecideAsTheyDo(t *testing.T) {
	frames := filtertest.Frames(7, 1500, false)
	packets := make([]of13.Match, 0, len(frames))
	kept := frames[:0:0]
	for _, f := range frames {
		if m, ok := extract(f); ok {
			packets, kept = append(packets, m), append(kept, f)
		}
	}
	if len(kept) < 300 {
		t.Fatalf("%d of %d frames", len(kept), len(frames))
	}
	lowered, refused, wrong := 0, 0, 0
	r := rand.New(rand.NewPCG(1, 2))
	list := filtertest.All()
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if testing.Short() {
		list = list[:200]
	}
	for _, text := range list {
		e, err := filter.Parse(text)
		if err != nil || e.Root == nil {
			continue
		}
		d, err := lowerText(text)
		if err != nil {
			if !fault.Is(err, fault.Unsupported) {
				t.Errorf("%s: %v", text, err)
			}
			refused++
			continue
		}
		m, err := cbpf.NewMatcher(e, cbpf.Options{Link: packet.LinkEthernet})
		if err != nil {
			continue
		}
		lowered++
		for i, p := range packets {
			if got, want := d.decide(p), m.Match(kept[i], uint32(len(kept[i]))); got != want {
				if wrong++; wrong < 20 {
					t.Errorf("%s: %v, the filter says %v of %s (%x)", text, got, want, p, kept[i][:min(len(kept[i]), 60)])
				}
				break
			}
		}
	}
	t.Logf("%d filters lowered, %d refused, over %d frames", lowered, refused, len(kept))
	if lowered < len(list)/4 {
		t.Errorf("only %d of %d filters are lowered", lowered, len(list))
	}
}

func TestWhatSwitchesCannotMatchIsRefused(t *testing.T) {
	for text, has := range map[string]string{
		"tcp[tcpflags] & tcp-syn != 0": "computed conditions", "greater 100": "computed conditions", "mpls 100": "label stack", "vlan 1 and vlan 2": "second VLAN tag",
		"geneve": "tunnel", "inbound": "direction: both", "pppoes": "pppoe", "stp": "EtherType",
	} {
		_, err := lowerText(text)
		if !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), has) {
			t.Errorf("%s: %v, want %s", text, err, has)
		}
	}
	if _, err := lowerText("tcp port"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	many := "port 1"
	for i := 2; i < 200; i++ {
		many += " and not (src portrange 1-65534 and dst portrange 1-65534)"
	}
	if _, err := lowerText(many); err != nil && !strings.Contains(err.Error(), "1024 rules") {
		t.Error(err)
	}
}

func TestRangesAreFewBlocks(t *testing.T) {
	for _, tt := range []struct {
		lo, hi uint16
		width  int
		blocks int
	}{{0, 65535, 16, 1}, {80, 80, 16, 1}, {1, 65534, 16, 30}, {1024, 65535, 16, 6}, {0, 4095, 12, 1}, {100, 120, 12, 4}, {65535, 65535, 16, 1}} {
		got := prefixes(tt.lo, tt.hi, tt.width)
		if len(got) != tt.blocks {
			t.Errorf("%d-%d: %d blocks, want %d", tt.lo, tt.hi, len(got), tt.blocks)
		}
		for n := range uint32(1) << tt.width {
			in := 0
			for _, p := range got {
				if uint16(n)&p.mask == p.value {
					in++
				}
			}
			if want := n >= uint32(tt.lo) && n <= uint32(tt.hi); in > 1 || (in == 1) != want {
				t.Fatalf("%d-%d: %d is in %d blocks", tt.lo, tt.hi, n, in)
			}
		}
	}
}
