//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// pinned are the taps that the kernel has for the daemon's network namespace, whoever made them.
func (l *tapLab) pinned(t *testing.T) []string {
	t.Helper()
	var cookie uint64
	var err error
	l.ns.Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	if err != nil {
		t.Fatalf("read the namespace's cookie: %v", err)
	}
	taps, err := filepath.Glob(fmt.Sprintf("/sys/fs/bpf/opentap/*/net-%d/tap-*", cookie))
	if err != nil {
		t.Fatal(err)
	}
	return taps
}

// inBridge connects a port to the bridge.
func (l *tapLab) inBridge(t *testing.T, name string) {
	t.Helper()
	if err := l.ns.Netlink().LinkSetMaster(l.ns.Link(name), l.ns.Link("br0")); err != nil {
		t.Fatal(err)
	}
}

// TestNetnsTapOfFlappingPort: a tapped port goes down and up, and is deleted and made again, many times while packets pass, and a stranger's
// device has its index meanwhile. No packet of the stranger's is ever copied, nothing is copied twice, and in the end the tap is as it was, its gaps are stated, and
// nothing is left of what there was between.
func TestNetnsTapOfFlappingPort(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	atMonitor := nettest.NewEar(t, l.monitor, "eth0")
	l.flow(t, "--port", "left", "--direction", "both")
	stranger := nettest.NewNS(t)
	secret := []byte("the stranger's own")

	end := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() { // to all ports of the bridge
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-tick.C:
				l.fromRight.Send(nettest.Packet{DstPort: 4711, Payload: numbered(i, 40)}.Bytes())
			}
		}
	})
	const rounds = 12
	for i := range rounds {
		if i%3 == 2 {
			l.ns.Down("left")
			time.Sleep(rand.N(40 * time.Millisecond)) // what it is like at any moment
			l.ns.Up("left")
			continue
		}
		index := l.ns.Link("left").Attrs().Index
		l.ns.Delete("left")
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = "stranger", index
		if err := l.ns.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(stranger.Handle())}); err != nil {
			t.Fatalf("make a stranger's device: %v", err)
		}
		l.ns.Up("stranger")
		stranger.Up("eth0")
		l.ns.Ready("stranger")
		s := nettest.NewSender(t, stranger, "eth0")
		for range 5 {
			s.Send(nettest.Packet{DstPort: 4712, Payload: secret}.Bytes())
		}
		time.Sleep(rand.N(40 * time.Millisecond))
		l.ns.Delete("stranger")
		nettest.Veth(t, l.ns, "left", l.left, "eth0")
		l.inBridge(t, "left")
	}
	l.ns.Ready("left")
	l.active(t)
	close(end)
	sending.Wait()
	heard := atMonitor.All(200 * time.Millisecond)
	arrives(t, "packets are copied again", l.fromRight, atMonitor)
	copies := make(map[string]int)
	for _, f := range heard {
		if bytes.Contains(f, secret) {
			t.Fatal("a packet of the stranger's was copied")
		}
		if len(f) > 42 && f[12] == 8 && f[36] == 4711>>8 && f[37] == 4711&0xff {
			if copies[string(f)]++; copies[string(f)] > 1 {
				t.Fatalf("copied twice: %x", f)
			}
		}
	}
	if len(copies) == 0 {
		t.Fatal("nothing was copied")
	}
	await.Until(t, "its gaps are stated and over", func() bool {
		g := l.show(t).Gaps
		return len(g) > 0 && !slices.ContainsFunc(g, func(g tap.Gap) bool { return g.To.Before(g.From) || g.Reason == "" })
	})
	if p := l.pinned(t); len(p) != 1 {
		t.Errorf("the kernel has %q for one tap", p)
	}
}

// TestNetnsTapKilledWhileItChanges: whenever the daemon is killed while taps are made, changed and deleted, afterwards the kernel has those that are wished for,
// and no other.
func TestNetnsTapKilledWhileItChanges(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	atMonitor := nettest.NewEar(t, l.monitor, "eth0")
	l.must("tap", "service", "create", "--port", "monitor", "--name", "mon")
	const rounds = 5
	n := 0
	for round := range rounds {
		end := make(chan struct{})
		var changing sync.WaitGroup
		changing.Go(func() { // what is not answered may have happened or not
			for ; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				name := fmt.Sprint("f", n)
				l.opentap("tap", "flow", "create", "--port", "left", "--direction", "out", "--service", "mon", "--name", name)
				if n%2 == 0 {
					l.opentap("tap", "flow", "update", name, "--snap", "60")
				} else {
					l.opentap("tap", "flow", "delete", name)
				}
			}
		})
		time.Sleep(200*time.Millisecond + rand.N(600*time.Millisecond)) // at any moment
		l.kill()
		close(end)
		changing.Wait()
		l.start()
		var list []tap.FlowView
		await.Until(t, "all flows are active, and the kernel has no others", func() bool {
			list = l.tapFlows()
			return !slices.ContainsFunc(list, func(f tap.FlowView) bool { return f.Status != tap.Up }) && len(l.pinned(t)) == len(list)
		})
		frame := nettest.Packet{DstPort: 4711, Payload: numbered(round, 10), NoPad: true}.Bytes() // shorter than it would be cut to
		l.fromLeft.Send(frame)
		copies := 0
		for _, f := range atMonitor.All(300 * time.Millisecond) {
			if bytes.Equal(f, frame) {
				copies++
			}
		}
		if copies != len(list) {
			t.Fatalf("round %d: %d flows, %d copies", round, len(list), copies)
		}
	}
	l.must("tap", "service", "delete", "mon")
	await.Until(t, "nothing is left", func() bool { return len(l.pinned(t)) == 0 })
}
