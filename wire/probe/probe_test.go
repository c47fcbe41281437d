package probe

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opentap/fault"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

var (
	here4, there4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	here6, there6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

// plans are one of each sort.
func plans() []*Plan {
	var out []*Plan
	for _, kind := range []string{want.ProbePing, want.ProbeUDP, want.ProbeTCPSYN} {
		for _, ends := range [][2]netip.Addr{{here4, there4}, {here6, there6}} {
			for _, vlan := range []uint16{0, 100} {
				p := &Plan{
					Kind: kind, SrcMAC: packet.MAC{2, 0, 0, 0, 0, 1}, DstMAC: packet.MAC{2, 0, 0, 0, 0, 2}, Src: ends[0], Dst: ends[1], VLAN: vlan, Priority: 3, TTL: 9, TOS: 0xb8,
					DontFragment: true, Token: 0xfffffff0, Payload: Payload(33, []byte{0xaa, 0x55, 1}),
				}
				if kind != want.ProbePing {
					p.Port, p.Ports = 7777, []uint16{40000, 40001, 40002}
				}
				out = append(out, p)
			}
		}
	}
	return out
}

// Our own decoder reads of each frame what it was made of.
func TestFrames(t *testing.T) {
	for _, p := range plans() {
		for n := range 3 {
			f := p.Frame(nil, n)
			var in packet.Parsed
			in.Decode(packet.LinkEthernet, f, uint32(len(f)))
			if in.Defect != 0 || in.SrcAddr() != p.Src || in.DstAddr() != p.Dst || in.TTL != 9 || in.TOS != 0xb8 || in.SrcMAC != p.SrcMAC || in.DstMAC != p.DstMAC || len(f) < minFrame {
				t.Errorf("%s: %+v", p.Kind, in)
			}
			if got := in.Layers&packet.LayerVLAN != 0; got != (p.VLAN != 0) || got && in.VLANs[0] != 3<<13|100 {
				t.Errorf("%s: tag %v %x", p.Kind, got, in.VLANs[0])
			}
			if p.Kind != want.ProbePing && (in.SrcPort != p.Ports[n] || in.DstPort != 7777) {
				t.Errorf("%s: ports %d, %d", p.Kind, in.SrcPort, in.DstPort)
			}
			all, link := p.Overhead()
			carried := len(p.Payload)
			if p.Kind == want.ProbeTCPSYN {
				carried = 0
			}
			if int(in.IPOctets) != all-link+carried || int(in.L3Offset) != link {
				t.Errorf("%s: %d octets at %d; overhead %d, %d", p.Kind, in.IPOctets, in.L3Offset, all, link)
			}
		}
	}
}

// tshark finds all checksums right, and nothing to complain of.
func TestFramesAsTsharkSeesThem(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("needs tshark")
	}
	var frames [][]byte
	for _, p := range plans() {
		frames = append(frames, p.Frame(nil, 0), p.Frame(nil, 2))
		if p.Kind == want.ProbeTCPSYN {
			frames = append(frames, p.Reset(nil, 1))
		}
	}
	for _, vlan := range []uint16{0, 5} {
		frames = append(frames, Solicit(nil, packet.MAC{2, 0, 0, 0, 0, 1}, here4, there4, vlan, 0), Solicit(nil, packet.MAC{2, 0, 0, 0, 0, 1}, here6, there6, vlan, 0))
	}
	var b []byte
	b = append(b, pcap.AppendSectionHeader(nil, pcap.Section{})...)
	b = pcap.AppendInterface(b, pcap.Interface{Name: "probe", Link: packet.LinkEthernet})
	for i, f := range frames {
		b = pcap.AppendPacket(b, 0, packet.Timestamp(i+1)*1e9, uint32(len(f)), f, pcap.DirectionOut)
	}
	file := filepath.Join(t.TempDir(), "probe.pcapng")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-r", file, "-T", "fields"}
	for _, o := range []string{"ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"} {
		args = append(args, "-o", o+":TRUE")
	}
	fields := []string{
		"ip.checksum.status", "udp.checksum.status", "tcp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status", "_ws.malformed", "_ws.expert.severity",
		"arp.dst.proto_ipv4", "icmpv6.nd.ns.target_address",
	}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	out, err := exec.Command(tshark, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) != len(frames) {
		t.Fatalf("%d lines for %d frames", len(lines), len(frames))
	}
	good, asked := 0, 0
	for i, line := range lines {
		v := strings.Split(line, "\t")
		for k, status := range v[:5] {
			if status != "" && status != "1" {
				t.Errorf("frame %d: %s is %s", i+1, fields[k], status)
			}
			if k > 0 && status == "1" {
				good++
			}
		}
		if v[5] != "" || strings.Contains(v[6], "8388608") { // an error
			t.Errorf("frame %d: %q", i+1, line)
		}
		if v[7] == there4.String() || v[8] == there6.String() {
			asked++
		}
	}
	if good != len(frames)-2 || asked != 4 { // ARP alone has no checksum
		t.Errorf("%d of %d frames have a transport checksum, %d ask", good, len(frames), asked)
	}
}

// turned is a frame as the target would send it back.
func turned(p *Plan, n int, change func(*Plan)) []byte {
	q := *p
	q.Src, q.Dst, q.SrcMAC, q.DstMAC = p.Dst, p.Src, p.DstMAC, p.SrcMAC
	if change != nil {
		change(&q)
	}
	return q.Frame(nil, n)
}

func read(p *Plan, f []byte, frames int) (Answer, bool) {
	var in packet.Parsed
	in.Decode(packet.LinkEthernet, f, uint32(len(f)))
	return p.Read(f, &in, frames)
}

func TestRead(t *testing.T) {
	for _, p := range plans() {
		l3 := 14
		if p.VLAN != 0 {
			l3 = 18
		}
		l4 := l3 + 20
		if p.Src.Is6() {
			l4 = l3 + 40
		}
		for n := range 3 {
			f := turned(p, n, nil)
			outcome := want.ProbeReply
			switch p.Kind {
			case want.ProbePing:
				f[l4] = echoReply
				if p.Src.Is6() {
					f[l4] = echoReply6
				}
			case want.ProbeUDP:
				be.PutUint16(f[l4:], 7777)
				be.PutUint16(f[l4+2:], p.Ports[n])
			default:
				be.PutUint16(f[l4:], 7777)
				be.PutUint16(f[l4+2:], p.Ports[n])
				be.PutUint32(f[l4+8:], p.first(n)+1)
				f[l4+13] = flagSYN | flagACK
				outcome = want.ProbeOpen
			}
			a, ok := read(p, f, 3)
			if !ok || a.Number != n || a.Outcome != outcome || a.From != p.Dst || a.Damaged {
				t.Errorf("%s %d: %+v, %v", p.Kind, n, a, ok)
			}
			if _, ok := read(p, f, n); ok {
				t.Errorf("%s: frame %d was not sent yet", p.Kind, n)
			}
			if p.Kind == want.ProbeTCPSYN {
				f[l4+13] = flagRST | flagACK
				if a, ok := read(p, f, 3); !ok || a.Outcome != want.ProbeClosed {
					t.Errorf("%+v, %v", a, ok)
				}
				be.PutUint32(f[l4+8:], p.first(n)) // of another connection
				if a, ok := read(p, f, 3); ok {
					t.Errorf("%+v", a)
				}
			}
			other := *p
			other.VLAN ^= 1
			if _, ok := read(&other, f, 3); ok {
				t.Errorf("%s: another tag's", p.Kind)
			}
		}
		if _, ok := read(p, p.Frame(nil, 0), 3); ok {
			t.Errorf("%s: our own frame answers itself", p.Kind)
		}
	}
}

// icmpError is what a router says of a frame: its IP packet, cut.
func icmpError(p *Plan, frame []byte, typ, code byte, word uint32) []byte {
	at := 14
	if p.VLAN != 0 {
		at = 18
	}
	inner := frame[at:]
	inner = inner[:min(len(inner), 64)]
	r := Plan{Kind: want.ProbePing, SrcMAC: p.DstMAC, DstMAC: p.SrcMAC, Src: p.Dst, Dst: p.Src, VLAN: p.VLAN, TTL: 60}
	return r.icmp(nil, 0, typ, code, uint16(word>>16), uint16(word), inner)
}

func TestReadErrors(t *testing.T) {
	for _, p := range plans() {
		for _, x := range []struct {
			four, six [2]byte
			word      uint32
			outcome   string
			says      string
		}{
			{[2]byte{3, 3}, [2]byte{1, 4}, 0, want.ProbeUnreachable, "port unreachable"},
			{[2]byte{3, 13}, [2]byte{1, 1}, 0, want.ProbeUnreachable, "administratively prohibited"},
			{[2]byte{3, 99}, [2]byte{1, 99}, 0, want.ProbeUnreachable, "code 99"},
			{[2]byte{11, 0}, [2]byte{3, 0}, 0, want.ProbeExpired, "exceeded on the way"},
			{[2]byte{3, 4}, [2]byte{2, 0}, 1280, want.ProbeTooBig, "too big"},
			{[2]byte{12, 0}, [2]byte{4, 0}, 0, want.ProbeProblem, "header is wrong"},
			{[2]byte{5, 0}, [2]byte{137, 0}, 0, "", ""}, // a redirection is no answer
		} {
			tc := x.four
			if p.Src.Is6() {
				tc = x.six
			}
			for n := range 3 {
				a, ok := read(p, icmpError(p, p.Frame(nil, n), tc[0], tc[1], x.word), 3)
				if ok != (x.outcome != "") {
					t.Errorf("%s %v: %v %+v", p.Kind, tc, ok, a)
				} else if ok && (a.Outcome != x.outcome || !strings.Contains(a.Text, x.says) || a.Number != n || a.MTU != int(x.word)) {
					t.Errorf("%s %v: %+v", p.Kind, tc, a)
				}
			}
			stranger := *p
			stranger.Token, stranger.Ports, stranger.Port = 7, []uint16{9}, 7778
			if a, ok := read(p, icmpError(p, stranger.Frame(nil, 0), tc[0], tc[1], x.word), 3); ok {
				t.Errorf("%s: an error about somebody else's packet: %+v", p.Kind, a)
			}
		}
	}
}

func TestSolicit(t *testing.T) {
	me, he := packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}
	var in packet.Parsed
	arp := Solicit(nil, me, here4, there4, 0, 0)
	in.Decode(packet.LinkEthernet, arp, uint32(len(arp)))
	if _, ok := Solicited(arp, &in, there4); ok {
		t.Error("a question is no answer")
	}
	arp[21] = 2
	copy(arp[22:], he[:])
	copy(arp[28:], there4.AsSlice())
	in.Decode(packet.LinkEthernet, arp, uint32(len(arp)))
	if mac, ok := Solicited(arp, &in, there4); !ok || mac != he {
		t.Error(mac, ok)
	}
	if _, ok := Solicited(arp, &in, here4); ok {
		t.Error("somebody else's")
	}
	p := Plan{SrcMAC: he, DstMAC: me, Src: there6, Dst: here6, TTL: 255}
	target := there6.As16()
	na := p.icmp(nil, 0, advertisement, 0, 0x6000, 0, append(append(target[:], 2, 1), he[:]...))
	in.Decode(packet.LinkEthernet, na, uint32(len(na)))
	if mac, ok := Solicited(na, &in, there6); !ok || mac != he {
		t.Error(mac, ok)
	}
	p.TTL = 254 // from beyond a router, RFC 4861 section 7.1.2
	na = p.icmp(nil, 0, advertisement, 0, 0x6000, 0, append(append(target[:], 2, 1), he[:]...))
	in.Decode(packet.LinkEthernet, na, uint32(len(na)))
	if _, ok := Solicited(na, &in, there6); ok {
		t.Error("it came from afar")
	}
}

func TestFill(t *testing.T) {
	p := want.Probe{Kind: want.ProbePing, Target: netip.MustParseAddr("::ffff:192.0.2.2")}
	if err := Fill(&p); err != nil || p.Count != 5 || *p.Size != 56 || p.TTL != 64 || !p.Target.Is4() {
		t.Errorf("%v, %+v", err, p)
	}
	again := p
	if err := Fill(&again); err != nil || again.Count != p.Count || again.Interval != p.Interval {
		t.Errorf("filling twice: %v, %+v", err, again)
	}
	if mac, err := ParseMAC("02-AB-cd-00-01-fF"); err != nil || mac != (packet.MAC{2, 0xab, 0xcd, 0, 1, 0xff}) {
		t.Error(mac, err)
	}
	for _, s := range []string{"", "02:ab", "02:ab:cd:00:01:fg", "02.ab.cd.00.01.ff", "02:ab:cd:00:01:ff:00"} {
		if _, err := ParseMAC(s); !fault.Is(err, fault.Invalid) {
			t.Error(s, err)
		}
	}
	if b := Payload(5, []byte{1, 2}); !bytes.Equal(b, []byte{1, 2, 1, 2, 1}) {
		t.Error(b)
	}
}

// FuzzRead: whatever comes, nothing panics, and what is taken for an answer is one to a frame that was sent.
func FuzzRead(f *testing.F) {
	all := plans()
	for i, p := range all {
		f.Add(byte(i), p.Frame(nil, 1))
		f.Add(byte(i), icmpError(p, p.Frame(nil, 1), 3, 3, 0))
	}
	f.Fuzz(func(t *testing.T, which byte, frame []byte) {
		p := all[int(which)%len(all)]
		var in packet.Parsed
		in.Decode(packet.LinkEthernet, frame, uint32(len(frame)))
		a, ok := p.Read(frame, &in, 2)
		if ok && (a.Number < unknown || a.Number >= 2 || a.Outcome == "" || !a.From.IsValid()) {
			t.Errorf("%+v", a)
		}
		Solicited(frame, &in, p.Dst)
	})
}
