package bpftap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// addresses gives the port an address at both ends, so that hosts can talk over it.
func (l *lab) addresses() {
	address(l.t, l.host, "p0", "10.0.0.1/24")
	address(l.t, l.owner, "p1", "10.0.0.2/24")
}

// transfer sends n octets over TCP from one namespace to an address in the other, and fails unless they arrive as they were.
func transfer(t *testing.T, from, to *nettest.NS, addr string, n int) {
	t.Helper()
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // never fails
	var ln net.Listener
	var err error
	to.Do(func() { ln, err = net.Listen("tcp", addr+":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		var c net.Conn
		var err error
		from.Do(func() { c, err = net.DialTimeout("tcp", ln.Addr().String(), 5*time.Second) })
		if err != nil {
			t.Errorf("dial: %v", err)
			ln.Close()
			return
		}
		defer c.Close()
		if _, err := c.Write(data); err != nil {
			t.Errorf("send: %v", err)
		}
	})
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := sha256.New()
	got, err := io.Copy(h, c)
	if err != nil {
		t.Errorf("receive: %v", err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d octets arrived of %d, or not as they were", got, n)
	}
}

// stream is what is heard of one direction of a TCP connection.
type stream struct {
	frames, longest int
	covered         map[uint32]int // sequence number, relative → octets of payload
	short           int            // frames that are shorter than their IP length says
	first           uint32
	started         bool
}

// add takes a frame that was sent from port src-side address from.
func (s *stream) add(f []byte, from [4]byte) {
	if len(f) < 54 || binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[23] != 6 || [4]byte(f[26:30]) != from {
		return
	}
	s.frames++
	s.longest = max(s.longest, len(f))
	ihl := int(f[14]&15) * 4
	total := int(binary.BigEndian.Uint16(f[16:]))
	if 14+total > len(f) {
		s.short++
	}
	tcp := f[14+ihl:]
	seq, off := binary.BigEndian.Uint32(tcp[4:]), int(tcp[12]>>4)*4
	if tcp[13]&2 != 0 { // SYN
		s.first, s.started = seq+1, true
		return
	}
	if n := total - ihl - off; n > 0 && s.started {
		s.covered[seq-s.first] = max(s.covered[seq-s.first], n)
	}
}

// octets is how much was heard from the beginning on without a hole.
func (s *stream) octets() int {
	at := uint32(0)
	for n := s.covered[0]; n > 0; n = s.covered[at] {
		at += uint32(n)
	}
	return int(at)
}

// follow hears what comes in until nothing does for a moment after end is closed.
func (e *ear) follow(end <-chan struct{}, from [4]byte) *stream {
	s := &stream{covered: make(map[uint32]int)}
	buf := make([]byte, 1<<17)
	for {
		n, _, err := unix.Recvfrom(e.fd, buf, 0)
		if err == nil {
			s.add(buf[:n], from)
			continue
		}
		select {
		case <-end:
			return s
		default:
		}
	}
}

// followed runs a transfer while an ear follows.
func followed(e *ear, from [4]byte, do func()) *stream {
	end, out := make(chan struct{}), make(chan *stream, 1)
	go func() { out <- e.follow(end, from) }()
	do()
	close(end)
	return <-out
}

const transferred = 6 << 20

// TestNetnsSuperPacketsAreSegmented: of a transfer in super-packets the tool at the other end of a tunnel gets every octet in
// frames that a wire carries (pitfall 1), cut after segmentation if cut (pitfall 3), and the transfer is what it is without taps.
func TestNetnsSuperPacketsAreSegmented(t *testing.T) {
	l := newLab(t, "")
	l.underlay(1700)
	l.addresses()
	peer := l.second()
	transfer(t, l.host, l.owner, "10.0.0.2", transferred) // without taps
	from := [4]byte{10, 0, 0, 1}
	for _, e := range []tap.Encap{tap.VXLAN, tap.GRE, tap.ERSPAN2, tap.Geneve} {
		for _, snap := range []uint32{0, 128, 34} {
			t.Run(fmt.Sprintf("%s snap %d", e, snap), func(t *testing.T) {
				s := remote("a", e, "198.51.100.2", tap.Options{Snap: snap, Filter: "tcp"})
				s.Direction = tap.In
				l.source(s)
				peer.sink(tap.Sink{ID: "a", Device: tap.Device{Name: "t0"}, Encap: e, TunnelID: tunnelID, From: listOf("198.51.100.1")})
				before := l.counts("a")
				ear := listen(t, peer.tool, "t1")
				got := followed(ear, from, func() { transfer(t, l.host, l.owner, "10.0.0.2", transferred) })
				c := l.counts("a")
				mirrored, sent := c.Mirrored-before.Mirrored, c.Sent-before.Sent
				t.Logf("%d packets, %d sent, %d heard, longest %d", mirrored, sent, got.frames, got.longest)
				if len(c.Errors) != 0 || c.TooLong != 0 || sent <= mirrored {
					t.Errorf("counts %+v: segments were expected", c)
				}
				if snap == 34 { // no TCP header is left to follow
					return
				}
				if got.octets() < transferred {
					t.Errorf("the tool heard %d octets of %d", got.octets(), transferred)
				}
				if want := 1514; snap == 0 && (got.longest != want || got.short != 0) {
					t.Errorf("longest frame %d octets, %d cut", got.longest, got.short)
				}
				if snap == 128 && (got.longest != 128 || c.Truncated == 0) {
					t.Errorf("longest frame %d octets, want 128; %+v", got.longest, c)
				}
			})
		}
	}
}

// TestNetnsMTU: what does not fit into the path is cut to it, or dropped, counted and announced (pitfall 2).
func TestNetnsMTU(t *testing.T) {
	for _, to := range []struct{ here, there string }{{"198.51.100.1", "198.51.100.2"}, {"2001:db8::1", "2001:db8::2"}} {
		l := newLab(t, "")
		l.underlay(1500)
		l.addresses()
		peer := l.second()
		peer.sink(tap.Sink{ID: "a", Device: tap.Device{Name: "t0"}, Encap: tap.VXLAN, TunnelID: tunnelID, From: listOf(to.here)})
		overhead := map[bool]int{true: 50, false: 70}[addr(to.there).Is4()]
		for _, policy := range []tap.OnMTU{"", tap.Drop} {
			s := remote("a", tap.VXLAN, to.there, tap.Options{OnMTU: policy, Filter: "tcp"})
			s.Direction = tap.In
			what := map[tap.OnMTU]string{"": "cut", tap.Drop: "dropped"}[policy]
			want := fmt.Sprintf("MTU short by %d: the path to %s carries packets of %d octets, longer ones are %s", overhead, to.there, 1500-overhead, what)
			if note := l.source(s); note != want {
				t.Errorf("note %q, want %q", note, want)
			}
			before := l.counts("a")
			got := followed(listen(t, peer.tool, "t1"), [4]byte{10, 0, 0, 1}, func() { transfer(t, l.host, l.owner, "10.0.0.2", transferred) })
			c := l.counts("a")
			if policy == "" {
				if got.octets() < transferred || got.longest != 1514-overhead || c.Truncated == before.Truncated || c.TooLong != 0 || len(c.Errors) > 0 {
					t.Errorf("cut: heard %d octets in frames up to %d; %+v", got.octets(), got.longest, c)
				}
			} else if c.TooLong == 0 || len(c.Errors) > 0 || c.Truncated != before.Truncated {
				t.Errorf("dropped: %+v", c)
			}
		}
	}
}

// TestNetnsLocalMTU: a tool's device that is narrower than the source's gets what fits.
func TestNetnsLocalMTU(t *testing.T) {
	l := newLab(t, "")
	for _, end := range []struct {
		ns  *nettest.NS
		dev string
	}{{l.host, "t0"}, {l.tool, "t1"}} {
		if err := end.ns.Netlink().LinkSetMTU(end.ns.Link(end.dev), 600); err != nil {
			t.Fatal(err)
		}
	}
	if note := l.source(local("a", tap.Out, tap.Options{})); note != "MTU short by 900: t0 carries packets of 600 octets, longer ones are cut" {
		t.Errorf("note %q", note)
	}
	e := listen(t, l.tool, "t1")
	s := nettest.NewSender(t, l.owner, "p1")
	long := nettest.Packet{Payload: make([]byte, 1000), Tags: []nettest.Tag{{TCI: 5}}}.Bytes()
	s.Send(long, nettest.Packet{}.Bytes())
	got := e.hear(2)
	if len(got) != 2 || !bytes.Equal(got[0], long[:614]) || len(got[1]) != 60 {
		t.Errorf("heard %d frames: %x", len(got), got)
	}
	l.source(local("a", tap.Out, tap.Options{OnMTU: tap.Drop}))
	s.Send(long, nettest.Packet{}.Bytes())
	if got := e.hear(1); len(got) != 1 || len(got[0]) != 60 || e.silence() != 0 {
		t.Errorf("heard %x", got)
	}
	if c := l.counts("a"); c.Mirrored != 3 || c.TooLong != 1 || c.Truncated != 1 {
		t.Errorf("counts %+v", c)
	}
}

// TestNetnsTransfersAreUntouched: a transfer arrives as it was sent, whatever taps there are, and the port drops nothing.
func TestNetnsTransfersAreUntouched(t *testing.T) {
	l := newLab(t, "")
	l.underlay(1700)
	l.addresses()
	dropped := func() uint64 {
		s := l.host.Link("p0").Attrs().Statistics
		o := l.owner.Link("p1").Attrs().Statistics
		return s.RxDropped + s.TxDropped + o.RxDropped + o.TxDropped
	}
	before := dropped()
	for n, s := range []tap.Source{
		local("local", tap.Both, tap.Options{}), local("cut", tap.Both, tap.Options{Snap: 96}), local("filter", tap.Both, tap.Options{Filter: "tcp port 80"}),
		remote("vxlan", tap.VXLAN, "198.51.100.2", tap.Options{}), remote("gre", tap.GRE, "198.51.100.2", tap.Options{RateBPS: 1e6}),
		remote("erspan", tap.ERSPAN2, "2001:db8::2", tap.Options{SampleN: 3}), remote("geneve", tap.Geneve, "2001:db8::2", tap.Options{}),
	} {
		l.source(s)
		transfer(t, l.host, l.owner, "10.0.0.2", transferred)
		transfer(t, l.owner, l.host, "10.0.0.1", transferred)
		if t.Failed() {
			t.Fatalf("with %d taps", n+1)
		}
	}
	if n := dropped() - before; n != 0 {
		t.Errorf("the port dropped %d packets", n)
	}
	for _, id := range []string{"local", "cut", "filter", "vxlan", "gre", "erspan", "geneve"} {
		if c := l.counts(id); c.Seen == 0 || id == "filter" && c.Mirrored > 0 {
			t.Errorf("%s: %+v", id, c)
		}
	}
}

// TestNetnsLoops: taps that send to each other's devices, and a tap of the underlay into itself, copy each packet once (pitfall 6).
func TestNetnsLoops(t *testing.T) {
	t.Run("each to the other", func(t *testing.T) {
		l := newLab(t, "")
		a := tap.Source{ID: "a", Device: tap.Device{Name: "p0"}, Direction: tap.Both, To: tap.Target{Device: tap.Device{Name: "t0"}}}
		b := tap.Source{ID: "b", Device: tap.Device{Name: "t0"}, Direction: tap.Both, To: tap.Target{Device: tap.Device{Name: "p0"}}}
		l.source(a)
		l.source(b)
		s := nettest.NewSender(t, l.owner, "p1")
		for range 1000 {
			s.Send(nettest.Packet{}.Bytes())
		}
		if a, b := l.counts("a"), l.counts("b"); a.Mirrored != 1000 || b.Seen != 0 {
			t.Errorf("a %+v, b %+v", a, b)
		}
	})
	t.Run("underlay into itself", func(t *testing.T) {
		l := newLab(t, "")
		l.underlay(1700)
		l.addresses()
		l.source(tap.Source{ID: "u", Device: tap.Device{Name: "u0"}, Direction: tap.Both, To: tap.Target{Remote: addr("198.51.100.2"), Encap: tap.VXLAN, TunnelID: tunnelID}})
		s := remote("p", tap.GRE, "198.51.100.2", tap.Options{})
		l.source(s)
		send := nettest.NewSender(t, l.owner, "p1")
		for range 1000 {
			send.Send(nettest.Packet{}.Bytes())
		}
		await.Until(t, "1000 copies sent", func() bool { return l.counts("p").Sent == 1000 })
		// Ours are not seen; the hosts' own, such as ARP, are few.
		if c := l.counts("u"); c.Seen > 20 {
			t.Errorf("the underlay's tap saw %+v", c)
		}
	})
	t.Run("somebody takes the mark off", func(t *testing.T) {
		l := newLab(t, "")
		l.underlay(1700)
		l.source(tap.Source{ID: "u", Device: tap.Device{Name: "u0"}, Direction: tap.In, To: tap.Target{Remote: addr("198.51.100.2"), Encap: tap.VXLAN, TunnelID: tunnelID}})
		l.source(remote("p", tap.ERSPAN2, "198.51.100.2", tap.Options{}))
		unmark(t, l.host, "u0")
		// Tunnel packets with no mark, as they come back from another namespace.
		tun := tunnel{encap: tap.VXLAN, wire: wireVXLAN, id: tunnelID, port: portVXLAN, src: addr("198.51.100.2"), dst: addr("198.51.100.1")}
		h, _ := tun.header()
		binary.BigEndian.PutUint16(h[12:], 0x0800)
		outer := append(h, nettest.Packet{}.Bytes()...)
		binary.BigEndian.PutUint16(outer[16:], uint16(len(outer)-14))
		nettest.NewSender(t, l.peer, "u1").Send(outer)
		l.source(tap.Source{ID: "i", Device: tap.Device{Name: "u0"}, Direction: tap.Out, To: tap.Target{Device: tap.Device{Name: "t0"}}})
		nettest.NewSender(t, l.peer, "u1").Send(outer)
		send := nettest.NewSender(t, l.owner, "p1")
		for range 100 {
			send.Send(nettest.Packet{}.Bytes())
		}
		await.Until(t, "100 copies sent", func() bool { return l.counts("p").Sent == 100 })
		if c := l.counts("i"); c.Errors["loop"] != 1 {
			t.Errorf("a tunnel packet that came in without its mark: %+v", c)
		}
		if c := l.counts("u"); c.Mirrored > 20 { // the hosts' own, such as ARP, are few
			t.Errorf("tunnel packets that go out without their mark: %+v", c)
		}
	})
}

// unmark has a program in front of ours take marks off what leaves a device.
func unmark(t *testing.T, ns *nettest.NS, dev string) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{
		asm.StoreImm(asm.R1, 8, 0, asm.Word), // mark
		asm.Mov.Imm(asm.R0, -1),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	index := ns.Link(dev).Attrs().Index
	ns.Do(func() {
		var l link.Link
		if l, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXEgress, Anchor: link.Head()}); err == nil {
			t.Cleanup(func() { l.Close() })
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNetnsDestinationGone: copies to a device that is away or down are counted, and the packets go on (pitfall 7).
func TestNetnsDestinationGone(t *testing.T) {
	l := newLab(t, "")
	l.source(local("a", tap.Out, tap.Options{}))
	s := nettest.NewSender(t, l.owner, "p1")
	through := listen(t, l.host, "p0")
	l.host.Down("t0")
	s.Send(nettest.Packet{}.Bytes())
	l.host.Delete("t0")
	s.Send(nettest.Packet{}.Bytes())
	if n := len(through.hear(2)); n != 2 {
		t.Errorf("%d of 2 packets went on", n)
	}
	if c := l.counts("a"); c.Seen != 2 || c.Errors["no_device"]+c.Errors["queue"] != 2 || c.Errors["no_device"] == 0 {
		t.Errorf("counts %+v", c)
	}
	if _, err := l.trySource(local("a", tap.Out, tap.Options{})); err == nil {
		t.Error("a tap to a device that is not there is fine")
	}
}

// TestNetnsNoRoute: copies for which there is no way are counted once each, super-packets too.
func TestNetnsNoRoute(t *testing.T) {
	l := newLab(t, "")
	l.underlay(1700)
	l.addresses()
	s := remote("a", tap.VXLAN, "198.51.100.2", tap.Options{Filter: "tcp"})
	s.Direction = tap.In
	l.source(s)
	l.host.Down("u0")
	transfer(t, l.host, l.owner, "10.0.0.2", transferred)
	if c := l.counts("a"); c.Mirrored != 0 || c.Errors["no_route"] != c.Seen-c.NotMatched || c.Errors["no_route"] == 0 {
		t.Errorf("counts %+v", c)
	}
}
