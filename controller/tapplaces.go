package controller

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"opentap/point"
	"opentap/store"
	"opentap/tap"
)

// Bounds of what is kept of one node, so that it fits into one value of the store whatever its agent says.
const (
	maxDevices    = 4000
	maxDeviceText = 64 // of a name, and of an iface-id; octets
	maxUnderlay   = 16
)

// goneMemory is how long it is known when a tapped device left its node.
const goneMemory = time.Hour

// rivalPatience is how long a node that is not heard of keeps its ports from another one that says it has them: agents are
// restarted, and controllers too.
const rivalPatience = 30 * time.Second

// placesPause is how long it takes until a node's devices that could not be stored are tried again.
const placesPause = time.Second

// freshPlaces is what a node has now, and the moves of tapped ports that are to be written down before it is stored.
type freshPlaces struct {
	*storedPlaces
	moves []act
}

// keepPlaces stores where the devices of connected nodes are, when that changes. Only the controller that a node is
// connected to hears of it; through the store all do, and desire the same.
func (c *Controller) keepPlaces(ctx context.Context) {
	stored := make(map[string]int64)    // by node: the revision upon which we wrote, so as to hear of that before writing again
	again := make(map[string]time.Time) // by node: when what failed is tried again; others do not wait for that
	for ctx.Err() == nil {
		var dirty []freshPlaces
		pick := func() bool {
			dirty = dirty[:0]
			before := len(c.moved)
			now := time.Now().UTC().Round(0)
			for id := range c.moved {
				n := c.nodes[id]
				if now.Before(again[id]) {
					continue
				}
				if n == nil || !n.connected {
					delete(c.moved, id) // it tells again when it is back
					delete(stored, id)
				} else if c.revision > 0 {
					p := c.placesOf(id, n, now)
					c.dispute(p)
					if old := c.taps.nodes[id]; old == nil || !samePlaces(old, p) {
						p.rev = 0
						if old != nil {
							p.rev = old.rev
						}
						if last, ok := stored[id]; !ok || last != p.rev {
							dirty = append(dirty, freshPlaces{p, c.movesOf(p, now)})
						}
					} else {
						delete(c.moved, id)
						delete(stored, id) // we heard of it; what is stored may be forgotten, and begin with no revision again
					}
				}
			}
			if len(c.moved) < before {
				c.tell() // whoever waits for the store to have it all
			}
			return len(dirty) > 0
		}
		if !c.awaitPlaces(ctx, pick, len(again) > 0) {
			continue
		}
		for _, p := range dirty {
			err := c.storePlaces(ctx, p)
			switch {
			case err == nil, errors.Is(err, store.ErrConflict): // we shall hear what is there
				stored[p.NodeID] = p.rev
				delete(again, p.NodeID)
			case ctx.Err() == nil:
				c.log.Warn("cannot store where a node's devices are; it is tried again", "node", p.Node, "err", err)
				again[p.NodeID] = time.Now().Add(placesPause)
			}
		}
		maps.DeleteFunc(again, func(_ string, t time.Time) bool { return time.Since(t) > placesPause })
	}
}

// awaitPlaces waits until something is to be stored; soon = not for long, because something is to be tried again.
func (c *Controller) awaitPlaces(ctx context.Context, pick func() bool, soon bool) bool {
	if soon {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, placesPause)
		defer cancel()
	}
	return c.await(ctx, pick) == nil
}

func (c *Controller) storePlaces(ctx context.Context, p freshPlaces) error {
	for _, m := range p.moves {
		if err := c.record(ctx, system, m.action, m.object, m.project, m.details); err != nil {
			return err
		}
	}
	value, err := json.Marshal(p.storedPlaces)
	if err != nil {
		return err
	}
	key := placePrefix + p.NodeID
	_, err = c.store.Txn(ctx, []store.Compare{{Key: key, ModRevision: p.rev}}, []store.Op{store.Put(key, value)})
	return err
}

// movesOf are the tapped ports that have just come to a node: from then on their packets, or copies for them, are there.
// c.mu is held.
func (c *Controller) movesOf(p *storedPlaces, now time.Time) []act {
	var out []act
	for i := range p.Devices {
		d := &p.Devices[i]
		if !d.Since.Equal(now) || !d.Gone.IsZero() {
			continue
		}
		id := c.taps.bind(p, d)
		if id == d.PortID || !c.taps.used(id) {
			continue
		}
		m := act{action: "port.move", object: id, details: map[string]string{"node": p.Node, "device": d.Name, "from": d.From}}
		if port := c.taps.port(id); port != nil {
			m.project = port.Project
		}
		if d.Rival {
			m.details["rival"] = "the port is on " + d.From + " still; copies for it stay there"
		}
		out = append(out, m)
	}
	return out
}

// recheckRivals has the nodes looked at that have rivals: what they rival may have been silent for too long.
func (c *Controller) recheckRivals() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.markRivals() {
		c.tell()
	}
}

// markRivals says of the nodes that have rivals that they are to be looked at. It reports whether there are any. c.mu is held.
func (c *Controller) markRivals() bool {
	some := false
	for id := range c.taps.rivals {
		if n := c.nodes[id]; n != nil && n.connected && n.told {
			c.moved[id], some = true, true
		}
	}
	return some
}

// heldElsewhere reports whether another node has the port, as far as anybody knows. c.mu is held.
func (c *Controller) heldElsewhere(port, nodeID string, now time.Time) bool {
	return slices.ContainsFunc(c.taps.places[port], func(at place) bool {
		if at.nodeID == nodeID || c.taps.devices[at].Rival {
			return false
		}
		n := c.nodes[at.nodeID]
		if n == nil {
			return now.Sub(c.began) < rivalPatience
		}
		return n.connected || now.Sub(n.since) < rivalPatience
	})
}

// plainMAC is a MAC address in lower case; "" = it is none.
func plainMAC(s string) string {
	if m, err := net.ParseMAC(s); err == nil && len(m) == 6 {
		return m.String()
	}
	return ""
}

// plainIface is an iface-id that can be one; "" = it cannot.
func plainIface(s string) string {
	if len(s) > maxDeviceText || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

func samePlaces(a, b *storedPlaces) bool {
	return a.Node == b.Node && slices.Equal(a.Underlay, b.Underlay) && reflect.DeepEqual(a.Devices, b.Devices)
}

// placesOf is what a node has now. What was known before keeps its port through a rename, and the time since when it is there;
// a device that a tap waits for is remembered as gone. c.mu is held.
func (c *Controller) placesOf(id string, n *node, now time.Time) *storedPlaces {
	out := &storedPlaces{NodeID: id, Node: n.id.NodeName, Underlay: underlayOf(n.facts.Underlay)}
	out.Underlay = out.Underlay[:min(len(out.Underlay), maxUnderlay)]
	old := c.taps.nodes[id]
	var before []storedDevice
	if old != nil {
		before = old.Devices
	}
	taken := make(map[int]bool)
	find := func(ok func(*storedDevice) bool) *storedDevice {
		for i := range before {
			if !taken[i] && ok(&before[i]) {
				taken[i] = true
				return &before[i]
			}
		}
		return nil
	}
	var fresh []storedDevice
	for _, p := range n.points {
		if p.Kind == point.Netdev && p.Present && len(fresh) < maxDevices && len(p.Name) <= maxDeviceText {
			fresh = append(fresh, storedDevice{Name: p.Name, MAC: plainMAC(p.MAC), IfaceID: plainIface(p.IfaceID)})
		}
	}
	macs := make(map[string]int)
	names := make(map[string]bool)
	for i := range fresh {
		macs[fresh[i].MAC]++
		names[fresh[i].Name] = true
	}
	known := make([]*storedDevice, len(fresh))
	for i := range fresh { // the same name is the same device
		known[i] = find(func(o *storedDevice) bool { return o.Name == fresh[i].Name })
	}
	for i := range fresh { // renamed: its MAC is its own, and what had that is not there under the old name
		if f := &fresh[i]; known[i] == nil && f.MAC != "" && macs[f.MAC] == 1 {
			known[i] = find(func(o *storedDevice) bool { return o.MAC == f.MAC && !names[o.Name] })
		}
	}
	out.Devices = fresh
	used := make(map[string]bool)
	for i, k := range known {
		if k != nil {
			fresh[i].PortID, fresh[i].Since, fresh[i].Left, fresh[i].From, fresh[i].Rival = k.PortID, k.Since, k.Left, k.From, k.Rival
			used[k.PortID] = true
			if !k.Gone.IsZero() || k.MAC != fresh[i].MAC || k.IfaceID != fresh[i].IfaceID {
				fresh[i].Since, fresh[i].Left, fresh[i].From = now, k.Gone, ""
				if !k.Gone.IsZero() { // it is back where it was
					fresh[i].From = out.Node
				}
			}
		}
	}
	for i := range fresh {
		d := &fresh[i]
		if d.PortID == "" {
			d.Since = now
			d.PortID = tap.PortID(id, d.Name)
			if used[d.PortID] { // another device had this name before it was renamed
				d.PortID = tap.PortID(id, d.Name, d.MAC)
			}
			used[d.PortID] = true
		}
		if d.Since.Equal(now) {
			c.cameFrom(out, d)
		}
		if port := c.taps.bind(out, d); port == d.PortID {
			d.Rival = false
		} else if d.Rival || d.Since.Equal(now) {
			d.Rival = c.heldElsewhere(port, id, now)
		}
	}
	for i := range before {
		if o := before[i]; !taken[i] && !used[o.PortID] && c.remembered(id, &o, now) && len(fresh) < maxDevices {
			if o.Gone.IsZero() {
				o.Gone = now
			}
			fresh = append(fresh, o)
		}
	}
	slices.SortFunc(fresh, func(a, b storedDevice) int { return strings.Compare(a.Name, b.Name) })
	out.Devices = fresh
	return out
}

// remembered reports whether a device that is not there any more is worth keeping in mind: a tap waits for it, or its port
// may turn up elsewhere soon. c.mu is held.
func (c *Controller) remembered(nodeID string, d *storedDevice, now time.Time) bool {
	return c.taps.used(d.PortID) || c.taps.used(c.taps.owners[nodeID][d.Name]) || !d.Gone.IsZero() && now.Sub(d.Gone) < goneMemory
}

// cameFrom notes where the port of a device that has just come was before. c.mu is held.
func (c *Controller) cameFrom(n *storedPlaces, d *storedDevice) {
	port := c.taps.bind(n, d)
	if port == d.PortID || port == "" {
		return
	}
	for _, p := range c.taps.places[port] {
		if p.nodeID == n.NodeID {
			continue
		}
		d.From, d.Left = c.taps.nodes[p.nodeID].Node, time.Time{}
		if o := c.nodes[p.nodeID]; o != nil && !o.connected {
			d.Left = o.since // the whole host has gone
		}
		return
	}
	for id, o := range c.taps.nodes {
		if id != n.NodeID {
			if t := goneSince(o, d); t.After(d.Left) {
				d.From, d.Left = o.Node, t
			}
		}
	}
}

// goneSince is when a device that looks like this one left a node; zero = it did not, or that is long ago.
func goneSince(n *storedPlaces, d *storedDevice) time.Time {
	for i := range n.Devices {
		g := &n.Devices[i]
		same := g.IfaceID != "" && g.IfaceID == d.IfaceID || g.MAC != "" && g.MAC == d.MAC || neutronName(g.Name) != "" && g.Name == d.Name
		if same && !g.Gone.IsZero() {
			return g.Gone
		}
	}
	return time.Time{}
}
