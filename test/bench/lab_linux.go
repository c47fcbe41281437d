package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/internal/nettest"
)

// Ends of the cable: frames put on txName arrive at rxName.
const (
	txName = "gen0"
	rxName = "gen1"
)

// lab is a network namespace with a cable, a generator at one end and the tools at the other. It has no name: it is
// gone with the thread that serves it. All but the constructor and close run on that thread.
type lab struct {
	work  chan func()
	ended chan struct{}

	sink *nettest.Sink
	gen  *nettest.Generator
	mix  nettest.Mix
	rx   int // interface index

	limit time.Duration // of sending in one run, whatever the machine manages
}

var errNotPermitted = errors.New("needs root (network namespace, packet sockets, eBPF)")

func newLab() (*lab, error) {
	l := &lab{work: make(chan func()), ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for fn := range l.work {
			fn()
		}
	}()
	err := l.do(l.build)
	if err != nil {
		l.close()
	}
	return l, err
}

// do runs fn on the lab's thread.
func (l *lab) do(fn func() error) error {
	result := make(chan error)
	l.work <- func() { result <- fn() }
	return <-result
}

func (l *lab) close() {
	l.do(func() error {
		if l.gen != nil {
			l.gen.Close()
		}
		if l.sink != nil {
			l.sink.Close()
		}
		return nil
	})
	close(l.work)
	<-l.ended
}

func (l *lab) build() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return errNotPermitted
		}
		return fmt.Errorf("make network namespace: %w", err)
	}
	// Generator and tools alike go before what else the machine does: a generator that waits for its CPU proves nothing.
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -5); err != nil {
		return fmt.Errorf("raise priority: %w", err)
	}
	// No packets of the kernel's own (neighbour discovery); the file stands for the namespace of this thread.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("turn IPv6 off: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = txName
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: rxName}); err != nil {
		return fmt.Errorf("lay veth: %w", err)
	}
	for _, name := range []string{txName, rxName} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(rxName)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			l.rx = link.Attrs().Index
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no carrier", rxName)
		}
	}
	return l.servePort()
}

// setMix loads the generator for a mix.
func (l *lab) setMix(mix nettest.Mix) error {
	if l.gen != nil {
		l.gen.Close()
		l.gen = nil
	}
	var err error
	l.gen, err = nettest.NewGenerator(nettest.GeneratorConfig{Interface: txName, Mix: mix, CPU: 0})
	l.mix = mix
	return err
}

// warmed is more than any tool takes besides its ring.
const warmed = 256 << 20

// warmMemory takes so many octets and gives them back. The host of a virtual machine takes back what is free, and gives it
// again, slowly, to the first that touches it: that would be who happens to come after a pause, and has nothing to do with
// recording.
func warmMemory(n int) error {
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("take %d octets of memory: %w", n, err)
	}
	unix.Madvise(m, unix.MADV_HUGEPAGE) // advice
	for i := 0; i < len(m); i += 4096 {
		m[i] = 1
	}
	return unix.Munmap(m)
}

// pin puts the calling thread, and what it starts, on a CPU.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPU %d: %w", cpu, err)
	}
	return nil
}

// portReady waits until ours says that it has taken the port over, sockets and all, which nobody else can see.
func portReady(ctx context.Context, p *process, out string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(out, readyFile)); err == nil {
			return nil
		}
		if !p.alive() {
			_, err := p.wait()
			return fmt.Errorf("ended before it captured: %w", err)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not take the port over after 10 s", p.name)
		}
	}
}

// delivered is how many frames came to the port: what the sink passed on, or if a tool has the port for itself what the device
// counts, which for a veth is what met the program.
func (l *lab) delivered() (uint64, error) {
	if l.sink != nil {
		return l.sink.Delivered()
	}
	link, err := netlink.LinkByName(rxName)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Statistics.RxPackets, nil
}

// freePort takes the sink away, until servePort.
func (l *lab) freePort() error {
	s := l.sink
	l.sink = nil
	return s.Close()
}

func (l *lab) servePort() (err error) {
	l.sink, err = nettest.NewSink(rxName)
	return err
}

// ringReady waits until a tool captures on the cable: a packet socket bound to it for all protocols (packet(7),
// /proc/net/packet).
func (l *lab) ringReady(ctx context.Context, p *process) error {
	want := fmt.Sprint(l.rx)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile("/proc/thread-self/net/packet")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			// sk RefCnt Type Proto Iface R Rmem User Inode
			if f := strings.Fields(line); len(f) == 9 && f[3] == "0003" && f[4] == want && f[5] == "1" {
				time.Sleep(150 * time.Millisecond) // some tools set up more after binding
				return nil
			}
		}
		if !p.alive() {
			_, err := p.wait()
			return fmt.Errorf("ended before it captured: %w", err)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not capture after 10 s", p.name)
		}
	}
}

// trial is what came of one capture.
type trial struct {
	sent   uint64
	stored uint64 // counted in the file, not what the tool says
	kpps   float64
	use    usage
}

// run has a tool capture count frames at a rate (0 = as fast as it goes). The tool's files are left to be counted.
func (l *lab) run(ctx context.Context, t *tool, out string, count, rate uint64) (tr trial, p *process, err error) {
	err = l.do(func() (err error) {
		if err := pin(1); err != nil {
			return err
		}
		ready := l.ringReady
		if t.xdp {
			if err := l.freePort(); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.servePort()) }()
			ready = func(ctx context.Context, p *process) error { return portReady(ctx, p, out) }
		}
		if err := warmMemory(warmed); err != nil {
			return err
		}
		name, args := t.command(out)
		if p, err = start(ctx, name, args...); err != nil {
			return err
		}
		if err := ready(ctx, p); err != nil {
			p.cmd.Process.Kill()
			return err
		}
		before, err := l.delivered()
		if err != nil {
			return err
		}
		p.ready()
		began := time.Now()
		sending, cancel := context.WithTimeout(ctx, l.limit)
		err = l.gen.Run(sending, count, rate)
		cancel()
		if err != nil {
			return err
		}
		took := time.Since(began)
		after, err := l.delivered()
		if err != nil {
			return err
		}
		tr.sent = after - before
		tr.kpps = float64(tr.sent) / took.Seconds() / 1e3
		p.rest(ctx, t.quiet)
		tr.use, err = p.finish()
		return err
	})
	return tr, p, err
}
