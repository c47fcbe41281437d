package bpftap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// muxMTU is the most a veth takes: copies are as long as they are.
const muxMTU = 65535

// makeMux makes the pair of devices through which copies are segmented, and attaches the program that cuts and encapsulates
// them. What is there is kept, and its program renewed once in the life of a Driver.
func (d *Driver) makeMux() error {
	if d.muxReady && d.muxStands() {
		return nil
	}
	out, err := d.muxPair()
	if err != nil {
		return err
	}
	spec, err := loadMux()
	if err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		muxMapMuxConfigs: d.shared[muxMapMuxConfigs], muxMapMuxStats: d.shared[muxMapMuxStats],
	}})
	if err != nil {
		return fmt.Errorf("load the multiplexer's program: %w", err)
	}
	defer c.Close()
	if err := d.hook.attach(d.muxPath(), c.Programs[muxProgMux], out.Attrs().Index, true); err != nil {
		return fmt.Errorf("attach the multiplexer's program: %w", err)
	}
	if err := d.ownQueue(out); err != nil {
		// Copies then share the host's backlog (net.core.netdev_max_backlog) with everything else.
		d.log.Warn("copies have no queue of their own", "device", d.muxOut, "err", err)
	}
	d.muxReady = true
	return nil
}

// ownQueue has the multiplexer's receiving end poll a ring of its own (NAPI), which a veth does while it has an XDP program
// (linux drivers/net/veth.c). Otherwise a burst of copies fills the processor's backlog, and packets that are none are dropped.
func (d *Driver) ownQueue(out netlink.Link) error {
	path := filepath.Join(d.dir, "queue")
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		defer l.Close()
		if info, err := l.Info(); err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == out.Attrs().Index {
			return nil
		}
		if err := release(l); err != nil {
			return err
		}
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "opentap_pass", Type: ebpf.XDP, Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		return fmt.Errorf("load a program that passes all: %w", err)
	}
	defer p.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: out.Attrs().Index, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("attach a program that passes all: %w", err)
	}
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return err
	}
	return offloadsOff(d.muxOut) // attaching turns receive offload on, which would join segments
}

func (d *Driver) muxPath() string { return filepath.Join(d.dir, "mux") }

// muxStands reports whether the multiplexer is there, up, and has its program.
func (d *Driver) muxStands() bool {
	if !d.muxReady {
		return false
	}
	in, err := d.nl.LinkByName(d.muxIn)
	if err != nil || in.Attrs().RawFlags&unix.IFF_UP == 0 {
		return false
	}
	out, err := d.nl.LinkByName(d.muxOut)
	return err == nil && out.Attrs().RawFlags&unix.IFF_UP != 0 && d.hook.at(d.muxPath()) == out.Attrs().Index
}

// muxPair makes the pair, or makes it again as it must be.
func (d *Driver) muxPair() (out netlink.Link, err error) {
	ours, err := d.findMux()
	if err != nil {
		return nil, err
	}
	d.muxIn, d.muxOut = muxIn, muxOut
	if ours != nil {
		d.muxIn = ours.Attrs().Name
		d.muxOut = strings.TrimSuffix(d.muxIn, "0") + "1"
	} else if _, err := d.device(muxIn); err == nil { // somebody else's
		sum := sha256.Sum256([]byte(d.name))
		d.muxIn, d.muxOut = fmt.Sprintf("tapmux%x-0", sum[:3]), fmt.Sprintf("tapmux%x-1", sum[:3])
	}
	in, err := d.device(d.muxIn)
	if errors.Is(err, tap.ErrNoDevice) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.TxQLen = d.muxIn, muxMTU, 0
		if err := d.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: d.muxOut, PeerMTU: muxMTU}); err != nil {
			return nil, fmt.Errorf("%w: make the pair %s, %s: %w", tap.ErrUnsupported, d.muxIn, d.muxOut, err)
		}
		for _, name := range []string{d.muxIn, d.muxOut} {
			l, err := d.nl.LinkByName(name)
			if err != nil {
				return nil, err
			}
			if err := d.nl.LinkSetAlias(l, muxAlias+d.name); err != nil {
				return nil, err
			}
		}
		in, err = d.device(d.muxIn)
	}
	if err != nil {
		return nil, err
	}
	if out, err = d.nl.LinkByName(d.muxOut); err != nil {
		return nil, fmt.Errorf("the other end of %s: %w", d.muxIn, err)
	}
	if err := offloadsOff(d.muxIn); err != nil {
		return nil, fmt.Errorf("turn the offloads of %s off: %w", d.muxIn, err)
	}
	if err := offloadsOff(d.muxOut); err != nil {
		return nil, fmt.Errorf("turn the offloads of %s off: %w", d.muxOut, err)
	}
	for _, s := range []struct {
		file, value string
		must        bool
	}{
		// The host says nothing of its own here; and bpf_fib_lookup wants a device that forwards (net/core/filter.c).
		{"ipv6/conf/" + d.muxIn + "/disable_ipv6", "1", false},
		{"ipv6/conf/" + d.muxOut + "/disable_ipv6", "0", false},
		{"ipv6/conf/" + d.muxOut + "/addr_gen_mode", "1", false},
		{"ipv6/conf/" + d.muxOut + "/accept_ra", "0", false},
		{"ipv6/conf/" + d.muxOut + "/forwarding", "1", false},
		{"ipv4/conf/" + d.muxOut + "/forwarding", "1", true},
	} {
		if err := os.WriteFile("/proc/sys/net/"+s.file, []byte(s.value), 0); err != nil && s.must {
			return nil, fmt.Errorf("%w: set net/%s: %w", tap.ErrUnsupported, s.file, err)
		}
	}
	for _, l := range []netlink.Link{in, out} {
		if err := errors.Join(d.nl.LinkSetARPOff(l), d.nl.LinkSetUp(l)); err != nil {
			return nil, fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	return out, nil
}

// removeMux takes the multiplexer away.
func (d *Driver) removeMux() error {
	if err := d.hook.detach(d.muxPath()); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, "queue")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	d.muxReady = false
	return d.deleteMux()
}

func (d *Driver) deleteMux() error {
	l, err := d.findMux()
	if l == nil || err != nil {
		return err
	}
	return d.nl.LinkDel(l)
}

// findMux finds our pair's first device by its mark; nil if there is none.
func (d *Driver) findMux() (netlink.Link, error) {
	links, err := d.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Alias == muxAlias+d.name && strings.HasSuffix(a.Name, "0") {
			return l, nil
		}
	}
	return nil, nil
}

// putMux says what the multiplexer does with a tap's copies.
func (d *Driver) putMux(index uint32, p *plan) error {
	c := muxMuxConfig{Device: uint32(p.Device), Snap: p.Source.Options.Snap, Longest: uint32(p.Longest)}
	if p.Source.Options.OnMTU == tap.Drop {
		c.Flags = 1
	}
	if p.Device == 0 {
		b, sum := p.tunnel.header()
		copy(c.Header[:], b)
		c.Octets, c.Sum, c.Encap = uint8(len(b)), sum, p.tunnel.wire
		c.Src, c.Dst = words(p.tunnel.src.As16()), words(p.tunnel.dst.As16())
		if p.tunnel.dst.Is6() {
			c.V6 = 1
		}
		if p.tunnel.encap == tap.ERSPAN2 {
			c.Index = 1
		}
	}
	var old muxMuxConfig
	if err := d.shared[muxMapMuxConfigs].Lookup(index, &old); err == nil {
		c.Number = old.Number // of ERSPAN packets: they go on
	}
	stats := make([]muxMuxStats, ebpf.MustPossibleCPU())
	if err := d.shared[muxMapMuxStats].Update(index, stats, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("counters of the multiplexer: %w", err)
	}
	if err := d.shared[muxMapMuxConfigs].Put(index, &c); err != nil {
		return fmt.Errorf("tell the multiplexer: %w", err)
	}
	return nil
}

// dropMux takes a tap's entries out of the multiplexer.
func (d *Driver) dropMux(index uint32) error {
	for _, name := range []string{muxMapMuxConfigs, muxMapMuxStats} {
		if err := d.shared[name].Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take tap number %d out of the multiplexer: %w", index, err)
		}
	}
	return nil
}

// words gives an address as the kernel's programs have it: octets in network order in words of the host.
func words(a [16]byte) [4]uint32 { return *(*[4]uint32)(unsafe.Pointer(&a)) }

// addTunnels notes tunnels as ours.
func (d *Driver) addTunnels(keys []tunnelKey) error {
	for _, k := range keys {
		if err := d.shared[tapMapOwnTunnels].Put(k, uint32(1)); err != nil {
			return fmt.Errorf("note a tunnel as ours: %w", err)
		}
	}
	return nil
}

// syncTunnels makes the tunnels noted as ours those of the items. Of items that an earlier process made nothing is known
// until they were asked for again; theirs stay until then.
func (d *Driver) syncTunnels() error {
	want := make(map[tunnelKey]bool)
	for _, it := range d.items {
		if it.keys == nil && (it.memo.Sink || it.memo.Index != 0) {
			return nil
		}
		for _, k := range it.keys {
			want[k] = true
		}
	}
	m := d.shared[tapMapOwnTunnels]
	var k tunnelKey
	var v uint32
	var gone []tunnelKey
	for it := m.Iterate(); it.Next(&k, &v); {
		if !want[k] {
			gone = append(gone, k)
		}
	}
	for _, k := range gone {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}
