//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"opentap/internal/nettest"
)

// lab is a sender's namespace, an observer's namespace, and a cable between them.
type lab struct {
	far, near *nettest.NS
	*nettest.Sender
}

// newLab lays the cable wire0 (far) — tap0 (near).
func newLab(t testing.TB) *lab {
	t.Helper()
	needRoot(t)
	l := &lab{far: nettest.NewNS(t), near: nettest.NewNS(t)}
	nettest.Veth(t, l.far, "wire0", l.near, "tap0")
	l.Sender = nettest.NewSender(t, l.far, "wire0")
	return l
}

// numbered is a payload that no other frame has.
func numbered(i, size int) []byte {
	b := make([]byte, max(size, 8))
	binary.BigEndian.PutUint64(b, uint64(i)+0x6f70656e00000000)
	return b
}

// plain makes n UDP frames to port; from numbers them.
func plain(from, n int, port uint16) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = nettest.Packet{SrcPort: 4000, DstPort: port, Payload: numbered(from+i, 100)}.Bytes()
	}
	return out
}

// zoo makes n frames of everything that travels: tags, IPv6, fragments, ARP, shortest and longest frames.
func zoo(n int) [][]byte {
	var out [][]byte
	v6 := netip.MustParseAddr("2001:db8::2")
	for i := 0; len(out) < n; i++ {
		switch i % 10 {
		case 0:
			out = append(out, nettest.Packet{DstPort: 53, SrcPort: uint16(i), Payload: numbered(i, 40)}.Bytes())
		case 1:
			out = append(out, nettest.Packet{Proto: nettest.TCP, TCPFlags: 0x18, DstPort: 443, SrcPort: 1024, Seq: uint32(i), Payload: numbered(i, 1460)}.Bytes())
		case 2:
			out = append(out, nettest.Packet{Tags: []nettest.Tag{{TCI: 100}}, DstPort: 53, Payload: numbered(i, 60)}.Bytes())
		case 3:
			out = append(out, nettest.Packet{Tags: []nettest.Tag{{TPID: nettest.EtherQinQ, TCI: 5<<13 | 200}, {TCI: 1<<12 | 300}}, DstPort: 80, Payload: numbered(i, 300)}.Bytes())
		case 4:
			out = append(out, nettest.Packet{Dst: v6, DstPort: 53, Payload: numbered(i, 90)}.Bytes())
		case 5:
			out = append(out, nettest.Packet{Dst: v6, Proto: nettest.TCP, TCPFlags: 2, DstPort: 22, Seq: uint32(i), Tags: []nettest.Tag{{TCI: 0}}, Payload: numbered(i, 8)}.Bytes())
		case 6:
			out = append(out, nettest.Packet{ID: uint32(i), DstPort: 53, Payload: numbered(i, 1200)}.Fragments(600)...)
		case 7:
			out = append(out, nettest.Packet{Proto: nettest.ICMP, ICMPType: 8, ID: 7, Seq: uint32(i), Payload: numbered(i, 56)}.Bytes())
		case 8:
			out = append(out, nettest.ARP([6]byte{2, 0, 0, 0, 0, 1}, netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
		case 9:
			out = append(out, nettest.Packet{Tags: []nettest.Tag{{TCI: 100}, {TCI: 200}}, Proto: nettest.TCP, DstPort: 25, Seq: uint32(i), Payload: numbered(i, 0)}.Bytes())
		}
	}
	return out[:n]
}

// stored is a packet as a file has it.
type stored struct {
	ns      int64
	origLen int
	data    []byte
}

// classicPackets reads a classic pcap file; ours shares no code with the product.
func classicPackets(t testing.TB, b []byte) []stored {
	t.Helper()
	if len(b) < 24 {
		t.Fatalf("%d octets are no pcap file", len(b))
	}
	var order binary.ByteOrder = binary.LittleEndian
	unit := int64(1000)
	switch magic := binary.LittleEndian.Uint32(b); magic {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		unit = 1
	default:
		order = binary.BigEndian
		switch magic := binary.BigEndian.Uint32(b); magic {
		case 0xa1b2c3d4:
		case 0xa1b23c4d:
			unit = 1
		default:
			t.Fatalf("magic %#x is not pcap's", magic)
		}
	}
	var out []stored
	for b = b[24:]; len(b) > 0; {
		if len(b) < 16 || len(b) < 16+int(order.Uint32(b[8:])) {
			t.Fatalf("the file ends inside packet %d", len(out)+1)
		}
		n := int(order.Uint32(b[8:]))
		out = append(out, stored{int64(order.Uint32(b))*1e9 + int64(order.Uint32(b[4:]))*unit, int(order.Uint32(b[12:])), b[16 : 16+n]})
		b = b[16+n:]
	}
	return out
}

// packetsOf reads any capture file by way of editcap, nanoseconds kept.
func packetsOf(t testing.TB, path string) []stored {
	t.Helper()
	needTool(t, "editcap")
	plain := filepath.Join(t.TempDir(), "nsec.pcap")
	output(t, "editcap", "-F", "nsecpcap", path, plain)
	b, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	return classicPackets(t, b)
}

// packetsIn is packetsOf of a body.
func packetsIn(t testing.TB, body []byte) []stored {
	t.Helper()
	path := filepath.Join(t.TempDir(), "body.pcapng")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return packetsOf(t, path)
}

// capinfosCount is how many packets capinfos finds.
func capinfosCount(t testing.TB, path string) uint64 {
	t.Helper()
	needTool(t, "capinfos")
	out := output(t, "capinfos", "-c", "-M", "-T", "-r", path)
	f := strings.Split(strings.TrimSpace(out), "\t")
	n, err := strconv.ParseUint(f[len(f)-1], 10, 64)
	if err != nil {
		t.Fatalf("capinfos said %q", out)
	}
	return n
}

// sameFrames compares the frames in their order, cut to snap octets (0 = whole).
func sameFrames(t testing.TB, got []stored, sent [][]byte, snap int) {
	t.Helper()
	if len(got) != len(sent) {
		t.Errorf("the file holds %d packets, %d were sent", len(got), len(sent))
		return
	}
	for i, p := range got {
		w := sent[i]
		if p.origLen != len(w) {
			t.Errorf("packet %d: %d octets on the wire, sent %d", i+1, p.origLen, len(w))
			return
		}
		if snap > 0 && len(w) > snap {
			w = w[:snap]
		}
		if sha256.Sum256(p.data) != sha256.Sum256(w) {
			t.Errorf("packet %d differs:\n got %x\nsent %x", i+1, p.data, w)
			return
		}
	}
}

// inOrder checks the timestamps against the clock, and that they have nanoseconds.
func inOrder(t testing.TB, got []stored, from, to int64) {
	t.Helper()
	fine := false
	for i, p := range got {
		if i > 0 && p.ns < got[i-1].ns {
			t.Errorf("packet %d is older than the one before it", i+1)
		}
		if p.ns < from || p.ns > to {
			t.Errorf("packet %d has the time %d, which is not from %d to %d", i+1, p.ns, from, to)
		}
		fine = fine || p.ns%1000 != 0
	}
	if len(got) > 10 && !fine {
		t.Error("no timestamp has nanoseconds")
	}
}

// subset checks that every frame found was sent, in order and at most once.
func subset(t testing.TB, got []stored, sent [][]byte) {
	t.Helper()
	i := 0
	for n, p := range got {
		for i < len(sent) && !bytes.Equal(p.data, sent[i]) {
			i++
		}
		if i == len(sent) {
			t.Errorf("packet %d was not sent after the one before it", n+1)
			return
		}
		i++
	}
}

// again lays the cable once more, after it was taken away.
func (l *lab) again(t testing.TB) {
	t.Helper()
	nettest.Veth(t, l.far, "wire0", l.near, "tap0")
	l.Sender = nettest.NewSender(t, l.far, "wire0")
}
