package bpftap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"opentap/tap"
)

// plan is a source as it is to be made: all that its programs and maps depend on. Equal plans need no change.
type plan struct {
	Source  tap.Source // without its ID
	Objects [32]byte   // of this version
	In, Out int        // devices whose ingress and egress it copies; 0 = not
	InIsOut bool       // what comes in here, the owner sends
	Device  int        // that copies are delivered to; 0 with a tunnel
	Made    bool       // Device may be a tap device that nobody has open
	Mux     bool
	Longest int        // octets of a frame that Device takes; 0 = any
	From    netip.Addr // address of ours that a tunnel begins at
	note    string
	tunnel  tunnel
}

func (p *plan) print() string {
	b, err := json.Marshal(p)
	if err != nil {
		return "" // does not happen: all fields can be told
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// UpdateSource implements tap.Driver.
func (d *Driver) UpdateSource(_ context.Context, s tap.Source) (note string, err error) {
	p, err := d.plan(s)
	if err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	dir := d.itemDir(s.ID, false)
	it := d.items[s.ID]
	print := p.print()
	if it != nil && !it.memo.Sink && it.memo.Print == print && d.standsAt(dir, it.memo) && (!p.Mux || d.muxStands()) {
		it.keys = p.keys()
		return p.note, d.syncTunnels()
	}
	if err := d.makeSource(s.ID, dir, it, p, print); err != nil {
		return "", fmt.Errorf("tap %s at %s: %w", s.ID, s.Device.Name, err)
	}
	return p.note, nil
}

// keys are the tunnels of a plan, by their other end.
func (p *plan) keys() []tunnelKey {
	if !p.Source.To.Remote.IsValid() {
		return nil
	}
	return []tunnelKey{p.tunnel.key(p.tunnel.dst)}
}

// standsAt reports whether a source's programs are attached where they should be, and lead somewhere.
func (d *Driver) standsAt(dir string, m memo) bool {
	for side, at := range map[string]int{"in": m.In, "out": m.Out} {
		path := filepath.Join(dir, side)
		if d.hook.at(path) != at || at != 0 && !leads(path) {
			return false
		}
	}
	var c muxMuxConfig
	if m.Index == 0 || d.shared[muxMapMuxConfigs].Lookup(m.Index, &c) == nil && c.Local == 0 {
		return true
	}
	var device uint32
	return d.shared[muxMapMuxDevices].Lookup(m.Index, &device) == nil
}

// destination is the path of the map with the destination of the program at path.
func destination(path string) string { return path + "-to" }

// leads reports whether the destination of the program at path is still there: the kernel forgets one that goes.
func leads(path string) bool {
	m, err := ebpf.LoadPinnedMap(destination(path), nil)
	if err != nil {
		return false
	}
	defer m.Close()
	var device uint32
	return m.Lookup(uint32(0), &device) == nil
}

// Stands reports whether what was made of a source or sink is still attached.
func (d *Driver) Stands(id string) bool {
	it := d.items[id]
	if it == nil {
		return false
	}
	if !it.memo.Sink {
		return d.standsAt(d.itemDir(id, false), it.memo)
	}
	for _, i := range it.under {
		if d.hook.at(d.atPath(i)) != i {
			return false
		}
	}
	var device uint32
	return d.shared[sinkMapSinkDevices].Lookup(it.memo.Index, &device) == nil
}

// plan finds the devices and the way of a source.
func (d *Driver) plan(s tap.Source) (*plan, error) {
	l, err := d.device(s.Device.Name)
	if err != nil {
		return nil, err
	}
	if err := d.takes(l); err != nil {
		return nil, err
	}
	p := &plan{Source: s, Objects: objects, InIsOut: faces(l)}
	p.Source.ID = ""
	p.Source.Options.Priority = 0
	p.Source.Device = tap.Device{} // In and Out say which
	at := l.Attrs().Index
	in, out := s.Direction != tap.Out, s.Direction != tap.In
	if p.InIsOut {
		in, out = out, in
	}
	if s.Direction == tap.Arriving {
		in, out = true, false
	}
	if s.Feed != "" {
		in, out, p.InIsOut = false, true, s.Feed == tap.In
	}
	if in {
		p.In = at
	}
	if out {
		p.Out = at
	}
	if s.To.Remote.IsValid() {
		return p, d.planTunnel(p, l)
	}

	to, err := d.device(s.To.Device.Name)
	if err != nil {
		return nil, fmt.Errorf("the destination: %w", err)
	}
	if err := d.takesCopies(to); err != nil {
		return nil, fmt.Errorf("the destination: %w", err)
	}
	if to.Attrs().Index == at {
		return nil, fmt.Errorf("%w: a device cannot be mirrored to itself", tap.ErrUnsupported)
	}
	p.Source.To.Device = tap.Device{}
	p.Device = to.Attrs().Index
	p.Made = to.Type() == "tuntap" || to.Type() == "tun"
	p.Mux = s.Options.Snap > 0
	if short := l.Attrs().MTU - to.Attrs().MTU; short > 0 {
		p.Mux = true
		p.Longest = to.Attrs().MTU + ethernetHeader
		p.note = shortNote(to.Attrs().Name, short, to.Attrs().MTU, s.Options)
	}
	return p, nil
}

func shortNote(where string, short, longest int, o tap.Options) string {
	if o.Snap > 0 && int(o.Snap) <= longest+ethernetHeader {
		return ""
	}
	what := "cut"
	if o.OnMTU == tap.Drop {
		what = "dropped"
	}
	return fmt.Sprintf("MTU short by %d: %s carries packets of %d octets, longer ones are %s", short, where, longest, what)
}

// planTunnel finds the way to another host.
func (d *Driver) planTunnel(p *plan, l netlink.Link) error {
	to := p.Source.To
	routes, err := d.nl.RouteGet(to.Remote.Unmap().AsSlice())
	if err != nil || len(routes) == 0 {
		return fmt.Errorf("%w: no route to %s: %w", tap.ErrNoDevice, to.Remote, err)
	}
	r := routes[0]
	src, ok := netip.AddrFromSlice(r.Src)
	if !ok {
		return fmt.Errorf("%w: the route to %s names no address of ours", tap.ErrNoDevice, to.Remote)
	}
	p.From = src.Unmap()
	if p.From == to.Remote.Unmap() || r.Type == rtnLocal {
		return fmt.Errorf("%w: %s is this host's own address; name a device as the destination", tap.ErrUnsupported, to.Remote)
	}
	if p.tunnel, err = newTunnel(to.Encap, to.TunnelID, to.UDPPort, p.From, to.Remote); err != nil {
		return err
	}
	p.Mux = true
	way, err := d.nl.LinkByIndex(r.LinkIndex)
	if err != nil {
		return fmt.Errorf("%w: the device to %s: %w", tap.ErrNoDevice, to.Remote, err)
	}
	mtu := way.Attrs().MTU
	if r.MTU > 0 {
		mtu = min(mtu, r.MTU)
	}
	if short := l.Attrs().MTU + ethernetHeader + p.tunnel.overhead() - mtu; short > 0 {
		p.note = shortNote("the path to "+to.Remote.String(), short, l.Attrs().MTU-short, p.Source.Options)
	}
	return nil
}

// rtnLocal is RTN_LOCAL of include/uapi/linux/rtnetlink.h.
const rtnLocal = 2

// makeSource loads the programs of a plan and puts them in place of those before, if any. A packet meets either the old or
// the new.
func (d *Driver) makeSource(id, dir string, it *item, p *plan, print string) (err error) {
	if it != nil && it.memo.Sink {
		return fmt.Errorf("%s is a sink", id)
	}
	fresh := it == nil
	if fresh {
		if it, err = d.newItem(dir); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, d.removeSource(id, it), it.stats.Close(), os.RemoveAll(dir))
			}
		}()
	}
	next := memo{ID: id, Print: print, In: p.In, Out: p.Out, Index: it.memo.Index}
	if p.Mux && next.Index == 0 {
		if next.Index, err = d.index(); err != nil {
			return err
		}
	}
	if p.Mux {
		if err := d.makeMux(); err != nil {
			return err
		}
		if err := d.putMux(next.Index, p); err != nil {
			return err
		}
	}
	it.keys = p.keys()
	if err := d.addTunnels(it.keys); err != nil {
		return err
	}
	// Until the memo is written what is there is of no known print, so a crash in between has it made once more.
	d.mu.Lock()
	it.memo = next
	it.memo.Print = ""
	d.mu.Unlock()
	if err := d.remember(it.memo); err != nil {
		return err
	}
	for _, side := range []struct {
		name    string
		at      int
		ingress bool
	}{{"in", p.In, true}, {"out", p.Out, false}} {
		path := filepath.Join(dir, side.name)
		if side.at == 0 {
			if err := d.hook.detach(path); err != nil {
				return fmt.Errorf("detach: %w", err)
			}
			continue
		}
		out := side.ingress == p.InIsOut
		if err := d.attachTap(path, p, next.Index, it.stats, side.at, side.ingress, out); err != nil {
			return err
		}
	}
	if err := d.remember(next); err != nil {
		return err
	}
	if !p.Mux && next.Index != 0 {
		if err := d.dropMux(next.Index); err != nil {
			return err
		}
		next.Index = 0
		if err := d.remember(next); err != nil {
			return err
		}
	}
	d.mu.Lock()
	it.memo = next
	d.items[id] = it
	d.mu.Unlock()
	return d.syncTunnels()
}

// newItem makes a source's directory and counters.
func (d *Driver) newItem(dir string) (*item, error) {
	if err := errors.Join(d.pin(), d.detachAll(dir), os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return nil, err
	}
	stats, err := ebpf.NewMap(d.tapSpec.Maps[tapMapTapStats])
	if err != nil {
		return nil, fmt.Errorf("make counters: %w", err)
	}
	if err := stats.Pin(filepath.Join(dir, "stats")); err != nil {
		return nil, errors.Join(err, stats.Close(), os.RemoveAll(dir))
	}
	return &item{stats: stats}, nil
}

// attachTap loads one direction's program and attaches it.
func (d *Driver) attachTap(path string, p *plan, index uint32, stats *ebpf.Map, at int, ingress, out bool) error {
	device := p.Device
	if p.Mux {
		mux, err := d.device(d.muxIn)
		if err != nil {
			return err
		}
		device = mux.Attrs().Index
	}
	spec := d.tapSpec.Copy()
	if err := describe(spec, p, index, out, d.cookie); err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: d.types, MapReplacements: map[string]*ebpf.Map{
		tapMapTapStats: stats, tapMapTapDepth: d.shared[tapMapTapDepth], tapMapTapHeaders: d.shared[tapMapTapHeaders], tapMapOwnTunnels: d.shared[tapMapOwnTunnels],
	}})
	if err != nil {
		return fmt.Errorf("load its program: %w", err)
	}
	defer c.Close()
	to := c.Maps[tapMapTapTo]
	if err := to.Put(uint32(0), uint32(device)); err != nil {
		return fmt.Errorf("%w: the destination: %w", tap.ErrNoDevice, err)
	}
	if err := d.hook.attach(path, c.Programs[tapProgTap], at, ingress); err != nil {
		return fmt.Errorf("attach its program: %w", err)
	}
	if err := os.Remove(destination(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the destination before: %w", err)
	}
	return to.Pin(destination(path))
}

// removeSource detaches a source and frees what it had of the multiplexer.
func (d *Driver) removeSource(id string, it *item) error {
	if err := d.detachAll(d.itemDir(id, false)); err != nil {
		return err
	}
	if it.memo.Index == 0 {
		return nil
	}
	return d.dropMux(it.memo.Index)
}

// Counts implements tap.Driver.
func (d *Driver) Counts(id string) (tap.Counts, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	it := d.items[id]
	if it == nil {
		return tap.Counts{}, fmt.Errorf("counters of %s: %w", id, os.ErrNotExist)
	}
	if it.memo.Sink {
		return d.sinkCounts(it)
	}
	var cpus []tapTapStats
	if err := it.stats.Lookup(uint32(0), &cpus); err != nil {
		return tap.Counts{}, fmt.Errorf("counters of %s: %w", id, err)
	}
	var t tapTapStats
	for i := range cpus {
		c := &cpus[i]
		t.Seen += c.Seen
		t.NotMatched += c.NotMatched
		t.SampledOut += c.SampledOut
		t.RateLimited += c.RateLimited
		t.Mirrored += c.Mirrored
		t.Octets += c.Octets
		for k := range t.Lost {
			t.Lost[k] += c.Lost[k]
		}
	}
	c := tap.Counts{
		NotMatched: t.NotMatched, SampledOut: t.SampledOut, RateLimited: t.RateLimited,
		Mirrored: t.Mirrored, Octets: t.Octets, Sent: t.Mirrored, Errors: make(map[string]uint64),
	}
	lose(&c, tapLosses[:], t.Lost[:])
	if it.memo.Index != 0 {
		var mux []muxMuxStats
		if err := d.shared[muxMapMuxStats].Lookup(it.memo.Index, &mux); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return c, fmt.Errorf("counters of %s: %w", id, err)
		}
		var m muxMuxStats
		for i := range mux {
			m.Sent += mux[i].Sent
			m.Truncated += mux[i].Truncated
			m.LostOctets += mux[i].LostOctets
			for k := range m.Lost {
				m.Lost[k] += mux[i].Lost[k]
			}
		}
		// What the multiplexer lost had been mirrored to it.
		var lost uint64
		for k := range m.Lost {
			m.Lost[k] = min(m.Lost[k], c.Mirrored-lost)
			lost += m.Lost[k]
		}
		c.Mirrored -= lost
		c.Octets -= min(c.Octets, m.LostOctets)
		c.TooLong, m.Lost[muxTooLong] = m.Lost[muxTooLong], 0
		lose(&c, muxLosses[:], m.Lost[:])
		c.Sent, c.Truncated = m.Sent, m.Truncated
	}
	// The counters were not read at one moment; what was seen is what became of something.
	c.Seen = c.Mirrored + c.NotMatched + c.SampledOut + c.RateLimited + c.TooLong
	for _, n := range c.Errors {
		c.Seen += n
	}
	return c, nil
}

// Reasons of losses, in the order of the enumerations in bpf/.
var (
	tapLosses  = [...]string{"no_device", "queue", "other", "loop"}
	muxLosses  = [...]string{"too_long", "no_route", "super_packet", "change", "no_device"}
	sinkLosses = [...]string{"no_device", "queue", "change"}
)

const muxTooLong = 0

func lose(c *tap.Counts, names []string, n []uint64) {
	for i, name := range names {
		if n[i] > 0 {
			c.Errors[name] += n[i]
		}
	}
}
