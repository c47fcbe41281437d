package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
	"opentap/tap"
	"opentap/tap/bpftap"
)

// Devices of the part about taps, beside the cable: frames that arrive at rxName leave a bridge at out0, copies go to tool0, and
// tunnels to under0.
const (
	outName, toolName, underName = "out0", "tool0", "under0"
	tunnelTo                     = "198.51.100.2"
)

// errLost says that a run proves nothing, as frames or copies were lost in it.
var errLost = errors.New("some were lost")

// tapCase is one thing that may be at the port while frames pass.
type tapCase struct {
	name   string
	make   func() error
	unmake func() error
	copies float64 // of each frame that the tool must have got
	values *series
}

// taps measures what mirroring costs the path of the original: frames from the wire over a bridge to another port, all on
// one processor, with nothing, with taps, and with what the kernel has for it.
func (b *bench) taps(ctx context.Context) error {
	l, err := newLab()
	if errors.Is(err, errNotPermitted) {
		b.note("taps: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer l.close()
	root := filepath.Join(b.dir, "bpf")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", root, "bpf", 0, ""); err != nil {
		b.note("taps: a BPF file system cannot be mounted: %v", err)
		return nil
	}
	defer unix.Unmount(root, 0)
	var d *bpftap.Driver
	err = l.do(func() error {
		if err := layPath(); err != nil {
			return err
		}
		if err := l.setMix(nettest.Mix64); err != nil {
			return err
		}
		var err error
		d, err = bpftap.Open(bpftap.Config{PinRoot: root})
		return err
	})
	if errors.Is(err, tap.ErrUnsupported) {
		b.note("taps: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer l.do(func() error {
		_, err := d.Prune(context.Background(), func(string) bool { return false })
		return errors.Join(err, d.Close())
	})

	cases := b.tapCases(d)
	rounds, count := 15, uint64(100_000)
	if b.quick {
		rounds, count = 2, 200_000
	}
	for round := range rounds {
		for _, c := range cases {
			if ctx.Err() != nil || round > 0 && b.late(0.9) {
				break
			}
			err := errLost
			for tries := 0; errors.Is(err, errLost) && tries < 5; tries++ { // a busy machine's queues overflow at times
				err = l.do(func() error { return b.tapRun(ctx, l, c, count) })
			}
			if errors.Is(err, errLost) && round+1 < rounds {
				b.logf("%s: %v", c.name, err)
			} else if err != nil && (!errors.Is(err, errLost) || len(c.values.values) == 0) {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	by := make(map[string]*series)
	for _, c := range cases {
		c.values.tool = c.name
		by[c.name] = c.values
	}
	for _, r := range []struct {
		task  string
		names []string
	}{
		{"port with a tap that matches nothing", []string{"opentap 1 tap, no match", "no tap", "empty eBPF program"}},
		{"port with 10 taps that match nothing", []string{"opentap 10 taps, no match", "no tap"}},
		{"port mirrored to a local device", []string{"opentap 1 tap", "nft dup", "tc mirred", "no tap"}},
		{"port mirrored, with a filter", []string{"opentap 1 tap, filter", "nft dup, filter"}},
		{"port mirrored 10 times", []string{"opentap 10 taps", "tc mirred 10 times", "no tap"}},
		{"port mirrored to another host", []string{"opentap VXLAN", "opentap 1 tap", "no tap"}},
	} {
		line := row{task: r.task, unit: "ns/packet", better: lower}
		for _, n := range r.names {
			if s := by[n]; s != nil && len(s.values) > 0 {
				line.series = append(line.series, s)
			}
		}
		b.rows = append(b.rows, line)
	}
	return nil
}

// layPath makes bridge, ports and a way to another host, in the namespace of the thread.
func layPath() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "path0"
	snoop := false
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	for _, name := range []string{outName, toolName, underName} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, 2000
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p", PeerMTU: 2000}); err != nil {
			return fmt.Errorf("lay %s: %w", name, err)
		}
		for _, n := range []string{name, name + "p"} {
			dev, err := netlink.LinkByName(n)
			if err == nil {
				err = netlink.LinkSetUp(dev)
			}
			if err != nil {
				return err
			}
		}
	}
	bridge, err := netlink.LinkByName("path0")
	if err != nil {
		return err
	}
	for _, name := range []string{rxName, outName} {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		// The generator sends from both ends' addresses: nothing is to be learnt from that.
		if err := errors.Join(netlink.LinkSetMaster(dev, bridge), netlink.LinkSetLearning(dev, false)); err != nil {
			return err
		}
	}
	under, err := netlink.LinkByName(underName)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("198.51.100.1/24")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(bridge), netlink.AddrAdd(under, addr), netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: under.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: net.ParseIP(tunnelTo),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 9, 9},
	}))
}

// tapCases are the things to compare.
func (b *bench) tapCases(d *bpftap.Driver) []*tapCase {
	taps := func(name string, n int, copies float64, to tap.Target, o tap.Options) *tapCase {
		return &tapCase{name: name, copies: copies, values: &series{}, make: func() error {
			for i := range n {
				s := tap.Source{ID: fmt.Sprint("t", i), Device: tap.Device{Name: rxName}, Direction: tap.Out, Options: o, To: to}
				if _, err := d.UpdateSource(context.Background(), s); err != nil {
					return err
				}
			}
			return nil
		}, unmake: func() error {
			_, err := d.Prune(context.Background(), func(string) bool { return false })
			return err
		}}
	}
	local := tap.Target{Device: tap.Device{Name: toolName}}
	nothing := func() error { return nil }
	cases := []*tapCase{
		{name: "no tap", make: nothing, unmake: nothing, values: &series{}},
		taps("opentap 1 tap, no match", 1, 0, local, tap.Options{Filter: "tcp port 443"}),
		taps("opentap 10 taps, no match", 10, 0, local, tap.Options{Filter: "tcp port 443"}),
		taps("opentap 1 tap", 1, 1, local, tap.Options{}),
		taps("opentap 1 tap, filter", 1, 1, local, tap.Options{Filter: "udp"}),
		taps("opentap 10 taps", 10, 10, local, tap.Options{}),
		taps("opentap VXLAN", 1, 0, tap.Target{Remote: netip.MustParseAddr(tunnelTo), Encap: tap.VXLAN, TunnelID: 1}, tap.Options{}),
	}
	mirred := func(name string, n int) *tapCase {
		return &tapCase{name: name, copies: float64(n), values: &series{}, make: func() error { return addMirred(n) }, unmake: removeMirred}
	}
	cases = append(cases, mirred("tc mirred", 1), mirred("tc mirred 10 times", 10), emptyProgram())
	if b.has("nft") {
		nft := func(name, match string) *tapCase {
			return &tapCase{name: name, copies: 1, values: &series{}, make: func() error {
				return script("nft", "-f", "-", "add table netdev bench\nadd chain netdev bench c { type filter hook ingress device "+rxName+" priority 0; }\nadd rule netdev bench c "+match+" dup to "+toolName+"\n")
			}, unmake: func() error { return script("nft", "-f", "-", "delete table netdev bench\n") }}
		}
		cases = append(cases, nft("nft dup", ""), nft("nft dup, filter", "meta l4proto udp"))
	}
	return cases
}

// emptyProgram is a program at the hook that does nothing: what being asked costs.
func emptyProgram() *tapCase {
	c := &tapCase{name: "empty eBPF program", values: &series{}}
	var l link.Link
	c.make = func() error {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
		if err != nil {
			return err
		}
		defer p.Close()
		rx, err := netlink.LinkByName(rxName)
		if err != nil {
			return err
		}
		l, err = link.AttachTCX(link.TCXOptions{Interface: rx.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
		return err
	}
	c.unmake = func() error { return l.Close() }
	return c
}

// script gives a program its input.
func script(name string, args ...string) error {
	cmd := exec.Command(name, args[:len(args)-1]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() {
		_, _ = in.Write([]byte(args[len(args)-1])) // the program says what it lacks
		_ = in.Close()
	}()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func clsactOf() (netlink.Link, *netlink.Clsact, error) {
	dev, err := netlink.LinkByName(rxName)
	if err != nil {
		return nil, nil, err
	}
	return dev, &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}, nil
}

// addMirred mirrors by tc, with a filter that matches all.
func addMirred(n int) error {
	dev, qdisc, err := clsactOf()
	if err != nil {
		return err
	}
	tool, err := netlink.LinkByName(toolName)
	if err != nil {
		return err
	}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	var actions []netlink.Action
	for range n {
		m := netlink.NewMirredAction(tool.Attrs().Index)
		m.MirredAction = netlink.TCA_EGRESS_MIRROR
		m.ActionAttrs.Action = netlink.TC_ACT_PIPE
		actions = append(actions, m)
	}
	f := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     actions,
	}
	if err := netlink.FilterAdd(f); err != nil {
		return fmt.Errorf("add a filter that mirrors: %w", err)
	}
	return nil
}

func removeMirred() error {
	_, qdisc, err := clsactOf()
	if err != nil {
		return err
	}
	return netlink.QdiscDel(qdisc)
}

// spentOn is the time for which the calling thread has run, and the kernel's own thread of this CPU for packets: what frames cost there,
// whatever else the machine does.
func spentOn(cpu int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	spent := time.Duration(ts.Nano())
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if b, _ := os.ReadFile(name); string(b) == fmt.Sprintf("ksoftirqd/%d\n", cpu) {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(name), "schedstat"))
			if err != nil {
				return 0, err
			}
			var ns int64
			if _, err := fmt.Sscan(string(b), &ns); err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			return spent + time.Duration(ns), nil
		}
	}
	return 0, fmt.Errorf("there is no ksoftirqd/%d to ask for its time", cpu)
}

// tapRun has frames pass with one thing at the port. It runs on the lab's thread.
func (b *bench) tapRun(ctx context.Context, l *lab, c *tapCase, count uint64) (err error) {
	if err := c.make(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.unmake()) }()
	got := func(name string) uint64 {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return 0
		}
		return dev.Attrs().Statistics.RxPackets
	}
	if err := l.gen.Run(ctx, 20_000, 0); err != nil { // caches
		return err
	}
	out, tool := got(outName+"p"), got(toolName+"p")
	made, err := l.gen.Made()
	if err != nil {
		return err
	}
	began, err := spentOn(0)
	if err != nil {
		return err
	}
	if err := l.gen.Run(ctx, count, 0); err != nil {
		return err
	}
	ended, err := spentOn(0)
	if err != nil {
		return err
	}
	took := ended - began
	after, err := l.gen.Made()
	if err != nil {
		return err
	}
	sent := float64(after - made)
	if passed := float64(got(outName+"p") - out); passed < 0.99*sent {
		return fmt.Errorf("of %.0f frames %.0f passed: %w", sent, passed, errLost)
	}
	if copied := float64(got(toolName+"p") - tool); copied < 0.99*c.copies*sent || copied > 1.01*c.copies*sent {
		return fmt.Errorf("of %.0f frames there are %.0f copies, want %.0f of each: %w", sent, copied, c.copies, errLost)
	}
	c.values.add(float64(took.Nanoseconds()) / sent)
	b.logf("%s: %.0f ns/packet", c.name, float64(took.Nanoseconds())/sent)
	return nil
}
