package bpftap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/tap"
)

// TestNetnsFramesOfAnyLength: frames of each length from the shortest on that the kernel sends, and with more tags than anybody has, go through
// a tunnel and out of it as they are; those that are shorter than a packet with a network header are padded, as Ethernet does.
func TestNetnsFramesOfAnyLength(t *testing.T) {
	const padded = 34 // octets
	l := newLab(t, "")
	l.underlay(1700)
	peer := l.second()
	peer.sink(tap.Sink{ID: "a", Device: tap.Device{Name: "t0"}, Encap: tap.VXLAN, TunnelID: tunnelID, From: listOf("198.51.100.1")})
	l.source(remote("a", tap.VXLAN, "198.51.100.2", tap.Options{}))
	var frames [][]byte
	for n := 15; n <= 81; n++ {
		f := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb6}, bytes.Repeat([]byte{byte(n)}, n-14)...)
		frames = append(frames, f)
	}
	for n := range 6 {
		p := nettest.Packet{Payload: []byte(fmt.Sprint(n, " tags"))}
		for i := range n {
			p.Tags = append(p.Tags, nettest.Tag{TCI: uint16(100 + i)})
		}
		f := p.Bytes()
		if frames = append(frames, f); n > 1 {
			frames = append(frames, f[:14+4*n]) // it ends behind the tags; with one tag the kernel drops it (skb_vlan_untag, net/core/skbuff.c)
		}
	}
	e := listen(t, peer.tool, "t1")
	nettest.NewSender(t, l.owner, "p1").Send(frames...)
	got := e.hear(len(frames))
	if len(got) != len(frames) {
		t.Fatalf("%d of %d frames reached the tool; source %+v, sink %+v", len(got), len(frames), l.counts("a"), peer.counts("a"))
	}
	for i, f := range frames {
		want := append(bytes.Clone(f), make([]byte, max(0, padded-len(f)))...)
		if !bytes.Equal(got[i], want) {
			t.Errorf("frame %d of %d octets came as\n%x, was\n%x", i, len(f), got[i], f)
		}
	}
	if c := l.counts("a"); c.Mirrored != uint64(len(frames)) {
		t.Errorf("source: %+v", c)
	}
}

// TestNetnsSuperDatagrams: what a program gives to the kernel as one datagram to be cut into many (UDP_SEGMENT) comes as these many, each with its own lengths and
// checksum, where copies are made for the wire.
func TestNetnsSuperDatagrams(t *testing.T) {
	const each, count, last = 500, 11, 123
	l := newLab(t, "")
	l.addresses()
	l.source(local("a", tap.Out, tap.Options{Filter: "udp dst port 4711", Snap: 9000}))
	e := listen(t, l.tool, "t1")
	var err error
	l.owner.Do(func() {
		var c *net.UDPConn
		if c, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4711}); err != nil {
			return
		}
		defer c.Close()
		raw, e := c.SyscallConn()
		if e == nil {
			e = errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, each) }))
		}
		if err = errors.Join(e, err); err == nil {
			_, err = c.Write(bytes.Repeat([]byte("super"), (each*(count-1)+last+4)/5)[:each*(count-1)+last])
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got := e.hear(count)
	if len(got) != count {
		t.Fatalf("%d frames, want %d; %+v", len(got), count, l.counts("a"))
	}
	for i, f := range got {
		octets := each
		if i == count-1 {
			octets = last
		}
		if len(f) != 14+20+8+octets || int(binary.BigEndian.Uint16(f[16:])) != 20+8+octets || int(binary.BigEndian.Uint16(f[38:])) != 8+octets {
			t.Errorf("frame %d has %d octets: %x", i, len(f), f[:42])
			continue
		}
		if sum := datagramSum(f[14:]); sum != 0xffff {
			t.Errorf("frame %d: the checksum over the datagram comes to %#x", i, sum)
		}
	}
	if c := l.counts("a"); c.Mirrored != 1 || c.Sent != count {
		t.Errorf("counts: %+v", c)
	}
}

// datagramSum is the sum over the pseudo header and the datagram of an IPv4 packet without options: 0xffff if its checksum is right (RFC 768).
func datagramSum(ip []byte) uint32 {
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(ip)-20)
	b := ip[12:]
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}
