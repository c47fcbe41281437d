package bpftap

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/pcap"
	"opentap/tap"
)

const tunnelID = 0x2a5

func remote(id string, e tap.Encap, to string, o tap.Options) tap.Source {
	return tap.Source{ID: id, Device: tap.Device{Name: "p0"}, Direction: tap.Out, Options: o, To: tap.Target{Remote: addr(to), Encap: e, TunnelID: tunnelID}}
}

var encaps = []tap.Encap{tap.VXLAN, tap.GRE, tap.ERSPAN1, tap.ERSPAN2, tap.Geneve}

// underlay gives both hosts addresses and a cable that takes long packets.
func (l *lab) underlay(mtu int) {
	for ns, dev := range map[*nettest.NS]string{l.host: "u0", l.peer: "u1"} {
		if err := ns.Netlink().LinkSetMTU(ns.Link(dev), mtu); err != nil {
			l.t.Fatal(err)
		}
	}
	address(l.t, l.host, "u0", "198.51.100.1/24")
	address(l.t, l.peer, "u1", "198.51.100.2/24")
	address(l.t, l.host, "u0", "2001:db8::1/64")
	address(l.t, l.peer, "u1", "2001:db8::2/64")
}

// odd are frames that tunnels that only know IP would not carry, beside plain ones.
func odd() [][]byte {
	lldp := []byte{1, 0x80, 0xc2, 0, 0, 14, 2, 0, 0, 0, 0, 1, 0x88, 0xcc, 2, 7, 4, 2, 0, 0, 0, 0, 1, 4, 5, 5, 'e', 't', 'h', '1', 6, 2, 0, 120, 0, 0}
	lldp = append(lldp, make([]byte, 60-len(lldp))...)
	p := nettest.Packet{Payload: []byte("payload")}
	q, qq, v6 := p, p, p
	q.Tags = []nettest.Tag{{TCI: 0x6064}}
	qq.Tags = []nettest.Tag{{TPID: nettest.EtherQinQ, TCI: 0x012c}, {TCI: 0x0065}}
	v6.Dst = addr("2001:db8::77")
	long := p
	long.Payload = bytes.Repeat([]byte("long "), 290)
	return [][]byte{
		p.Bytes(), q.Bytes(), qq.Bytes(), v6.Bytes(), lldp, long.Bytes(),
		nettest.ARP([6]byte{2, 0, 0, 0, 0, 1}, addr("192.0.2.1"), addr("192.0.2.9")), nettest.ARP([6]byte{2, 0, 0, 0, 0, 1}, addr("192.0.2.1"), addr("192.0.2.9"), nettest.Tag{TCI: 9}),
	}
}

// TestNetnsTunnels: each encapsulation over IPv4 and IPv6 carries every frame, a sink takes it out again, and tshark reads all of it.
func TestNetnsTunnels(t *testing.T) {
	l := newLab(t, "")
	l.underlay(1700)
	peer := l.second()
	n := 0
	for _, e := range encaps {
		for _, to := range []struct{ here, there string }{{"198.51.100.1", "198.51.100.2"}, {"2001:db8::1", "2001:db8::2"}} {
			t.Run(fmt.Sprintf("%s over %s", e, to.there), func(t *testing.T) {
				id := fmt.Sprint("t", n)
				n++
				peer.sink(tap.Sink{ID: id, Device: tap.Device{Name: "t0"}, Encap: e, TunnelID: tunnelID, From: listOf(to.here)})
				note := l.source(remote(id, e, to.there, tap.Options{}))
				if note != "" {
					t.Errorf("note %q", note)
				}
				tool, wire := listen(t, peer.tool, "t1"), listen(t, l.peer, "u1")
				s := nettest.NewSender(t, l.owner, "p1")
				frames := odd()
				s.Send(frames...)
				got := tool.hear(len(frames))
				if len(got) != len(frames) {
					t.Fatalf("%d frames reached the tool, want %d; source %+v, sink %+v", len(got), len(frames), l.counts(id), peer.counts(id))
				}
				for i := range got {
					if !bytes.Equal(got[i], frames[i]) {
						t.Errorf("frame %d reached the tool as\n%x, was\n%x", i, got[i], frames[i])
					}
				}
				if c := l.counts(id); c.Mirrored != uint64(len(frames)) || c.Sent != c.Mirrored || len(c.Errors) > 0 {
					t.Errorf("source: %+v", c)
				}
				if c := peer.counts(id); c.Seen != uint64(len(frames)) || c.Mirrored != c.Seen {
					t.Errorf("sink: %+v", c)
				}
				tshark(t, e, to.there, tunnelFrames(wire.hear(1000)), frames)
				l.host.Do(func() {
					if err := l.d.Delete(context.Background(), id); err != nil {
						t.Error(err)
					}
				})
				peer.host.Do(func() {
					if err := peer.d.Delete(context.Background(), id); err != nil {
						t.Error(err)
					}
				})
				s.Send(frames...)
				if n := tool.silence(); n != 0 {
					t.Errorf("%d copies after the tap was deleted", n)
				}
			})
		}
	}
}

func listOf(a ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range a {
		out = append(out, addr(s))
	}
	return out
}

// second is the other host: with a tool of its own.
func (l *lab) second() *lab {
	l.t.Helper()
	p := &lab{t: l.t, host: l.peer, tool: nettest.NewNS(l.t), root: l.root, instance: "peer"}
	nettest.Veth(l.t, p.host, "t0", p.tool, "t1")
	for ns, dev := range map[*nettest.NS]string{p.host: "t0", p.tool: "t1"} {
		if err := ns.Netlink().LinkSetMTU(ns.Link(dev), 9000); err != nil {
			l.t.Fatal(err)
		}
	}
	p.d = p.open("")
	l.t.Cleanup(func() {
		p.host.Do(func() {
			if _, err := p.d.Prune(context.Background(), func(string) bool { return false }); err != nil {
				l.t.Error(err)
			}
			if err := p.d.Close(); err != nil {
				l.t.Error(err)
			}
		})
	})
	return p
}

// tunnelFrames leaves out what the hosts say of their own (ARP, neighbour discovery).
func tunnelFrames(all [][]byte) [][]byte {
	var out [][]byte
	for _, f := range all {
		switch typ := binary.BigEndian.Uint16(f[12:]); {
		case typ == 0x0800 && (f[23] == 17 || f[23] == 47), typ == 0x86dd && (f[20] == 17 || f[20] == 47):
			out = append(out, f)
		}
	}
	return out
}

// tshark has an independent program read tunnel packets: it must find the inner frames, and nothing wrong outside.
func tshark(t *testing.T, e tap.Encap, to string, outer, inner [][]byte) {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Log("tshark is not installed: its word is missing")
		return
	}
	if len(outer) != len(inner) {
		t.Fatalf("%d tunnel packets on the wire, want %d", len(outer), len(inner))
	}
	var file bytes.Buffer
	w, err := pcap.NewClassicWriter(&file, packet.LinkEthernet, 65535, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range outer {
		if err := w.WritePacket(&pcap.Packet{Time: packet.Timestamp(i), Data: f, OrigLen: uint32(len(f))}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "wire.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", path, "-o", "ip.check_checksum:TRUE", "-T", "fields", "-E", "separator=;", "-e", "frame.protocols",
		"-e", "ip.checksum.status", "-e", "_ws.malformed", "-e", "vxlan.vni", "-e", "gre.key", "-e", "erspan.spanid", "-e", "geneve.vni", "-e", "gre.sequence_number").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(outer) {
		t.Fatalf("tshark reads %d packets of %d:\n%s", len(lines), len(outer), out)
	}
	for i, line := range lines {
		f := strings.Split(line, ";")
		name := map[tap.Encap]string{tap.VXLAN: "vxlan", tap.GRE: "gre", tap.ERSPAN1: "erspan", tap.ERSPAN2: "erspan", tap.Geneve: "geneve"}[e]
		if !strings.Contains(f[0], ":"+name+":eth") {
			t.Errorf("packet %d: tshark sees %s", i, f[0])
		}
		if strings.Contains(f[1], "0") || strings.Contains(f[1], "Bad") {
			t.Errorf("packet %d: tshark says that an IP checksum is wrong: %s", i, line)
		}
		if f[2] != "" {
			t.Errorf("packet %d is malformed: %s", i, line)
		}
		want := map[tap.Encap]string{tap.VXLAN: "677;;;;", tap.GRE: ";0x000002a5;;;", tap.ERSPAN1: fmt.Sprintf(";;677;;%d", i), tap.ERSPAN2: fmt.Sprintf(";;677;;%d", i), tap.Geneve: ";;;0x0002a5;"}[e]
		if got := strings.Join(f[3:], ";"); got != want {
			t.Errorf("packet %d: tshark reads %q, want %q", i, got, want)
		}
	}
}
