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
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// muxMTU is the most a veth takes: copies are as long as they are.
const muxMTU = 65535

// makeMux makes the devices in which copies are segmented, and attaches the program that cuts and encapsulates them. All
// happens while a copy is sent: there is no queue on the way that could overflow, or crowd out what is not a copy. What is there is kept, and its program renewed once in the life of a Driver.
func (d *Driver) makeMux() error {
	if d.muxReady && d.muxStands() {
		return nil
	}
	out, err := d.muxDevices()
	if err != nil {
		return err
	}
	spec, err := loadMux()
	if err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		muxMapMuxConfigs: d.shared[muxMapMuxConfigs], muxMapMuxStats: d.shared[muxMapMuxStats], muxMapMuxDevices: d.shared[muxMapMuxDevices],
	}})
	if err != nil {
		return fmt.Errorf("load the multiplexer's program: %w", err)
	}
	defer c.Close()
	if err := d.hook.attach(d.muxPath(), c.Programs[muxProgMux], out.Attrs().Index, false); err != nil {
		return fmt.Errorf("attach the multiplexer's program: %w", err)
	}
	d.muxReady = true
	return nil
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

// muxDevices makes the devices, or makes them again as they must be. It returns the one for the program.
func (d *Driver) muxDevices() (out netlink.Link, err error) {
	ours, err := d.findMux()
	if err != nil {
		return nil, err
	}
	names := [3]string{muxIn, muxOut, muxPeer}
	if ours != nil {
		names = muxNames(strings.TrimSuffix(ours.Attrs().Name, "0"))
	} else if _, err := d.device(muxIn); err == nil { // somebody else's
		sum := sha256.Sum256([]byte(d.name))
		names = muxNames(fmt.Sprintf("tapmux%x-", sum[:3]))
	}
	d.muxIn, d.muxOut = names[0], names[1]
	if ours == nil {
		if err := d.layMux(names); err != nil {
			return nil, fmt.Errorf("%w: make the devices %v: %w", tap.ErrUnsupported, names, err)
		}
	}
	if out, err = d.device(d.muxOut); err != nil {
		return nil, err
	}
	in, err := d.device(d.muxIn)
	if err != nil {
		return nil, err
	}
	peer, err := d.device(names[2])
	if err != nil {
		return nil, err
	}
	if err := offloadsOff(d.muxIn); err != nil {
		return nil, fmt.Errorf("turn the offloads of %s off: %w", d.muxIn, err)
	}
	for _, s := range []struct {
		file, value string
		must        bool
	}{
		// The host says nothing of its own here; and bpf_fib_lookup wants a device that forwards (net/core/filter.c).
		{"ipv6/conf/" + d.muxIn + "/disable_ipv6", "1", false},
		{"ipv6/conf/" + names[2] + "/disable_ipv6", "1", false},
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
	for _, l := range []netlink.Link{out, peer, in} {
		if err := errors.Join(d.nl.LinkSetARPOff(l), d.nl.LinkSetUp(l)); err != nil {
			return nil, fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	return out, nil
}

func muxNames(prefix string) [3]string { return [3]string{prefix + "0", prefix + "1", prefix + "2"} }

// layMux makes the devices. A bridge hands frames on within the call that sends them, after it had them segmented.
func (d *Driver) layMux(names [3]string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = names[1], muxMTU, 0
	if err := d.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: names[2], PeerMTU: muxMTU}); err != nil {
		return err
	}
	out, err := d.nl.LinkByName(names[1])
	if err != nil {
		return err
	}
	attrs = netlink.NewLinkAttrs()
	attrs.Name, attrs.TxQLen = names[0], 0
	snoop := false // multicast frames are copies like others
	if err := d.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}); err != nil {
		return errors.Join(err, d.nl.LinkDel(out))
	}
	in, err := d.nl.LinkByName(names[0])
	if err != nil {
		return errors.Join(err, d.nl.LinkDel(out))
	}
	if err := errors.Join(d.nl.LinkSetMaster(out, in), d.nl.LinkSetMTU(in, muxMTU)); err != nil {
		return errors.Join(err, d.nl.LinkDel(out), d.nl.LinkDel(in))
	}
	for _, name := range []string{names[2], names[1], names[0]} { // the one that it is found by is marked last
		l, err := d.nl.LinkByName(name)
		if err == nil {
			err = d.nl.LinkSetAlias(l, muxAlias+d.name)
		}
		if err != nil {
			return errors.Join(err, d.nl.LinkDel(out), d.nl.LinkDel(in))
		}
	}
	return nil
}

// removeMux takes the multiplexer away.
func (d *Driver) removeMux() error {
	if err := d.hook.detach(d.muxPath()); err != nil {
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
	out, err := d.device(strings.TrimSuffix(l.Attrs().Name, "0") + "1")
	if err == nil {
		err = d.nl.LinkDel(out)
	}
	if err != nil && !errors.Is(err, tap.ErrNoDevice) {
		return err
	}
	return d.nl.LinkDel(l) // by which they are found
}

// findMux finds the first of our devices by its mark; nil if there is none.
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
	c := muxMuxConfig{Snap: p.Source.Options.Snap, Longest: uint32(p.Longest)}
	if p.Source.Options.OnMTU == tap.Drop {
		c.Flags = 1
	}
	if p.Device != 0 {
		c.Local = 1
		if err := d.shared[muxMapMuxDevices].Put(index, uint32(p.Device)); err != nil {
			return fmt.Errorf("%w: the destination: %w", tap.ErrNoDevice, err)
		}
	} else {
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
	for _, name := range []string{muxMapMuxConfigs, muxMapMuxStats, muxMapMuxDevices} {
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
