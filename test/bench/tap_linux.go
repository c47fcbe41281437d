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

// tapPath is a way of frames from one port to another, with a driver of taps beside it.
type tapPath struct {
	*bench
	*lab
	d      *bpftap.Driver
	root   string        // of its BPF file system
	beside *process      // that forwards; nil = the kernel does
	sent   time.Duration // that the thread has run to send, with all that the kernel does meanwhile
}

// newTapPath makes one. Where that is not possible it says so, and returns nil.
func (b *bench) newTapPath(name string, lay func() error) (*tapPath, error) {
	l, err := newLab()
	if errors.Is(err, errNotPermitted) {
		b.note("taps: %v", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &tapPath{bench: b, lab: l, root: filepath.Join(b.dir, "bpf-"+name)}
	if err := os.Mkdir(p.root, 0o700); err != nil {
		l.close()
		return nil, err
	}
	if err := unix.Mount("bpf", p.root, "bpf", 0, ""); err != nil {
		b.note("taps: a BPF file system cannot be mounted: %v", err)
		l.close()
		return nil, nil
	}
	err = l.do(func() error {
		if err := errors.Join(layPorts(), lay(), l.setMix(nettest.Mix64)); err != nil {
			return err
		}
		var err error
		p.d, err = bpftap.Open(bpftap.Config{PinRoot: p.root})
		return err
	})
	if errors.Is(err, tap.ErrUnsupported) {
		b.note("taps: %v", err)
		return nil, p.close()
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *tapPath) close() error {
	err := p.do(func() error {
		if p.d == nil {
			return nil
		}
		_, err := p.d.Prune(context.Background(), func(string) bool { return false })
		return errors.Join(err, p.d.Close())
	})
	p.lab.close()
	return errors.Join(err, unix.Unmount(p.root, 0))
}

// measure runs the cases in turns.
func (p *tapPath) measure(ctx context.Context, cases []*tapCase, rounds int, count uint64) error {
	for round := range rounds {
		for _, c := range cases {
			if ctx.Err() != nil || round > 0 && p.late(0.9) {
				break
			}
			err := errLost
			for tries := 0; errors.Is(err, errLost) && tries < 5; tries++ { // a busy machine's queues overflow at times
				err = p.do(func() error { return p.run(ctx, c, count) })
			}
			if errors.Is(err, errLost) && round+1 < rounds {
				p.logf("%s: %v", c.name, err)
			} else if err != nil && (!errors.Is(err, errLost) || len(c.values.values) == 0) {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// taps measures what mirroring costs the path of the original: frames from the wire over a bridge to another port, all on
// one processor, with nothing, with taps, and with what the kernel has for it; and the same over Open vSwitch.
func (b *bench) taps(ctx context.Context) (err error) {
	if err := b.vswitchTaps(ctx); err != nil { // first, as it takes the least time
		return err
	}
	p, err := b.newTapPath("bridge", layBridge)
	if p == nil || err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	cases := b.tapCases(p.d)
	rounds, count := 15, uint64(100_000)
	if b.quick {
		rounds, count = 2, 200_000
	}
	if err := p.measure(ctx, cases, rounds, count); err != nil {
		return err
	}
	b.tapRows(cases, []tapTask{
		{"port with a tap that matches nothing", []string{"opentap 1 tap, no match", "no tap", "empty eBPF program"}},
		{"port with 10 taps that match nothing", []string{"opentap 10 taps, no match", "no tap"}},
		{"port mirrored to a local device", []string{"opentap 1 tap", "nft dup", "tc mirred", "no tap"}},
		{"port mirrored, with a filter", []string{"opentap 1 tap, filter", "nft dup, filter"}},
		{"port mirrored 10 times", []string{"opentap 10 taps", "tc mirred 10 times", "no tap"}},
		{"port mirrored to another host", []string{"opentap VXLAN", "opentap 1 tap", "no tap"}},
	})
	return nil
}

// tapTask is a row of the table: ours first, then what it is beside.
type tapTask struct {
	task  string
	names []string
}

func (b *bench) tapRows(cases []*tapCase, tasks []tapTask) {
	by := make(map[string]*series)
	for _, c := range cases {
		c.values.tool = c.name
		by[c.name] = c.values
	}
	for _, r := range tasks {
		line := row{task: r.task, unit: "ns/packet", better: lower}
		for _, n := range r.names {
			if s := by[n]; s != nil && len(s.values) > 0 {
				line.series = append(line.series, s)
			}
		}
		b.rows = append(b.rows, line)
	}
}

// layPorts makes ports and a way to another host, in the namespace of the thread.
func layPorts() error {
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
	under, err := netlink.LinkByName(underName)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr("198.51.100.1/24")
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(under, addr), netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: under.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: net.ParseIP(tunnelTo),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 9, 9},
	}))
}

// layBridge puts a bridge between the ports.
func layBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "path0"
	snoop := false
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
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
	return netlink.LinkSetUp(bridge)
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

// ownTime is for how long the calling thread has run.
func ownTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// softirqTime is for how long the kernel's own thread of a CPU for packets has run.
func softirqTime(cpu int) (time.Duration, error) {
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
			return time.Duration(ns), nil
		}
	}
	return 0, fmt.Errorf("there is no ksoftirqd/%d to ask for its time", cpu)
}

// spent is the time that frames have cost so far, whatever else the machine does.
func (p *tapPath) spent() (time.Duration, error) {
	spent, err := softirqTime(0)
	spent += p.sent
	if p.beside != nil {
		spent += p.beside.cpu()
	}
	return spent, err
}

// send has frames come in at the port. A program that forwards them reads a socket that holds few: it gets no more before these have passed.
func (p *tapPath) send(ctx context.Context, count uint64) error {
	const few = 32
	if p.beside == nil {
		return p.generate(ctx, count)
	}
	for n := uint64(0); n < count && ctx.Err() == nil; n += few {
		passed := received(outName + "p")
		if err := p.generate(ctx, few); err != nil {
			return err
		}
		for deadline := time.Now().Add(200 * time.Millisecond); received(outName+"p") < passed+few && time.Now().Before(deadline); {
			time.Sleep(100 * time.Microsecond)
		}
	}
	return nil
}

func (p *tapPath) generate(ctx context.Context, count uint64) error {
	began, err := ownTime()
	if err != nil {
		return err
	}
	if err := p.gen.Run(ctx, count, 0); err != nil {
		return err
	}
	ended, err := ownTime()
	p.sent += ended - began
	return err
}

// received is how many frames a device has got.
func received(name string) uint64 {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return 0
	}
	return dev.Attrs().Statistics.RxPackets
}

// run has frames pass with one thing at the port. It runs on the lab's thread.
func (p *tapPath) run(ctx context.Context, c *tapCase, count uint64) (err error) {
	if err := c.make(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.unmake()) }()
	if err := p.send(ctx, count/5); err != nil { // caches
		return err
	}
	out, tool := received(outName+"p"), received(toolName+"p")
	made, err := p.gen.Made()
	if err != nil {
		return err
	}
	began, err := p.spent()
	if err != nil {
		return err
	}
	if err := p.send(ctx, count); err != nil {
		return err
	}
	ended, err := p.spent()
	if err != nil {
		return err
	}
	took := ended - began
	after, err := p.gen.Made()
	if err != nil {
		return err
	}
	sent := float64(after - made)
	if passed := float64(received(outName+"p") - out); passed < 0.99*sent {
		return fmt.Errorf("of %.0f frames %.0f passed: %w", sent, passed, errLost)
	}
	if copied := float64(received(toolName+"p") - tool); copied < 0.99*c.copies*sent || copied > 1.01*c.copies*sent {
		return fmt.Errorf("of %.0f frames there are %.0f copies, want %.0f of each: %w", sent, copied, c.copies, errLost)
	}
	c.values.add(float64(took.Nanoseconds()) / sent)
	p.logf("%s: %.0f ns/packet", c.name, float64(took.Nanoseconds())/sent)
	return nil
}
