package xdpring

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/capture/ring"
	"opentap/internal/nettest"
	"opentap/packet"
)

// cable is a veth a0-b0 in a namespace of its own.
func cable(t testing.TB) *nettest.NS {
	ns := nettest.NewNS(t)
	nettest.Veth(t, ns, "a0", ns, "b0")
	return ns
}

func tryOpen(ns *nettest.NS, cfg Config) (r *Ring, err error) {
	ns.Do(func() { r, err = Open(cfg) })
	return r, err
}

func open(t testing.TB, ns *nettest.NS, cfg Config) *Ring {
	t.Helper()
	def := DefaultConfig()
	if cfg.Interface == "" {
		cfg.Interface = "b0"
	}
	if cfg.Memory == 0 {
		cfg.Memory = 16 << 20
	}
	if cfg.Linger == 0 {
		cfg.Linger = def.Linger
	}
	r, err := tryOpen(ns, cfg)
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("needs a kernel with AF_XDP: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil && !errors.Is(err, ring.ErrClosed) {
			t.Error(err)
		}
	})
	// A veth is set up anew when a program comes; frames sent meanwhile get lost on the way.
	ns.Ready("a0")
	ns.Ready("b0")
	return r
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

type kept struct {
	time packet.Timestamp
	data []byte
	orig uint32
}

func keep(got *[]kept) func(*Block) {
	return func(b *Block) {
		var f ring.Frame
		n := 0
		for ; b.Next(&f); n++ {
			*got = append(*got, kept{f.Time, bytes.Clone(f.Data), f.OrigLen})
		}
		if n != b.Len() {
			panic("a block gave another number of frames than it has")
		}
	}
}

func counts(t testing.TB, r *Ring) ring.Counts {
	t.Helper()
	c, err := r.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if c.Seen != c.Filtered+c.Passed || !c.FilterCounted {
		t.Errorf("counts do not add up: %+v", c)
	}
	return c
}

// zoo is one frame of each kind.
func zoo() [][]byte {
	p := nettest.Packet{SrcPort: 4000, DstPort: 53, Payload: []byte("hello")}
	tagged, qinq, six := p, p, p
	tagged.Tags = []nettest.Tag{{TCI: 0x6064}}
	qinq.Tags = []nettest.Tag{{TPID: nettest.EtherQinQ, TCI: 200}, {TCI: 0xe001}}
	six.Dst, six.Payload = netip.MustParseAddr("2001:db8::9"), bytes.Repeat([]byte("0123456789"), 140)
	return [][]byte{
		p.Bytes(), tagged.Bytes(), qinq.Bytes(), six.Bytes(),
		nettest.ARP([6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")),
		append(p.Bytes()[:14:14], bytes.Repeat([]byte{7}, 1500)...),
	}
}

var modes = []struct {
	name string
	mode Mode
}{{"best", Best}, {"native", Native}, {"generic", Generic}}

func TestNetnsFramesComeBackIdentical(t *testing.T) {
	for _, tt := range modes {
		t.Run(tt.name, func(t *testing.T) {
			ns := cable(t)
			r := open(t, ns, Config{Mode: tt.mode})
			if tt.mode != Best && r.Mode() != tt.mode || tt.mode == Best && r.Mode() != Native { // a veth has no zero copy
				t.Errorf("mode is %q", r.Mode())
			}
			if err := r.Tags(); err != nil {
				t.Errorf("tags: %v", err)
			}
			s := nettest.NewSender(t, ns, "a0")
			frames := zoo()
			before := packet.TimestampOf(time.Now())
			const rounds = 400
			var got []kept
			for range rounds {
				s.Send(frames...)
				if _, err := r.Read(0, keep(&got)); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Drain(keep(&got)); err != nil {
				t.Fatal(err)
			}
			after := packet.TimestampOf(time.Now())
			c := counts(t, r)
			if c.Dropped != 0 || c.Seen != s.Count() || uint64(len(got)) != c.Seen {
				t.Fatalf("sent %d, got %d, counts %+v", s.Count(), len(got), c)
			}
			distinct := make(map[packet.Timestamp]bool)
			last := before.Add(-time.Millisecond)
			for i, g := range got {
				want := frames[i%len(frames)]
				if !bytes.Equal(g.data, want) || int(g.orig) != len(want) {
					t.Fatalf("frame %d, %d octets:\n% x\nsent:\n% x", i, g.orig, g.data, want)
				}
				if g.time < last-1000 || g.time > after {
					t.Fatalf("frame %d has time %d; the one before %d, now it is %d", i, g.time, last, after)
				}
				last = g.time
				distinct[g.time] = true
			}
			if len(distinct) < len(got)*9/10 {
				t.Errorf("%d frames have %d times: they were not stamped one by one", len(got), len(distinct))
			}
			if rx, err := r.Read(0, keep(&got)); rx != 0 || err != nil {
				t.Errorf("after the end: %d blocks, %v", rx, err)
			}
		})
	}
}

func TestNetnsHostGetsNothingUntilClose(t *testing.T) {
	ns := cable(t)
	var host *ring.Ring
	var err error
	ns.Do(func() {
		host, err = ring.Open(ring.Config{Interface: "b0", Blocks: 4, BlockSize: 128 << 10, Retire: time.Millisecond})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	r := open(t, ns, Config{})
	s := nettest.NewSender(t, ns, "a0")
	s.Send(zoo()...)
	var got []kept
	if err := r.Drain(keep(&got)); err != nil {
		t.Fatal(err)
	}
	hc, err := host.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(zoo()) || hc.Seen != 0 {
		t.Errorf("%d frames here, %d at the host", len(got), hc.Seen)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	ns.Ready("a0")
	ns.Ready("b0")
	s.Send(zoo()...)
	if err := host.Drain(func(*ring.Block) {}); err != nil {
		t.Fatal(err)
	}
	if hc, err = host.Counts(); err != nil || hc.Seen != uint64(len(zoo())) {
		t.Errorf("after Close the host sees %d frames, %v", hc.Seen, err)
	}
}

// What the device does with VLAN tags is put back when the ring is closed.
func TestNetnsTagsStayAndSettingsComeBack(t *testing.T) {
	ns := cable(t)
	r := open(t, ns, Config{Mode: Generic})
	flags := func(fd int) (tags, joins uint32) {
		v := ethtoolValue{cmd: unix.ETHTOOL_GFLAGS}
		if err := ethtool(fd, "b0", unsafe.Pointer(&v)); err != nil {
			t.Fatal(err)
		}
		g := ethtoolValue{cmd: unix.ETHTOOL_GGRO}
		if err := ethtool(fd, "b0", unsafe.Pointer(&g)); err != nil {
			t.Fatal(err)
		}
		return v.data & rxVLAN, g.data
	}
	fd, err := unix.Dup(r.ctl)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if tags, joins := flags(fd); tags != 0 || joins != 0 {
		t.Errorf("while it is read: rxvlan %#x, gro %d", tags, joins)
	}
	undos := len(r.switches.restore)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if tags, joins := flags(fd); btoi(tags != 0)+btoi(joins != 0) != undos || undos == 0 {
		t.Errorf("after Close: rxvlan %#x, gro %d; %d settings were changed", tags, joins, undos)
	}
}

// Every frame that the program met is lent or counted as dropped, however late the reader is.
func TestNetnsLossIsCountedExactly(t *testing.T) {
	for _, mix := range []nettest.Mix{nettest.Mix64, nettest.MixIMIX} {
		t.Run(string(mix), func(t *testing.T) {
			ns := cable(t)
			r := open(t, ns, Config{Memory: MinMemory})
			var gen *nettest.Generator
			var err error
			ns.Do(func() {
				gen, err = nettest.NewGenerator(nettest.GeneratorConfig{Interface: "a0", Mix: mix, CPU: -1, Flows: 100})
			})
			if err != nil {
				t.Skipf("needs BPF_F_TEST_XDP_LIVE_FRAMES (Linux 5.18): %v", err)
			}
			defer gen.Close()
			ran := make(chan error, 1)
			go func() {
				var err error
				ns.Do(func() { err = gen.Run(context.Background(), 400_000, 0) })
				r.Wake()
				ran <- err
			}()
			var frames, octets uint64
			slow := func(b *Block) {
				var f ring.Frame
				for b.Next(&f) {
					frames++
					octets += uint64(len(f.Data))
				}
				time.Sleep(2 * time.Millisecond) // the reader is late
			}
			for running := true; running; {
				if _, err := r.Read(10*time.Millisecond, slow); err != nil {
					t.Fatal(err)
				}
				if c := counts(t, r); frames+c.Dropped > c.Passed {
					t.Errorf("read %d and dropped %d of %d", frames, c.Dropped, c.Passed)
				}
				select {
				case err := <-ran:
					if err != nil {
						t.Fatal(err)
					}
					running = false
				default:
				}
			}
			if err := r.Drain(slow); err != nil {
				t.Fatal(err)
			}
			c := counts(t, r)
			if c.Dropped == 0 || r.lost != 0 {
				t.Errorf("dropped %d, of those %d without a counter", c.Dropped, r.lost)
			}
			if frames+c.Dropped != c.Passed || octets == 0 {
				t.Errorf("read %d + dropped %d ≠ passed %d", frames, c.Dropped, c.Passed)
			}
			t.Logf("%s: %d read, %d dropped", mix, frames, c.Dropped)
		})
	}
}

// A frame that its memory has no room for, because the MTU was raised, is counted, and the reader is told.
func TestNetnsRaisedMTUIsTold(t *testing.T) {
	ns := cable(t)
	r := open(t, ns, Config{Mode: Generic})
	for _, name := range []string{"a0", "b0"} {
		if err := ns.Netlink().LinkSetMTU(ns.Link(name), 3000); err != nil {
			t.Fatal(err)
		}
	}
	s := nettest.NewSender(t, ns, "a0")
	s.Send(nettest.Packet{SrcPort: 1, DstPort: 2, Payload: make([]byte, 2500)}.Bytes())
	frames := 0
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, err := r.Read(10*time.Millisecond, func(b *Block) { frames += b.Len() })
		if errors.Is(err, ErrMTU) {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it is not told: %v", err)
		}
	}
	if err := r.Drain(func(b *Block) { frames += b.Len() }); err != nil {
		t.Fatal(err)
	}
	if c := counts(t, r); c.Passed != 1 || c.Dropped != 1 || frames != 0 {
		t.Errorf("%+v, and %d frames", c, frames)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, ns, Config{Mode: Generic})
	s.Send(nettest.Packet{SrcPort: 1, DstPort: 2, Payload: make([]byte, 2500)}.Bytes())
	if err := r.Drain(func(b *Block) { frames += b.Len() }); err != nil || frames != 1 {
		t.Errorf("another ring: %d frames, %v", frames, err)
	}
}

func TestNetnsReadAllocatesNothing(t *testing.T) {
	ns := cable(t)
	r := open(t, ns, Config{Linger: 100 * time.Microsecond})
	s := nettest.NewSender(t, ns, "a0")
	frame := zoo()[0]
	var f ring.Frame
	n := 0
	count := func(b *Block) {
		for b.Next(&f) {
			n++
		}
	}
	if got := testing.AllocsPerRun(200, func() {
		s.Send(frame, frame, frame)
		if _, err := r.Read(time.Second, count); err != nil {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations a Read", got)
	}
	if n == 0 {
		t.Error("nothing read")
	}
}

func TestNetnsDeviceDownAndGone(t *testing.T) {
	for _, tt := range modes {
		t.Run(tt.name, func(t *testing.T) {
			ns := cable(t)
			r := open(t, ns, Config{Mode: tt.mode})
			s := nettest.NewSender(t, ns, "a0")
			var got []kept
			ns.Down("b0")
			if _, err := r.Read(5*time.Second, keep(&got)); !errors.Is(err, ring.ErrDown) {
				t.Fatalf("down: %v", err)
			}
			if _, err := r.Read(120*time.Millisecond, keep(&got)); err != nil {
				t.Fatalf("still down: %v", err)
			}
			ns.Up("b0")
			ns.Ready("a0")
			ns.Ready("b0")
			s.Send(zoo()...)
			for deadline := time.Now().Add(5 * time.Second); len(got) < len(zoo()) && time.Now().Before(deadline); {
				if _, err := r.Read(time.Second, keep(&got)); err != nil {
					t.Fatal(err)
				}
			}
			if len(got) != len(zoo()) {
				t.Fatalf("%d frames after it came up again", len(got))
			}
			s.Send(zoo()...)
			ns.Delete("b0")
			var err error
			for deadline := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(deadline); {
				_, err = r.Read(time.Second, keep(&got))
			}
			if !errors.Is(err, ring.ErrGone) {
				t.Fatalf("gone: %v", err)
			}
			if _, err := r.Read(0, keep(&got)); !errors.Is(err, ring.ErrGone) {
				t.Errorf("gone is not final: %v", err)
			}
			if c := counts(t, r); c.Passed != uint64(len(got))+c.Dropped {
				t.Errorf("%d frames, %+v", len(got), c)
			}
		})
	}
}

func TestNetnsSecondRingIsRefused(t *testing.T) {
	ns := cable(t)
	open(t, ns, Config{})
	_, err := tryOpen(ns, Config{Interface: "b0", Memory: MinMemory, Linger: time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "generic") {
		t.Errorf("a second ring on the same port: %v", err)
	}
}

func TestNetnsRefusals(t *testing.T) {
	ns := cable(t)
	if _, err := tryOpen(ns, Config{Interface: "nothere", Memory: MinMemory, Linger: time.Millisecond}); !errors.Is(err, ring.ErrGone) {
		t.Errorf("no such interface: %v", err)
	}
	if err := ns.Netlink().LinkSetMTU(ns.Link("b0"), 9000); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(ns, Config{Interface: "b0", Memory: MinMemory, Linger: time.Millisecond}); err == nil || !strings.Contains(err.Error(), "9000") {
		t.Errorf("jumbo frames: %v", err)
	}
}

// Frames of all queues are read, and each queue's come in order.
func TestNetnsSeveralQueues(t *testing.T) {
	ns := nettest.NewNS(t)
	ns.Quiet()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "a0", 2, 2
	if err := ns.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b0", PeerNumRxQueues: 2, PeerNumTxQueues: 2}); err != nil {
		t.Fatal(err)
	}
	ns.Up("a0")
	ns.Up("b0")
	r := open(t, ns, Config{})
	if r.Queues() != 2 {
		t.Skipf("needs a veth with two queues, has %d", r.Queues())
	}
	s := nettest.NewSender(t, ns, "a0")
	var sent uint64
	for i := range 2000 { // the sending CPU or the flow chooses the queue
		s.Send(nettest.Packet{Src: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), SrcPort: uint16(i)}.Bytes())
		sent++
	}
	var got []kept
	if err := r.Drain(keep(&got)); err != nil {
		t.Fatal(err)
	}
	if c := counts(t, r); c.Seen != sent || uint64(len(got)) != sent {
		t.Errorf("sent %d, got %d, %+v", sent, len(got), c)
	}
}

func TestNetnsWakeAndClose(t *testing.T) {
	ns := cable(t)
	r := open(t, ns, Config{})
	r.Wake()
	if n, err := r.Read(-1, func(*Block) {}); n != 0 || err != nil {
		t.Errorf("woken: %d, %v", n, err)
	}
	done := make(chan error)
	go func() {
		for {
			if _, err := r.Read(-1, func(*Block) {}); err != nil {
				done <- err
				return
			}
		}
	}()
	runtime.Gosched()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ring.ErrClosed) {
		t.Errorf("read beside Close: %v", err)
	}
	if err := r.Close(); !errors.Is(err, ring.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := r.Counts(); !errors.Is(err, ring.ErrClosed) {
		t.Errorf("counts after Close: %v", err)
	}
	r.Wake()
}
