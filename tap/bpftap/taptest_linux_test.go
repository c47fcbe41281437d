package bpftap

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/tap"
	"opentap/tap/taptest"
)

// TestNetnsDriver: the suite of all drivers, at both hooks.
func TestNetnsDriver(t *testing.T) {
	for _, hook := range hooks {
		t.Run(string(hook), func(t *testing.T) {
			taptest.Driver(t, func(t *testing.T) *taptest.Lab { return suiteLab(t, hook) })
		})
	}
}

func suiteLab(t *testing.T, hook Hook) *taptest.Lab {
	l := newLab(t, hook)
	l.host.Do(func() {
		if err := l.d.Close(); err != nil {
			t.Error(err)
		}
	})
	l.d = nil
	ear := nettest.NewEar(t, l.tool, "t1")
	return &taptest.Lab{
		Open: func() tap.Driver { return l.open(hook) },
		Do:   l.host.Do, Source: "p0", Tool: "t0",
		Send:   func(frames ...[]byte) { nettest.NewSender(t, l.owner, "p1").Send(frames...) }, // the device may be another one each time
		Hear:   func() [][]byte { return ear.All(200 * time.Millisecond) },
		Far:    taptest.NewFar(t, l.host),
		Vanish: func() { l.host.Delete("p0") },
		Return: func() { nettest.Veth(t, l.host, "p0", l.owner, "p1") },
		Strange: func() func() bool {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			at := l.host.Link("p0")
			if hook == Clsact {
				nl := l.host.Netlink()
				qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: at.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
				f := &netlink.BpfFilter{
					FilterAttrs: netlink.FilterAttrs{LinkIndex: at.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
					Fd:          p.FD(), Name: "stranger", DirectAction: true,
				}
				if err := errors.Join(nl.QdiscAdd(qdisc), nl.FilterAdd(f)); err != nil {
					t.Fatal(err)
				}
				return func() bool {
					fs, err := nl.FilterList(at, netlink.HANDLE_MIN_INGRESS)
					return err == nil && len(fs) == 1 && fs[0].(*netlink.BpfFilter).Name == "stranger"
				}
			}
			var k link.Link
			l.host.Do(func() {
				k, err = link.AttachTCX(link.TCXOptions{Interface: at.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { k.Close() })
			return func() bool {
				return linkedTo(k) == at.Attrs().Index
			}
		},
	}
}
