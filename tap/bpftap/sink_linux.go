package bpftap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// UpdateSink implements tap.Driver.
func (d *Driver) UpdateSink(_ context.Context, s tap.Sink) (note string, err error) {
	if it := d.items[s.ID]; it != nil && !it.memo.Sink {
		return "", fmt.Errorf("sink %s: there is a source of this name", s.ID)
	}
	if err := d.makeSink(s); err != nil {
		return "", fmt.Errorf("sink %s: %w", s.ID, err)
	}
	return "", nil
}

func (d *Driver) makeSink(s tap.Sink) error {
	it := d.items[s.ID]
	next := memo{ID: s.ID, Sink: true}
	if it != nil {
		next = it.memo
	}
	l, err := d.device(s.Device.Name)
	missing := errors.Is(err, tap.ErrNoDevice)
	if err != nil && (!missing || !s.Make) {
		return err
	}
	if !missing {
		if err := d.takesCopies(l); err != nil {
			return err
		}
	}
	var t tunnel
	var keys []tunnelKey
	for _, from := range s.From {
		if t, err = newTunnel(s.Encap, s.TunnelID, s.UDPPort, from, from); err != nil {
			return err
		}
		keys = append(keys, t.key(from.Unmap()))
	}
	under, err := d.underlays(s.From)
	if err != nil {
		return err
	}
	if next.Index == 0 {
		if next.Index, err = d.index(); err != nil {
			return err
		}
	}
	dir := d.itemDir(s.ID, true)
	if it == nil {
		if err := errors.Join(d.pin(), os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			return err
		}
		it = &item{memo: next}
		// From here on Delete finds what was made of it, whatever fails.
		d.mu.Lock()
		d.items[s.ID] = it
		d.mu.Unlock()
	}
	if missing {
		next.Made = s.Device.Name
	}
	if err := d.rememberSink(it, next); err != nil {
		return err
	}
	if missing {
		if l, err = d.makeTapDevice(s.Device.Name, s.ID); err != nil {
			return err
		}
	}
	if next.Made != "" {
		if err := d.attachSwallower(dir, l); err != nil {
			return err
		}
	}
	if err := d.putSink(it, keys, l); err != nil {
		return err
	}
	it.keys, it.under = keys, under
	if keys == nil {
		it.keys = []tunnelKey{}
	}
	if err := errors.Join(d.addTunnels(keys), d.syncTunnels(), d.syncAddresses()); err != nil {
		return err
	}
	return d.attachUnderlays(under)
}

func (d *Driver) rememberSink(it *item, next memo) error {
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	next.Print = hex.EncodeToString(sum[:8])
	if it.memo.Print == next.Print {
		return nil
	}
	d.mu.Lock()
	it.memo = next
	d.mu.Unlock()
	return d.remember(next)
}

// putSink tells the program who may send to what, and takes back what was told before and holds no longer.
func (d *Driver) putSink(it *item, keys []tunnelKey, l netlink.Link) error {
	index := it.memo.Index
	stats := make([]sinkSinkStats, ebpf.MustPossibleCPU())
	if err := d.shared[sinkMapSinkStats].Update(index, stats, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("make counters: %w", err)
	}
	if err := d.shared[sinkMapSinkDevices].Put(index, uint32(l.Attrs().Index)); err != nil {
		return fmt.Errorf("%w: the tool's device: %w", tap.ErrNoDevice, err)
	}
	v := sinkSink{Index: index}
	if l.Type() == "tuntap" || l.Type() == "tun" {
		v.Flags = 1
	}
	for _, k := range keys {
		var old sinkSink
		if err := d.shared[sinkMapSinks].Lookup(k, &old); err == nil && old.Index != index && d.owner(old.Index) {
			return fmt.Errorf("tunnel %d from %s has a sink already", k.ID, netip.AddrFrom16(k.Addr).Unmap())
		}
		if err := d.shared[sinkMapSinks].Put(k, v); err != nil {
			return fmt.Errorf("admit %s: %w", netip.AddrFrom16(k.Addr).Unmap(), err)
		}
	}
	return d.dropSenders(index, keys)
}

// owner reports whether an item has this number.
func (d *Driver) owner(index uint32) bool {
	for _, it := range d.items {
		if it.memo.Sink && it.memo.Index == index {
			return true
		}
	}
	return false
}

// dropSenders refuses the senders of a sink that are not among keep.
func (d *Driver) dropSenders(index uint32, keep []tunnelKey) error {
	var gone []tunnelKey
	var k tunnelKey
	var v sinkSink
	it := d.shared[sinkMapSinks].Iterate()
	for it.Next(&k, &v) {
		if v.Index == index && !slices.Contains(keep, k) {
			gone = append(gone, k)
		}
	}
	err := it.Err()
	for _, k := range gone {
		if e := d.shared[sinkMapSinks].Delete(k); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// removeSink takes a sink away, and its device if it was made for it.
func (d *Driver) removeSink(id string, it *item) error {
	if err := d.dropSenders(it.memo.Index, nil); err != nil {
		return err
	}
	for _, name := range []string{sinkMapSinkStats, sinkMapSinkDevices} {
		if err := d.shared[name].Delete(it.memo.Index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	if err := d.detachAll(d.itemDir(id, true)); err != nil {
		return err
	}
	it.under, it.keys = nil, []tunnelKey{}
	if err := d.syncUnderlays(); err != nil {
		return err
	}
	if it.memo.Made == "" {
		return nil
	}
	return d.removeTapDevice(it.memo.Made, id)
}

func (d *Driver) sinkCounts(it *item) (tap.Counts, error) {
	var cpus []sinkSinkStats
	if err := d.shared[sinkMapSinkStats].Lookup(it.memo.Index, &cpus); err != nil {
		return tap.Counts{}, fmt.Errorf("counters of %s: %w", it.memo.ID, err)
	}
	var lost [len(sinkLosses)]uint64
	c := tap.Counts{Errors: make(map[string]uint64)}
	for i := range cpus {
		c.Mirrored += cpus[i].Delivered
		c.Octets += cpus[i].Octets
		for k := range lost {
			lost[k] += cpus[i].Lost[k]
		}
	}
	lose(&c, sinkLosses[:], lost[:])
	c.Sent, c.Seen = c.Mirrored, c.Mirrored
	for _, n := range c.Errors {
		c.Seen += n
	}
	return c, nil
}

// underlays finds the devices that lead to hosts.
func (d *Driver) underlays(hosts []netip.Addr) ([]int, error) {
	var out []int
	for _, h := range hosts {
		routes, err := d.nl.RouteGet(h.Unmap().AsSlice())
		if err != nil || len(routes) == 0 {
			continue // there is no way now; its route is asked for again
		}
		l, err := d.nl.LinkByIndex(routes[0].LinkIndex)
		if err != nil {
			return nil, err
		}
		if l.Attrs().EncapType != "ether" || slices.Contains(out, l.Attrs().Index) {
			continue
		}
		out = append(out, l.Attrs().Index)
	}
	if len(hosts) > 0 && len(out) == 0 {
		return nil, fmt.Errorf("%w: no route over Ethernet to any of its senders", tap.ErrNoDevice)
	}
	return out, nil
}

const atPrefix = "at-"

func (d *Driver) atPath(ifindex int) string {
	return filepath.Join(d.dir, atPrefix+strconv.Itoa(ifindex))
}

// attachUnderlays has the sinks' program at these devices.
func (d *Driver) attachUnderlays(ifindexes []int) error {
	for _, i := range ifindexes {
		path := d.atPath(i)
		if d.sinkProg != nil && d.hook.at(path) == i {
			continue
		}
		if err := d.loadSink(); err != nil {
			return err
		}
		if err := d.hook.attach(path, d.sinkProg, i, true); err != nil {
			return fmt.Errorf("attach at device %d: %w", i, err)
		}
		d.under = nil
	}
	return nil
}

// syncUnderlays detaches the sinks' program where no sink needs it. Of sinks that an earlier process made nothing is known
// until they were asked for again.
func (d *Driver) syncUnderlays() error {
	need := make(map[string]bool)
	for _, it := range d.items {
		if it.memo.Sink && it.keys == nil {
			return nil
		}
		for _, i := range it.under {
			need[atPrefix+strconv.Itoa(i)] = true
		}
	}
	if d.under != nil && maps.Equal(need, d.under) {
		return nil // as it was when somebody looked last
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // nothing is pinned then
		return err
	}
	err = nil
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), atPrefix) && !need[e.Name()] {
			err = errors.Join(err, d.hook.detach(filepath.Join(d.dir, e.Name())))
		}
	}
	if err == nil {
		d.under = need
	}
	return err
}

// loadSink loads the programs of sinks, once.
func (d *Driver) loadSink() error {
	if d.sinkProg != nil {
		return nil
	}
	spec, err := loadSink()
	if err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		sinkMapSinks: d.shared[sinkMapSinks], sinkMapOwnAddresses: d.shared[sinkMapOwnAddresses], sinkMapSinkStats: d.shared[sinkMapSinkStats], sinkMapSinkDevices: d.shared[sinkMapSinkDevices],
	}})
	if err != nil {
		return fmt.Errorf("load the sinks' program: %w", err)
	}
	d.sinkProg, d.swallower = c.DetachProgram(sinkProgSink), c.DetachProgram(sinkProgSwallow)
	c.Close()
	return nil
}

// attachSwallower keeps the host from taking what copies say on a device that we made for itself.
func (d *Driver) attachSwallower(dir string, l netlink.Link) error {
	path := filepath.Join(dir, "made")
	if d.hook.at(path) == l.Attrs().Index {
		return nil
	}
	if err := d.loadSink(); err != nil {
		return err
	}
	return d.hook.attach(path, d.swallower, l.Attrs().Index, true)
}

// syncAddresses tells the program this host's addresses.
func (d *Driver) syncAddresses() error {
	addrs, err := d.nl.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	want := make(map[[16]byte]bool, len(addrs))
	m := d.shared[sinkMapOwnAddresses]
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		k := ip.As16()
		want[k] = true
		if err := m.Put(k, uint32(1)); err != nil {
			return fmt.Errorf("note address %s: %w", ip, err)
		}
	}
	var k [16]byte
	var v uint32
	var gone [][16]byte
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
