package bpftap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// Driver mirrors packets in the network namespace it was opened in: whoever calls it must be on a thread in there.
// Its calls come one at a time, but for Counts.
type Driver struct {
	log    *slog.Logger
	name   string // of this agent
	dir    string // of our pins
	cookie uint64 // of our network namespace
	nl     *netlink.Handle
	hook   attacher

	shared    map[string]*ebpf.Map // by name in the objects
	types     *btf.Cache           // of the kernel: they take long to read
	tapSpec   *ebpf.CollectionSpec // to be copied
	muxIn     string               // its devices
	muxOut    string
	muxReady  bool
	sinkProg  *ebpf.Program // nil = not loaded yet
	swallower *ebpf.Program
	under     map[string]bool // names of pins of the sinks' program that there should be, when last looked at; nil = never
	next      uint32          // where the search for a free index begins
	adopted   bool            // what an earlier process left is known
	held      *os.File

	mu    sync.RWMutex // of what Counts reads: the map and the items' fields
	items map[string]*item
}

var _ tap.Driver = (*Driver)(nil)

// item is a source or sink that is real.
type item struct {
	memo  memo
	stats *ebpf.Map // of a source
	keys  []tunnelKey
	under []int // of a sink: devices that lead to its senders
}

// Open finds what an earlier process left, and takes hold of it. Of a kernel or a process that cannot do it the error
// wraps tap.ErrUnsupported and says what is missing.
func Open(cfg Config) (*Driver, error) {
	cfg.fill()
	log := cfg.Log
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("%w: the limit of locked memory cannot be raised: %w", tap.ErrUnsupported, err)
	}
	if err := Probe(); err != nil {
		return nil, err
	}
	dir, err := pinDir(cfg)
	if err != nil {
		return nil, err
	}
	cookie, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	tapSpec, err := loadTap()
	if err != nil {
		return nil, err
	}
	d := &Driver{types: btf.NewCache(), tapSpec: tapSpec, log: log, name: cfg.Instance, dir: dir, cookie: cookie, nl: nl, muxIn: muxIn, muxOut: muxOut, items: make(map[string]*item), next: 1}
	switch cfg.Hook {
	case Clsact:
		d.hook = &clsactHook{nl: nl, dir: dir}
	case TCX, "":
		d.hook = &tcxHook{beyond: &clsactHook{nl: nl, dir: dir}}
		if err := haveTCX(); err != nil {
			if cfg.Hook == TCX || !errors.Is(err, ebpf.ErrNotSupported) {
				return nil, errors.Join(fmt.Errorf("%w: tcx: %w", tap.ErrUnsupported, err), d.Close())
			}
			log.Info("the kernel has no tcx; taps are at clsact")
			d.hook = &clsactHook{nl: nl, dir: dir}
		}
	default:
		return nil, errors.Join(fmt.Errorf("%w: hook %q", tap.ErrUnsupported, cfg.Hook), d.Close())
	}
	if err := d.adopt(); err != nil {
		return nil, errors.Join(fmt.Errorf("take over taps in %s: %w", dir, err), d.Close())
	}
	if err := d.hold(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.adopted = true
	return d, nil
}

// Probe asks the kernel for what programs need, and leaves nothing behind. The error wraps tap.ErrUnsupported and says what
// is missing.
func Probe() error {
	for _, f := range []struct {
		fn   asm.BuiltinFunc
		name string
	}{{asm.FnCloneRedirect, "bpf_clone_redirect"}, {asm.FnFibLookup, "bpf_fib_lookup"}, {asm.FnRedirectNeigh, "bpf_redirect_neigh"}} {
		switch err := features.HaveProgramHelper(ebpf.SchedCLS, f.fn); {
		case err == nil:
		case errors.Is(err, os.ErrPermission):
			return fmt.Errorf("%w: needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root", tap.ErrUnsupported)
		case errors.Is(err, ebpf.ErrNotSupported):
			return fmt.Errorf("%w: the kernel lacks %s (Linux 5.10 has it)", tap.ErrUnsupported, f.name)
		default:
			return fmt.Errorf("ask the kernel for %s: %w", f.name, err)
		}
	}
	return nil
}

// Name implements tap.Driver.
func (d *Driver) Name() string { return "ebpf" }

// Takes implements tap.Driver: every device whose frames are Ethernet's.
func (d *Driver) Takes(dev tap.Device) error {
	l, err := d.device(dev.Name)
	if err != nil {
		return err
	}
	return d.takes(l)
}

func (d *Driver) takes(l netlink.Link) error {
	a := l.Attrs()
	switch {
	case strings.HasPrefix(a.Alias, muxAlias):
		return fmt.Errorf("%w: %s carries copies", tap.ErrUnsupported, a.Name)
	case a.EncapType != "ether" && a.EncapType != "loopback":
		return fmt.Errorf("%w: %s has frames of type %s, and only Ethernet's are mirrored", tap.ErrUnsupported, a.Name, a.EncapType)
	}
	return nil
}

// takesCopies reports whether copies may be sent to a device: not to one behind which nobody listens who wants them all. What goes
// out of a loopback device comes in to this host, and a bridge passes copies on to whom the originals were addressed, who would get
// them twice.
func (d *Driver) takesCopies(l netlink.Link) error {
	a := l.Attrs()
	switch {
	case a.EncapType == "loopback" || a.Flags&net.FlagLoopback != 0:
		return fmt.Errorf("%w: %s is the loopback device: this host itself would take the copies for packets to it; name the tool's device", tap.ErrUnsupported, a.Name)
	case strings.HasPrefix(a.Alias, muxAlias):
		return d.takes(l)
	case l.Type() == "bridge":
		return fmt.Errorf("%w: %s is a bridge and would pass the copies on to whom the packets are addressed; name the port of it that the tool is at",
			tap.ErrUnsupported, a.Name)
	}
	return d.takes(l)
}

// device finds a device by its name.
func (d *Driver) device(name string) (netlink.Link, error) {
	l, err := d.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("%w: %s", tap.ErrNoDevice, name)
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	return l, nil
}

// faces reports whether a device is this host's end of somebody else's port, as the host's end of a veth or the tap device of a
// virtual machine is: what its owner sends comes in here.
func faces(l netlink.Link) bool {
	switch l.Type() {
	case "veth", "tuntap", "tun", "netkit":
		return true
	}
	return false
}

// Delete implements tap.Driver.
func (d *Driver) Delete(_ context.Context, id string) error {
	d.mu.RLock()
	it := d.items[id]
	d.mu.RUnlock()
	if it == nil {
		return nil
	}
	if err := d.remove(id, it); err != nil {
		return fmt.Errorf("take %s away: %w", id, err)
	}
	return nil
}

func (d *Driver) remove(id string, it *item) error {
	var err error
	if it.memo.Sink {
		err = d.removeSink(id, it)
	} else {
		err = d.removeSource(id, it)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.items, id)
	d.mu.Unlock()
	if it.stats != nil {
		_ = it.stats.Close() // only read
	}
	return errors.Join(os.RemoveAll(d.itemDir(id, it.memo.Sink)), d.syncTunnels())
}

// Prune implements tap.Driver.
func (d *Driver) Prune(ctx context.Context, keep func(id string) bool) (removed []string, err error) {
	d.mu.RLock()
	for id := range d.items {
		if !keep(id) {
			removed = append(removed, id)
		}
	}
	left := len(d.items) - len(removed)
	d.mu.RUnlock()
	for _, id := range removed {
		err = errors.Join(err, d.Delete(ctx, id))
	}
	err = errors.Join(err, d.syncTunnels(), d.syncUnderlays())
	if left == 0 && err == nil {
		err = errors.Join(d.removeMux(), d.unpin())
	}
	if err != nil {
		return removed, fmt.Errorf("prune taps: %w", err)
	}
	return removed, nil
}

// Close implements tap.Driver. Sources and sinks go on; where there are none nothing of ours stays.
func (d *Driver) Close() error {
	var err error
	if d.adopted && len(d.items) == 0 {
		err = errors.Join(d.removeMux(), d.unpin())
	}
	err = errors.Join(err, d.release())
	for _, m := range d.shared {
		err = errors.Join(err, m.Close())
	}
	d.mu.Lock()
	for _, it := range d.items {
		if it.stats != nil {
			err = errors.Join(err, it.stats.Close())
		}
	}
	d.items = nil
	d.mu.Unlock()
	for _, p := range []*ebpf.Program{d.sinkProg, d.swallower} {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	d.nl.Close()
	return err
}

func (d *Driver) itemDir(id string, sink bool) string {
	prefix := "tap-"
	if sink {
		prefix = "sink-"
	}
	return filepath.Join(d.dir, prefix+escape(id))
}

// index finds a number that no item uses. Numbers are not used again soon: a copy may still be on its way under one.
func (d *Driver) index() (uint32, error) {
	used := make(map[uint32]bool, len(d.items))
	for _, it := range d.items {
		used[it.memo.Index] = true
	}
	for range maxIndex {
		i := d.next
		if d.next++; d.next > maxIndex {
			d.next = 1
		}
		if !used[i] {
			return i, nil
		}
	}
	return 0, fmt.Errorf("all %d numbers of taps are in use", maxIndex)
}
