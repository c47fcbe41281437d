package ifcount

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"opentap/fault"
)

func TestReadLoopback(t *testing.T) {
	r, err := Read("lo")
	if err != nil {
		t.Fatal(err)
	}
	if r.Point != "lo" || r.IfIndex != 1 || r.Time == 0 || r.Missing != "" || r.SpeedBPS != 0 {
		t.Errorf("lo = %+v", r)
	}
}

func TestReadUnknown(t *testing.T) {
	for _, name := range []string{"", "nonesuch", strings.Repeat("x", 1000), "lo\x00x", "../lo"} {
		if _, err := Read(name); !fault.Is(err, fault.NotFound) {
			t.Errorf("Read(%.20q) = %v, want not found", name, err)
		}
	}
}

// The counters are those of the kernel: frames sent through a pair of devices are counted on both ends, exactly.
func TestNetnsRead(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread, and its namespace, end with the test
	ns, err := netns.New()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs CAP_SYS_ADMIN (network namespace)")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	la := netlink.NewLinkAttrs()
	la.Name = "v0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "v1"}); err != nil {
		t.Fatal(err)
	}
	before, err := Read("v0")
	if err != nil {
		t.Fatal(err)
	}
	if before.Up || before.Admin || before.Carrier {
		t.Errorf("a new device is %+v, want it down", before)
	}
	for _, n := range []string{"v0", "v1"} {
		l, err := netlink.LinkByName(n)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r := await(t, "v0", func(r Row) bool { return r.Up && r.Carrier && r.Admin })
	if r.CarrierChanges == 0 || r.CarrierUp == 0 || r.SpeedBPS != 10_000_000_000 {
		t.Errorf("v0 up = %+v", r)
	}

	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	sent, err := Read("v0")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read("v1")
	if err != nil {
		t.Fatal(err)
	}
	// Router solicitations may be sent beside ours, so the frames are told from them by their size.
	const frames, octets = 100, 1000
	frame := make([]byte, octets)
	copy(frame, net.HardwareAddr{1, 0, 0x5e, 1, 2, 3}) // multicast
	frame[12], frame[13] = 0x88, 0xb5                  // IEEE 802 local experimental EtherType 1
	for range frames {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(r.IfIndex)}); err != nil {
			t.Fatal(err)
		}
	}
	within := func(what string, got, least uint64) {
		t.Helper()
		if got < least || got > least+least/4 {
			t.Errorf("%s grew by %d, want %d", what, got, least)
		}
	}
	after, err := Read("v0")
	if err != nil {
		t.Fatal(err)
	}
	within("tx_packets", after.TxPackets-sent.TxPackets, frames)
	within("tx_bytes", after.TxBytes-sent.TxBytes, frames*octets)
	peer := await(t, "v1", func(r Row) bool { return r.RxPackets >= got.RxPackets+frames })
	within("rx_packets", peer.RxPackets-got.RxPackets, frames)
	within("rx_bytes", peer.RxBytes-got.RxBytes, frames*octets)

	l, err := netlink.LinkByName("v0")
	if err == nil {
		err = netlink.LinkSetDown(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	down := await(t, "v0", func(r Row) bool { return !r.Up })
	if down.Admin || down.TxPackets < after.TxPackets {
		t.Errorf("v0 down = %+v", down)
	}
}

// await reads until ok, at most 10 s: the kernel works the state of a carrier out later (net/core/link_watch.c).
func await(t *testing.T, name string, ok func(Row) bool) Row {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		r, err := Read(name)
		if err != nil {
			t.Fatal(err)
		}
		if ok(r) {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s stays %+v", name, r)
		}
	}
}

func TestReadAllAgreesWithRead(t *testing.T) {
	conn, err := net.Dial("udp", "127.0.0.1:9") // something to count
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	before, err := Read("lo")
	if err != nil {
		t.Fatal(err)
	}
	all, err := ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	after, err := Read("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo, ok := all[1]
	if !ok || lo.RxPackets < before.RxPackets || lo.RxPackets > after.RxPackets || lo.TxOctets < before.TxBytes || lo.TxOctets > after.TxBytes || lo.RxPackets == 0 {
		t.Errorf("%+v is not between %+v and %+v", lo, before.Stats, after.Stats)
	}
}

func TestTotalsOfShortMessages(t *testing.T) {
	for n := range 20 {
		if _, _, ok := totalsOf(make([]byte, n)); ok {
			t.Errorf("%d octets were taken", n)
		}
	}
}
