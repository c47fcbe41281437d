package bpftap

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/tap"
)

// lab is a host with a port (p0, whose owner is at p1 in another namespace), a tool's port (t0, the tool at t1) and an underlay
// (u0, the other host's u1), and a driver on it.
type lab struct {
	t                       testing.TB
	host, owner, tool, peer *nettest.NS
	root, instance          string
	d                       *Driver
}

// bpffs mounts a BPF file system of the test's own.
func bpffs(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("bpf", root, "bpf", 0, ""); err != nil {
		if errors.Is(err, os.ErrPermission) {
			t.Skip("needs CAP_SYS_ADMIN (mount of a BPF file system)")
		}
		t.Fatalf("mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return root
}

func newLab(t testing.TB, hook Hook) *lab {
	t.Helper()
	l := &lab{t: t, host: nettest.NewNS(t), owner: nettest.NewNS(t), tool: nettest.NewNS(t), peer: nettest.NewNS(t), root: bpffs(t)}
	nettest.Veth(t, l.host, "p0", l.owner, "p1")
	nettest.Veth(t, l.host, "t0", l.tool, "t1")
	nettest.Veth(t, l.host, "u0", l.peer, "u1")
	l.d = l.open(hook)
	t.Cleanup(func() {
		if l.d == nil {
			return
		}
		l.host.Do(func() {
			if _, err := l.d.Prune(context.Background(), func(string) bool { return false }); err != nil {
				t.Errorf("prune at the end: %v", err)
			}
			if err := l.d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		if _, err := l.host.Netlink().LinkByName(muxIn); err == nil {
			t.Errorf("%s is left", muxIn)
		}
	})
	return l
}

func (l *lab) open(hook Hook) *Driver {
	l.t.Helper()
	var d *Driver
	var err error
	l.host.Do(func() {
		d, err = Open(Config{PinRoot: l.root, Instance: l.instance, Hook: hook, Log: slog.New(slog.NewTextHandler(testWriter{l.t}, nil))})
	})
	if errors.Is(err, tap.ErrUnsupported) {
		l.t.Skip(err)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// source makes a source real and returns its note.
func (l *lab) source(s tap.Source) string {
	l.t.Helper()
	note, err := l.trySource(s)
	if err != nil {
		l.t.Fatal(err)
	}
	return note
}

func (l *lab) trySource(s tap.Source) (note string, err error) {
	l.host.Do(func() { note, err = l.d.UpdateSource(context.Background(), s) })
	return note, err
}

func (l *lab) sink(s tap.Sink) string {
	l.t.Helper()
	var note string
	var err error
	l.host.Do(func() { note, err = l.d.UpdateSink(context.Background(), s) })
	if err != nil {
		l.t.Fatal(err)
	}
	return note
}

func (l *lab) counts(id string) tap.Counts {
	l.t.Helper()
	c, err := l.d.Counts(id)
	if err != nil {
		l.t.Fatal(err)
	}
	sum := c.Mirrored + c.NotMatched + c.SampledOut + c.RateLimited + c.TooLong
	for _, n := range c.Errors {
		sum += n
	}
	if c.Seen != sum {
		l.t.Fatalf("counts of %s do not add up: %+v", id, c)
	}
	return c
}

// address gives a device an address.
func address(t testing.TB, ns *nettest.NS, dev, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if a.IP.To4() == nil {
		ns.Do(func() { err = os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/disable_ipv6", []byte("0"), 0) })
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
	}
	if err := ns.Netlink().AddrAdd(ns.Link(dev), a); err != nil {
		t.Fatalf("address %s of %s: %v", cidr, dev, err)
	}
}

// ear is a packet socket on a device.
type ear struct {
	t  testing.TB
	fd int
}

// listen opens an ear.
func listen(t testing.TB, ns *nettest.NS, dev string) *ear {
	t.Helper()
	index := ns.Link(dev).Attrs().Index
	e := &ear{t: t}
	var err error
	ns.Do(func() {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return
		}
		// The tag that the kernel keeps beside the frame is told in a control message.
		if err = unix.SetsockoptInt(e.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return
		}
		_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		if err = unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
			return
		}
		err = unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	})
	if err != nil {
		t.Fatalf("listen on %s: %v", dev, err)
	}
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hear returns the next n frames, as they were on the wire; fewer when none comes for a while.
func (e *ear) hear(n int) [][]byte {
	e.t.Helper()
	var out [][]byte
	buf, oob := make([]byte, 1<<17), make([]byte, 256)
	deadline := time.Now().Add(10 * time.Second)
	for len(out) < n {
		size, k, _, _, err := unix.Recvmsg(e.fd, buf, oob, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			if time.Now().After(deadline) || len(out) > 0 {
				break
			}
			continue
		}
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, retag(append([]byte(nil), buf[:size]...), oob[:k]))
	}
	return out
}

// silence reports what is heard in a moment in which nothing should be.
func (e *ear) silence() int {
	e.t.Helper()
	buf := make([]byte, 1<<16)
	for n := 0; ; {
		_, _, err := unix.Recvfrom(e.fd, buf, 0)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.EAGAIN):
			return n
		case !errors.Is(err, unix.EINTR):
			e.t.Fatal(err)
		}
	}
}

// retag puts the tag of struct tpacket_auxdata (linux include/uapi/linux/if_packet.h) back into the frame.
func retag(f, oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return f
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 || m.Data[0]&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		tag := []byte{m.Data[19], m.Data[18], m.Data[17], m.Data[16]}
		if m.Data[0]&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
			tag[0], tag[1] = 0x81, 0
		}
		return append(append(append([]byte(nil), f[:12]...), tag...), f[12:]...)
	}
	return f
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
