package cbpf

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/packet"
)

// payloadOf finds what the outermost tunnel of a frame carries, written down a second time to compare with. ok is false if
// there is none, or if it has no octet.
func payloadOf(f []byte, link packet.LinkType, strict bool) (p []byte, inner packet.LinkType, ok bool) {
	be16 := func(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
	defer func() {
		if recover() != nil { // the frame ends before that
			p, ok = nil, false
		}
	}()
	ip := f
	if link == packet.LinkEthernet {
		n := tagsOf(f, maxTags)
		if strict {
			n = 0
		}
		switch ip = f[14+4*n:]; be16(f[12+4*n:]) {
		case 0x0800:
			ip = append([]byte{ip[0]&15 | 0x40}, ip[1:]...)
		case 0x86dd:
			ip = append([]byte{ip[0]&15 | 0x60}, ip[1:]...)
		default:
			return nil, 0, false
		}
	}
	var proto byte
	var b []byte
	switch ip[0] >> 4 {
	case 4:
		if be16(ip[6:])&0x1fff != 0 {
			return nil, 0, false
		}
		proto, b = ip[9], ip[int(ip[0]&15)*4:]
	case 6:
		proto, b = ip[6], ip[40:]
	}
	byType := func(typ uint16, p []byte) ([]byte, packet.LinkType, bool) {
		switch typ {
		case 0x6558:
			return p, packet.LinkEthernet, len(p) > 0
		case 0x0800, 0x86dd:
			return p, packet.LinkRaw, len(p) > 0
		}
		return nil, 0, false
	}
	if proto == 47 {
		if b[0]&0x40 != 0 || b[1]&7 != 0 {
			return nil, 0, false
		}
		typ, at := be16(b[2:]), 4
		for _, bit := range []byte{0x80, 0x20, 0x10} {
			if b[0]&bit != 0 {
				at += 4
			}
		}
		if typ == 0x88be {
			typ = 0x6558
			if b[0]&0x10 != 0 {
				at += 8
			}
		}
		return byType(typ, b[at:])
	}
	if proto != 17 {
		return nil, 0, false
	}
	port, b := be16(b[2:]), b[8:]
	switch port {
	case 4789, 8472:
		return b[8:], packet.LinkEthernet, b[0]&8 != 0 && len(b) > 8
	case 6081:
		if b[0]>>6 != 0 {
			return nil, 0, false
		}
		return byType(be16(b[2:]), b[8+4*int(b[0]&63):])
	case 2152:
		if b[0]>>4 != 3 || b[1] != 255 {
			return nil, 0, false
		}
		if b[0]&7 == 0 {
			return b[8:], packet.LinkRaw, len(b) > 8
		}
		next, rest := b[11], b[12:]
		for i := 0; b[0]&4 != 0 && next != 0; i++ {
			n := 4 * int(rest[0])
			if n == 0 || i == 2 {
				return nil, 0, false
			}
			next, rest = rest[n-1], rest[n:]
		}
		return rest, packet.LinkRaw, len(rest) > 0
	}
	return nil, 0, false
}

var innerCorpus = []string{
	"tcp", "udp port 53", "host 10.0.0.1", "not host 10.0.0.1", "ip6", "arp", "port 80 or port 443", "icmp or icmp6", "ip[8] = 3",
	"tcp[13] & 2 != 0", "len > 60", "less 70", "greater 40 and ip", "ip6[6] = 17", "net 10.0.0.0/8 and not tcp", "udp[4:2] > 20",
	"ip[(ip[0] & 15) << 2] = 0", "not ip", "tcp or not udp", "mpls", "pppoes and tcp", "ip proto 47", "len - 20 > ip[2:2]",
}

var innerEthernet = []string{
	"vlan", "vlan 100-200", "vlan 100 and vlan 200,300", "ether host 02:00:00:00:00:01", "broadcast", "ether multicast",
	"ether[0] & 1 = 0", "ether[12:2] = 0x800", "ether[10:4] != 0", "ether proto 0x8100", "stp", "llc u", "not vlan 1 and tcp",
}

// TestInnerIsPayload: inner(X) says of a frame what X says of the payload.
func TestInnerIsPayload(t *testing.T) {
	for _, link := range links {
		frames := genFrames(31, 12000, link.link == packet.LinkRaw)
		for _, strict := range []bool{false, true} {
			hits, tunnels := 0, 0
			for _, x := range append(append([]string{}, innerCorpus...), innerEthernet...) {
				o := Options{Link: link.link, Strict: strict}
				m := mustMatcher(t, "inner("+x+")", o)
				k, err := Compile(mustParse(t, "inner("+x+")"), Options{Link: link.link, Strict: strict, Target: Kernel})
				if err != nil {
					t.Fatalf("inner(%s): %v", x, err)
				}
				v := newVM(t, mustCompile(t, "inner("+x+")", o))
				on := map[packet.LinkType]*Matcher{packet.LinkEthernet: mustMatcher(t, x, Options{Link: packet.LinkEthernet, Strict: strict})}
				if e := mustParse(t, x); e != nil {
					on[packet.LinkRaw], _ = NewMatcher(e, Options{Link: packet.LinkRaw, Strict: strict})
				}
				for _, f := range frames {
					p, l, ok := payloadOf(f, link.link, strict)
					want := ok && on[l] != nil && on[l].Match(p, uint32(len(p)))
					if ok {
						tunnels++
					}
					if want {
						hits++
					}
					if got := m.Match(f, uint32(len(f))); got != want {
						t.Fatalf("%s, strict %v: inner(%s) on %x: %v, on the payload %x: %v", link.name, strict, x, f, got, p, want)
					}
					if v.match(f) != want {
						t.Fatalf("inner(%s) on %x: virtual machine %v", x, f, !want)
					}
					if link.link != packet.LinkEthernet || len(f) < 18 {
						continue
					}
					if got := run(t, k, skb{data: f, length: uint32(len(f))}); got != want {
						t.Fatalf("strict %v: inner(%s) on %x, kernel: %v", strict, x, f, got)
					}
					if tagsOf(f, 1) == 1 {
						if got := run(t, k, stripped(f)); got != want {
							t.Fatalf("strict %v: inner(%s) on %x, kernel, tag in the metadata: %v", strict, x, f, got)
						}
					}
				}
			}
			t.Logf("%s, strict %v: %d matches in %d tunnels", link.name, strict, hits, tunnels)
			if hits < 1000 {
				t.Errorf("%s, strict %v: only %d matches", link.name, strict, hits)
			}
		}
	}
}

// TestInnerNested: inner(inner(X)) looks into the tunnel in the tunnel, and conditions join as they should.
func TestInnerNested(t *testing.T) {
	frames := genFrames(37, 20000, false)
	o := Options{Link: packet.LinkEthernet}
	hits := 0
	for _, x := range innerCorpus {
		m, one := mustMatcher(t, "inner(inner("+x+"))", o), mustMatcher(t, "inner("+x+")", o)
		raw := mustMatcher(t, "inner("+x+")", Options{Link: packet.LinkRaw})
		both := mustMatcher(t, "udp and inner("+x+") or inner(udp and not inner("+x+"))", o)
		for _, f := range frames {
			p, l, ok := payloadOf(f, packet.LinkEthernet, false)
			want := ok && map[packet.LinkType]*Matcher{packet.LinkEthernet: one, packet.LinkRaw: raw}[l].Match(p, uint32(len(p)))
			if want {
				hits++
			}
			if got := m.Match(f, uint32(len(f))); got != want {
				t.Fatalf("inner(inner(%s)) on %x: %v, on the payload %v", x, f, got, want)
			}
			if want && both.Match(f, uint32(len(f))) && !one.Match(f, uint32(len(f))) {
				t.Fatalf("%s: joined on %x", x, f)
			}
		}
	}
	if hits < 100 {
		t.Errorf("only %d matches", hits)
	}
}

func mustParse(t testing.TB, x string) *filter.Expr {
	t.Helper()
	e, err := filter.Parse(x)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustCompile(t testing.TB, x string, o Options) []bpf.RawInstruction {
	t.Helper()
	p, err := Compile(mustParse(t, x), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGeneveTransparent: geneve moves into the tunnel, tags in it are looked through, and alternatives start outside.
func TestGeneveTransparent(t *testing.T) {
	frames := genFrames(41, 20000, false)
	o := Options{Link: packet.LinkEthernet}
	for _, c := range [][2]string{
		{"geneve and tcp", "udp dst port 6081 and inner(tcp)"},
		{"geneve and port 80", "udp dst port 6081 and inner(port 80)"},
		{"geneve and ip host 10.0.0.1 and not udp", "udp dst port 6081 and inner(ip host 10.0.0.1 and not udp)"},
		{"(geneve 1 or geneve 2) and ip6", "(geneve 1 and ip6) or (geneve 2 and ip6)"},
		{"tcp or geneve 3", "geneve 3 or tcp"},
		{"not geneve and udp", "udp and not geneve"},
	} {
		a, b := mustMatcher(t, c[0], o), mustMatcher(t, c[1], o)
		hits := 0
		for _, f := range frames {
			p, l, ok := payloadOf(f, packet.LinkEthernet, false)
			if ok && l == packet.LinkRaw && (len(p) < 1 || p[0]>>4 != 4 && p[0]>>4 != 6) {
				continue // the type in the tunnel's header counts for geneve, the version of the packet for inner
			}
			want := b.Match(f, uint32(len(f)))
			if want {
				hits++
			}
			if ok && l == packet.LinkRaw || len(f) < 60 {
				continue
			}
			if got := a.Match(f, uint32(len(f))); got != want {
				t.Errorf("%q on %x: %v, %q: %v", c[0], f, got, c[1], want)
				break
			}
		}
		if hits == 0 {
			t.Errorf("%q: no match", c[1])
		}
	}
}

func TestTunnelRefusals(t *testing.T) {
	for _, x := range []string{
		"inner(inner(inner(tcp)))", "geneve and geneve", "inner(geneve)", "geneve and inner(tcp)", "(geneve or tcp) and port 80",
		"geneve and vlan", "inner(vlan and vlan and vlan)", "inner(ether[ip[0]] = 1)",
	} {
		_, err := Compile(mustParse(t, x), Options{Link: packet.LinkEthernet})
		var se *filter.SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%q: %v, want a syntax error", x, err)
		}
	}
	for _, x := range []string{"inbound", "tcp and not outbound"} {
		_, err := Compile(mustParse(t, x), Options{Link: packet.LinkEthernet})
		var se *filter.SyntaxError
		if !errors.As(err, &se) || !errors.Is(err, ErrNoDirection) {
			t.Errorf("%q: %v, want ErrNoDirection", x, err)
		}
		if _, err := Compile(mustParse(t, x), Options{Link: packet.LinkEthernet, Target: Kernel}); err != nil {
			t.Errorf("%q: %v", x, err)
		}
	}
}
