package bpftap

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// TestNetnsMovedDevice: a device that was moved to another network namespace is not mirrored there, where the destination's index
// is somebody else's, and is mirrored again when it is back.
func TestNetnsMovedDevice(t *testing.T) {
	l := newLab(t, "")
	l.source(local("a", tap.Out, tap.Options{}))
	other := nettest.NewNS(t)
	other.Quiet()
	port, tool := l.host.Link("p0"), l.host.Link("t0")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "victim", tool.Attrs().Index
	snoops := false // a bridge that snoops joins a group, and reports that by a frame of its own at a time of its own
	if err := other.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoops}); err != nil {
		t.Fatal(err)
	}
	other.Up("victim")
	if err := l.host.Netlink().LinkSetNsFd(port, other.Handle()); err != nil {
		t.Fatal(err)
	}
	other.Up("p0")
	other.Ready("p0")
	l.owner.Ready("p1")
	s := nettest.NewSender(t, l.owner, "p1")
	e := listen(t, other, "victim")
	frame := nettest.Packet{}.Bytes()
	s.Send(frame)
	if n := e.silence(); n != 0 {
		t.Errorf("%d copies at a device of another network namespace", n)
	}
	if _, err := l.trySource(local("a", tap.Out, tap.Options{})); err == nil {
		t.Error("a tap of a device that is elsewhere is fine")
	}
	if err := other.Netlink().LinkSetNsFd(other.Link("p0"), l.host.Handle()); err != nil {
		t.Fatal(err)
	}
	l.host.Up("p0")
	l.host.Ready("p0")
	l.owner.Ready("p1")
	l.source(local("a", tap.Out, tap.Options{}))
	tool1 := listen(t, l.tool, "t1")
	s.Send(frame)
	if n := len(tool1.hear(1)); n != 1 {
		t.Errorf("back again: %d copies", n)
	}
}

// TestNetnsMadeDevice: a tap device made on request is heard by whoever listens on it, and by a tool that opens it; the host takes nothing
// from it, and it goes with its sink.
func TestNetnsMadeDevice(t *testing.T) {
	l := newLab(t, "")
	l.underlay(1700)
	l.sink(tap.Sink{ID: "s", Device: tap.Device{Name: "mon0"}, Make: true, Encap: tap.VXLAN, TunnelID: tunnelID, From: listOf("198.51.100.2")})
	at := local("a", tap.Out, tap.Options{})
	at.To.Device.Name = "mon0"
	l.source(at)
	e := listen(t, l.host, "mon0")
	s := nettest.NewSender(t, l.owner, "p1")
	frame := nettest.ARP([6]byte{2, 0, 0, 0, 0, 9}, addr("198.51.100.9"), addr("198.51.100.1")) // the host would answer
	s.Send(frame)
	if got := e.hear(1); len(got) != 1 || e.silence() != 0 {
		t.Fatalf("heard %d frames, and then something more", len(got))
	}
	l.host.Do(func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		req, _ := unix.NewIfreq("mon0")
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			t.Error(err)
			return
		}
		await.Until(t, "a copy at a tool that has the device open", func() bool {
			buf := make([]byte, 2000)
			n, err := unix.Read(fd, buf)
			if err != nil {
				s.Send(frame)
			}
			return n == len(frame)
		})
	})
	l.host.Do(func() {
		if _, err := l.d.Prune(t.Context(), func(id string) bool { return false }); err != nil {
			t.Error(err)
		}
	})
	if _, err := l.host.Netlink().LinkByName("mon0"); err == nil {
		t.Error("the device outlives its sink")
	}
}
