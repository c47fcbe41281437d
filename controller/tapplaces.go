package controller

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"opentap/point"
	"opentap/store"
	"opentap/tap"
)

// maxDevices bounds what is kept of one node's devices, so that they fit into one value of the store.
const maxDevices = 4000

// goneMemory is how long it is known when a tapped device left its node.
const goneMemory = time.Hour

// keepPlaces stores where the devices of connected nodes are, when that changes. Only the controller that a node is
// connected to hears of it; through the store all do, and desire the same.
func (c *Controller) keepPlaces(ctx context.Context) {
	stored := make(map[string]int64) // by node: the revision upon which we wrote, so as to hear of that before writing again
	for ctx.Err() == nil {
		var dirty []*storedPlaces
		pick := func() bool {
			dirty = dirty[:0]
			before := len(c.moved)
			for id := range c.moved {
				n := c.nodes[id]
				if n == nil || !n.connected {
					delete(c.moved, id) // it tells again when it is back
				} else if c.revision > 0 {
					p := c.placesOf(id, n, time.Now().UTC().Round(0))
					if old := c.taps.nodes[id]; old == nil || !samePlaces(old, p) {
						p.rev = 0
						if old != nil {
							p.rev = old.rev
						}
						if last, ok := stored[id]; !ok || last != p.rev {
							dirty = append(dirty, p)
						}
					} else {
						delete(c.moved, id)
					}
				}
			}
			if len(c.moved) < before {
				c.tell() // whoever waits for the store to have it all
			}
			return len(dirty) > 0
		}
		if c.await(ctx, pick) != nil {
			return
		}
		for _, p := range dirty {
			value, err := json.Marshal(p)
			if err != nil {
				c.log.Error("cannot spell the devices of a node", "node", p.Node, "err", err)
				continue
			}
			key := placePrefix + p.NodeID
			_, err = c.store.Txn(ctx, []store.Compare{{Key: key, ModRevision: p.rev}}, []store.Op{store.Put(key, value)})
			switch {
			case err == nil:
				stored[p.NodeID] = p.rev
			case errors.Is(err, store.ErrConflict): // we shall hear what is there, and try again
				stored[p.NodeID] = p.rev
			case ctx.Err() == nil:
				c.log.Warn("cannot store where a node's devices are; it is tried again", "node", p.Node, "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
	}
}

func samePlaces(a, b *storedPlaces) bool {
	return a.Node == b.Node && slices.Equal(a.Underlay, b.Underlay) && reflect.DeepEqual(a.Devices, b.Devices)
}

// placesOf is what a node has now. What was known before keeps its port through a rename, and the time since when it is there;
// a device that a tap waits for is remembered as gone. c.mu is held.
func (c *Controller) placesOf(id string, n *node, now time.Time) *storedPlaces {
	out := &storedPlaces{NodeID: id, Node: n.id.NodeName, Underlay: underlayOf(n.facts.Underlay)}
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
		if p.Kind == point.Netdev && p.Present && len(fresh) < maxDevices {
			fresh = append(fresh, storedDevice{Name: p.Name, MAC: strings.ToLower(p.MAC), IfaceID: p.IfaceID})
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
	used := make(map[string]bool)
	for i, k := range known {
		if k != nil {
			fresh[i].PortID, fresh[i].Since, fresh[i].Left, fresh[i].From = k.PortID, k.Since, k.Left, k.From
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
