package ring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/packet"
)

// cable is a veth a0-b0 in a namespace of its own.
func cable(t testing.TB) *nettest.NS {
	ns := nettest.NewNS(t)
	nettest.Veth(t, ns, "a0", ns, "b0")
	return ns
}

func open(t testing.TB, ns *nettest.NS, cfg Config) *Ring {
	t.Helper()
	var r *Ring
	var err error
	ns.Do(func() { r, err = Open(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return r
}

// small is a ring that lends after a millisecond.
func small(iface string) Config {
	return Config{Interface: iface, Blocks: 8, BlockSize: 128 << 10, Retire: time.Millisecond}
}

type kept struct {
	time     packet.Timestamp
	data     []byte
	orig     uint32
	outgoing bool
}

// drain stops the ring and returns all that was left in it.
func drain(t testing.TB, r *Ring) []kept {
	t.Helper()
	var got []kept
	if err := r.Drain(keep(&got)); err != nil {
		t.Fatal(err)
	}
	return got
}

func keep(got *[]kept) func(*Block) {
	return func(b *Block) {
		var f Frame
		n := 0
		for ; b.Next(&f); n++ {
			*got = append(*got, kept{f.Time, bytes.Clone(f.Data), f.OrigLen, f.Outgoing})
		}
		if n != b.Len() {
			panic(fmt.Sprintf("block of %d frames gave %d", b.Len(), n))
		}
	}
}

func counts(t testing.TB, r *Ring) Counts {
	t.Helper()
	c, err := r.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if c.Seen != c.Filtered+c.Passed {
		t.Errorf("seen %d, filtered %d + passed %d", c.Seen, c.Filtered, c.Passed)
	}
	return c
}

// zoo is one frame of each kind.
func zoo() map[string][]byte {
	v6 := netip.MustParseAddr("2001:db8::9")
	big := bytes.Repeat([]byte("0123456789"), 140)
	p := nettest.Packet{SrcPort: 4000, DstPort: 53, Payload: []byte("hello")}
	tagged, qinq, prio, tcp, six := p, p, p, p, p
	tagged.Tags = []nettest.Tag{{TCI: 0x6064}}
	qinq.Tags = []nettest.Tag{{TPID: nettest.EtherQinQ, TCI: 200}, {TCI: 0xe001}}
	prio.Tags = []nettest.Tag{{TCI: 0xa000}}
	tcp.Proto, tcp.TCPFlags, tcp.Payload = nettest.TCP, 0x18, big
	six.Dst, six.Payload = v6, big
	sixTagged := six
	sixTagged.Tags = qinq.Tags
	odd := p
	odd.Payload = make([]byte, 501)
	return map[string][]byte{
		"udp4": p.Bytes(), "vlan": tagged.Bytes(), "qinq": qinq.Bytes(), "priority tag": prio.Bytes(), "tcp4": tcp.Bytes(),
		"udp6": six.Bytes(), "udp6 qinq": sixTagged.Bytes(), "odd length": odd.Bytes(),
		"arp":     nettest.ARP([6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")),
		"llc":     append([]byte{1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 38, 0x42, 0x42, 3}, make([]byte, 43)...),
		"largest": append(p.Bytes()[:14:14], make([]byte, 1500)...),
	}
}

func TestNetnsFramesComeBackIdentical(t *testing.T) {
	ns := cable(t)
	far, near := open(t, ns, small("b0")), open(t, ns, small("a0"))
	s := nettest.NewSender(t, ns, "a0")
	before := packet.TimestampOf(time.Now())
	var names []string
	frames := zoo()
	for range 50 {
		for name, f := range frames {
			names = append(names, name)
			s.Send(f)
		}
	}
	for _, r := range []*Ring{far, near} {
		got := drain(t, r)
		if len(got) != len(names) {
			t.Fatalf("%d frames captured, %d sent", len(got), len(names))
		}
		last := before
		for i, g := range got {
			want := frames[names[i]]
			if !bytes.Equal(g.data, want) || int(g.orig) != len(want) || g.outgoing != (r == near) {
				t.Fatalf("frame %d (%s), outgoing %v, %d octets:\n% x\nsent:\n% x", i, names[i], g.outgoing, g.orig, g.data, want)
			}
			if g.time < last {
				t.Errorf("frame %d at %d, before %d", i, g.time, last)
			}
			last = g.time
		}
		if now := packet.TimestampOf(time.Now()); last > now {
			t.Errorf("last frame at %d, after now %d", last, now)
		}
		if c := counts(t, r); c.Seen != uint64(len(names)) || c.Dropped != 0 || c.Filtered != 0 || !c.FilterCounted {
			t.Errorf("counts %+v, sent %d", c, len(names))
		}
	}
}

func TestNetnsSnapLenCutsEveryFrame(t *testing.T) {
	all, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 262144}})
	if err != nil {
		t.Fatal(err)
	}
	length, err := bpf.Assemble([]bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtLen}, bpf.RetA{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range []int{1, 10, 12, 14, 17, 64, 1000, 100_000} {
		for name, prog := range map[string][]bpf.RawInstruction{"no filter": nil, "filter": all, "verdict from accumulator": length} {
			t.Run(fmt.Sprint(snap, " ", name), func(t *testing.T) {
				ns := cable(t)
				cfg := small("b0")
				cfg.SnapLen, cfg.Filter = snap, prog
				r := open(t, ns, cfg)
				s := nettest.NewSender(t, ns, "a0")
				var sent [][]byte
				for _, f := range zoo() {
					sent = append(sent, f)
				}
				s.Send(sent...)
				got := drain(t, r)
				if len(got) != len(sent) {
					t.Fatalf("%d frames captured, %d sent", len(got), len(sent))
				}
				for i, g := range got {
					if want := sent[i][:min(snap, len(sent[i]))]; !bytes.Equal(g.data, want) || int(g.orig) != len(sent[i]) {
						t.Errorf("% x of %d, want % x of %d", g.data, g.orig, want, len(sent[i]))
					}
				}
			})
		}
	}
}

// port53 accepts IPv4 UDP to port 53, 100 octets of it.
func port53(t testing.TB, extra ...bpf.Instruction) []bpf.RawInstruction {
	t.Helper()
	prog, err := bpf.Assemble(append(extra,
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 17, SkipTrue: 4},
		bpf.LoadMemShift{Off: 14},
		bpf.LoadIndirect{Off: 16, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 53, SkipTrue: 1},
		bpf.RetConstant{Val: 100},
		bpf.RetConstant{Val: 0},
	))
	if err != nil {
		t.Fatal(err)
	}
	return prog
}

func TestNetnsFilterIsCounted(t *testing.T) {
	for _, counted := range []bool{true, false} {
		t.Run(fmt.Sprintf("counted %v", counted), func(t *testing.T) {
			ns := cable(t)
			cfg := small("b0")
			cfg.Filter = port53(t)
			if !counted { // a load without counterpart in eBPF
				cfg.Filter = port53(t, bpf.LoadExtension{Num: bpf.ExtRand})
			}
			r := open(t, ns, cfg)
			s := nettest.NewSender(t, ns, "a0")
			dns := nettest.Packet{DstPort: 53, Payload: make([]byte, 200)}.Bytes()
			for range 100 {
				s.Send(nettest.Packet{DstPort: 80}.Bytes(), dns, []byte("AAAAAABBBBBB\x08\x00"), nettest.Packet{Proto: nettest.TCP, DstPort: 53}.Bytes())
			}
			want := Counts{Seen: 400, Filtered: 300, Passed: 100, FilterCounted: true}
			if !counted {
				want = Counts{Seen: 100, Passed: 100}
			}
			// Sent is not arrived: the other end of the cable is served when the kernel gets round to it.
			for deadline := time.Now().Add(10 * time.Second); counts(t, r).Seen < want.Seen && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			got := drain(t, r)
			if c := counts(t, r); c != want {
				t.Errorf("counts %+v, want %+v", c, want)
			}
			if len(got) != 100 {
				t.Errorf("%d frames", len(got))
			}
			for _, g := range got {
				if !bytes.Equal(g.data, dns[:100]) || int(g.orig) != len(dns) {
					t.Fatalf("% x of %d", g.data, g.orig)
				}
			}
			s.Send(dns)
			if c := counts(t, r); c != want || len(drain(t, r)) != 0 {
				t.Errorf("after Stop: counts %+v, want %+v", c, want)
			}
		})
	}
}

func TestNetnsVLANInMetadata(t *testing.T) {
	ins := []bpf.Instruction{ // what a kernel-target program for "vlan 100" (802.1Q only) asks
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipFalse: 8},
		bpf.LoadExtension{Num: bpf.ExtVLANProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x8100, SkipFalse: 6},
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0800, SkipFalse: 4},
		bpf.LoadExtension{Num: bpf.ExtVLANTag},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x0fff},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 100, SkipFalse: 1},
		bpf.RetConstant{Val: 262144},
		bpf.RetConstant{},
	}
	prog, err := bpf.Assemble(ins)
	if err != nil {
		t.Fatal(err)
	}
	prog[4].K = adProtocol // x/net assembles ExtProto as SKF_AD_PROTOCOL; said once more
	classic, err := bpf.Assemble(append([]bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtRand}}, ins...))
	if err != nil {
		t.Fatal(err)
	}
	for name, prog := range map[string][]bpf.RawInstruction{"eBPF": prog, "classic": classic} {
		t.Run(name, func(t *testing.T) {
			ns := cable(t)
			cfg := small("b0")
			cfg.Filter = prog
			r := open(t, ns, cfg)
			s := nettest.NewSender(t, ns, "a0")
			tag := func(tpid, tci uint16) []byte {
				return nettest.Packet{Tags: []nettest.Tag{{TPID: tpid, TCI: tci}}}.Bytes()
			}
			s.Send(tag(0x8100, 100), tag(0x8100, 0xf064), tag(0x8100, 101), tag(0x88a8, 100), nettest.Packet{}.Bytes())
			got := drain(t, r)
			c := counts(t, r)
			if len(got) != 2 || c.Passed != 2 || c.FilterCounted != (name == "eBPF") || c.FilterCounted && c.Seen != 5 {
				t.Errorf("%d frames, counts %+v", len(got), c)
			}
		})
	}
}

// TestNetnsLossAddsUp floods a ring that is far too small, with a reader that is far too slow, and stops it in the
// midst of the flood: every packet delivered is accounted for.
func TestNetnsLossAddsUp(t *testing.T) {
	ipv6, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x86dd, SkipTrue: 1},
		bpf.RetConstant{},
		bpf.RetConstant{Val: 262144},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, filter := range map[string][]bpf.RawInstruction{"no filter": nil, "filter": ipv6} {
		for _, midst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stop in the midst %v", name, midst), func(t *testing.T) {
				ns := cable(t)
				cfg := Config{Interface: "b0", Blocks: 2, BlockSize: 64 << 10, Retire: time.Millisecond, Filter: filter}
				r := open(t, ns, cfg)
				var sink *nettest.Sink
				var gen *nettest.Generator
				ns.Do(func() {
					if sink, err = nettest.NewSink("b0"); err == nil {
						gen, err = nettest.NewGenerator(nettest.GeneratorConfig{Interface: "a0", Mix: nettest.MixIMIX, Flows: 1000, CPU: -1})
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				defer sink.Close()
				defer gen.Close()
				ctx, cancel := context.WithCancel(context.Background())
				flood := make(chan error, 1)
				go func() {
					var err error
					ns.Do(func() { err = gen.Run(ctx, 0, 0) })
					flood <- err
				}()
				lent := 0
				count := func(b *Block) {
					var f Frame
					for b.Next(&f) {
						lent++
					}
				}
				for {
					if _, err := r.Read(time.Second, count); err != nil {
						t.Fatal(err)
					}
					if c := counts(t, r); c.Dropped > 1000 && lent > 1000 {
						break
					}
				}
				if !midst {
					cancel()
					if err := <-flood; err != nil {
						t.Fatal(err)
					}
				}
				if err := r.Stop(); err != nil {
					t.Fatal(err)
				}
				at := counts(t, r)
				if err := r.Drain(count); err != nil {
					t.Fatal(err)
				}
				c := counts(t, r)
				cancel()
				if midst {
					if err := <-flood; err != nil {
						t.Fatal(err)
					}
				}
				delivered, err := sink.Delivered()
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("delivered %d, lent %d, %+v", delivered, lent, c)
				if c != at {
					t.Errorf("counts went on after Stop: %+v, then %+v", at, c)
				}
				if c.Passed != uint64(lent)+c.Dropped {
					t.Errorf("passed %d, lent %d + dropped %d", c.Passed, lent, c.Dropped)
				}
				if !midst && c.Seen != delivered || c.Seen > delivered {
					t.Errorf("seen %d of %d delivered", c.Seen, delivered)
				}
				if filter != nil && (c.Filtered == 0 || !c.FilterCounted) || c.Freezes == 0 {
					t.Errorf("counts %+v", c)
				}
			})
		}
	}
}

func TestNetnsInterfaceRemoved(t *testing.T) {
	for _, downFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("down first %v", downFirst), func(t *testing.T) {
			ns := cable(t)
			r := open(t, ns, small("b0"))
			nettest.NewSender(t, ns, "a0").Send(nettest.Packet{}.Bytes())
			n := 0
			gone := make(chan error, 1)
			down := make(chan struct{}, 1)
			go func() {
				for {
					_, err := r.Read(-1, func(b *Block) { n += b.Len() })
					if errors.Is(err, ErrDown) {
						down <- struct{}{}
					} else if err != nil {
						gone <- err
						return
					}
				}
			}()
			if downFirst {
				ns.Down("b0")
				<-down
			}
			ns.Delete("a0")
			if err := <-gone; !errors.Is(err, ErrGone) {
				t.Errorf("read: %v", err)
			}
			if _, err := r.Read(0, func(*Block) {}); !errors.Is(err, ErrGone) {
				t.Errorf("read again: %v", err)
			}
			if got := drain(t, r); n+len(got) != 1 {
				t.Errorf("%d frames before, %d drained, 1 sent", n, len(got))
			}
			ns.Do(func() {
				if _, err := Open(small("b0")); !errors.Is(err, ErrGone) {
					t.Errorf("open: %v", err)
				}
			})
		})
	}
}

func TestNetnsDownAndUpAgain(t *testing.T) {
	ns := cable(t)
	ns.Down("b0")
	r := open(t, ns, small("b0"))
	s := nettest.NewSender(t, ns, "a0")
	for i := range 3 {
		if _, err := r.Read(5*time.Second, func(*Block) { t.Error("frame from a down interface") }); !errors.Is(err, ErrDown) {
			t.Fatalf("round %d: read on down interface: %v", i, err)
		}
		if n, err := r.Read(time.Millisecond, func(*Block) {}); n != 0 || err != nil {
			t.Fatalf("round %d: down is reported again: %v", i, err)
		}
		ns.Up("b0")
		ns.Ready("a0")
		s.Send(nettest.Packet{}.Bytes())
		n := 0
		for n == 0 {
			if _, err := r.Read(-1, func(b *Block) { n += b.Len() }); err != nil {
				t.Fatal(err)
			}
		}
		ns.Down("b0")
	}
	if c := counts(t, r); c.Seen != 3 {
		t.Errorf("counts %+v", c)
	}
}

func TestNetnsLoopbackSeenOnce(t *testing.T) {
	ns := nettest.NewNS(t)
	r := open(t, ns, small("lo"))
	var err error
	ns.Do(func() {
		var to net.PacketConn
		if to, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			return
		}
		defer to.Close()
		for range 10 {
			if _, err = to.WriteTo([]byte("ping"), to.LocalAddr()); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got := drain(t, r)
	if len(got) != 10 || r.LinkType() != packet.LinkEthernet {
		t.Fatalf("%d frames of link type %d for 10 datagrams", len(got), r.LinkType())
	}
	for _, g := range got {
		if g.outgoing || len(g.data) != 14+20+8+4 || binary.BigEndian.Uint16(g.data[12:]) != 0x0800 {
			t.Errorf("% x, outgoing %v", g.data, g.outgoing)
		}
	}
}

func TestNetnsTunIsRaw(t *testing.T) {
	ns := nettest.NewNS(t)
	var tun *os.File
	var err error
	ns.Do(func() {
		link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "t0"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, Queues: 1, NonPersist: true}
		if err = netlink.LinkAdd(link); err == nil {
			tun = link.Fds[0]
		}
	})
	if err != nil {
		t.Skipf("needs /dev/net/tun: %v", err)
	}
	defer tun.Close()
	ns.Quiet()
	ns.Up("t0")
	r := open(t, ns, small("t0"))
	if r.LinkType() != packet.LinkRaw {
		t.Fatalf("link type %d", r.LinkType())
	}
	p := nettest.Packet{NoEthernet: true, Payload: []byte("inside")}
	four := p.Bytes()
	p.Dst = netip.MustParseAddr("2001:db8::1")
	six := p.Bytes()
	for _, f := range [][]byte{four, six} {
		if _, err := unix.Write(int(tun.Fd()), f); err != nil {
			t.Fatal(err)
		}
	}
	var own []kept
	for _, g := range drain(t, r) {
		if !g.outgoing { // the kernel may solicit routers itself
			own = append(own, g)
		}
	}
	if len(own) != 2 || !bytes.Equal(own[0].data, four) || !bytes.Equal(own[1].data, six) {
		t.Errorf("captured %v", own)
	}
}

func TestNetnsReadAndWake(t *testing.T) {
	ns := cable(t)
	r := open(t, ns, small("b0"))
	never := func(*Block) { t.Error("a block on a quiet cable") }
	if n, err := r.Read(0, never); n != 0 || err != nil {
		t.Errorf("read without waiting: %d, %v", n, err)
	}
	if n, err := r.Read(3*time.Millisecond, never); n != 0 || err != nil {
		t.Errorf("read with timeout: %d, %v", n, err)
	}
	r.Wake() // before the read: not lost
	if n, err := r.Read(-1, never); n != 0 || err != nil {
		t.Errorf("woken read: %d, %v", n, err)
	}
	done := make(chan error)
	go func() {
		_, err := r.Read(-1, never)
		done <- err
	}()
	r.Wake()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNetnsCloseBesideRead(t *testing.T) {
	for range 20 {
		ns := cable(t)
		r := open(t, ns, small("b0"))
		done := make(chan error)
		go func() {
			for {
				if _, err := r.Read(-1, func(*Block) {}); err != nil {
					done <- err
					return
				}
			}
		}()
		go func() {
			for range 100 {
				r.Wake()
			}
			done <- nil
		}()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
		if err := r.Close(); !errors.Is(err, ErrClosed) {
			t.Errorf("second close: %v", err)
		}
		if _, err := r.Counts(); !errors.Is(err, ErrClosed) {
			t.Errorf("counts of a closed ring: %v", err)
		}
		r.Wake()
	}
}

func TestNetnsReadDoesNotAllocate(t *testing.T) {
	ns := cable(t)
	r := open(t, ns, small("b0"))
	s := nettest.NewSender(t, ns, "a0")
	f := nettest.Packet{Tags: []nettest.Tag{{TCI: 5}}}.Bytes()
	frames := make([][]byte, 50)
	for i := range frames {
		frames[i] = f
	}
	n := 0
	count := func(b *Block) {
		var f Frame
		for b.Next(&f) {
			n++
		}
	}
	if got := testing.AllocsPerRun(50, func() {
		s.Send(frames...)
		for n = 0; n < len(frames); {
			if _, err := r.Read(time.Second, count); err != nil {
				t.Fatal(err)
			}
		}
	}); got != 0 {
		t.Errorf("%v allocations for %d frames", got, len(frames))
	}
}
