package controller

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"opentap/fault"
	"opentap/store"
	"opentap/tap"
)

// syncBatch is how many ports of Neutron's are written in one transaction.
const syncBatch = 100

// SyncPorts takes over the ports that a Neutron has: all of them. Taps of ports that it has no more are deleted, and taps
// whose port has another project there are refused, as with any other port. An empty list changes nothing: a Neutron that suddenly has
// no port at all is more likely one that does not let us see them.
func (c *Controller) SyncPorts(ctx context.Context, list []tap.Port) error {
	if err := c.Ready(ctx); err != nil {
		return err
	}
	there := make(map[string]bool, len(list))
	now := time.Now().UTC().Round(0)
	for len(list) > 0 {
		part := list[:min(syncBatch, len(list))]
		list = list[len(part):]
		acts := []act{{action: "port.sync", object: "neutron", details: map[string]string{}}}
		err := c.transact(ctx, system, &acts, func() ([]store.Compare, []store.Op, error) {
			var compares []store.Compare
			var ops []store.Op
			for _, p := range part {
				old := c.taps.declared[p.ID]
				there[p.ID] = true
				if old != nil && (old.Origin != tap.Neutron || old.Port == p) {
					continue // what was said here goes before, and what is known need not be written
				}
				n := &storedPort{Port: p, Origin: tap.Neutron, Bind: true, Created: now}
				if old != nil {
					n.Created = old.Created
				}
				value, err := json.Marshal(n)
				if err != nil {
					return nil, nil, err
				}
				compares = append(compares, c.unchangedPort(p.ID)...)
				ops = append(ops, store.Put(portPrefix+p.ID, value))
			}
			if len(acts) > 0 {
				acts[0].details["ports"] = strconv.Itoa(len(ops))
			}
			return compares, ops, nil
		})
		if err != nil {
			return err
		}
	}
	if len(there) == 0 {
		return nil
	}
	for _, id := range c.goneFromNeutron(there) {
		acts := []act{{action: "port.sync", object: id, details: map[string]string{"deleted": "true"}}}
		err := c.transact(ctx, system, &acts, func() ([]store.Compare, []store.Op, error) {
			if d := c.taps.declared[id]; d == nil || d.Origin != tap.Neutron {
				return nil, nil, nil
			}
			compares, ops := c.deletionOf(id)
			return compares, ops, nil
		})
		if err := errors.Join(err, c.removeTapsOf(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) goneFromNeutron(there map[string]bool) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for id, d := range c.taps.declared {
		if d.Origin == tap.Neutron && !there[id] {
			out = append(out, id)
		}
	}
	return out
}

// Disputed tells when a node says that it has a port which Neutron has on another one.
func (c *Controller) Disputed() <-chan struct{} { return c.disputed }

// dispute finds devices that claim ports of Neutron's on other nodes. c.mu is held.
func (c *Controller) dispute(p *storedPlaces) {
	for i := range p.Devices {
		d := &p.Devices[i]
		for _, id := range []string{c.taps.claimant("iface\x00" + strings.ToLower(d.IfaceID)), c.taps.claimant("neutron\x00" + neutronName(d.Name))} {
			if id != "" && c.taps.declared[id].Origin == tap.Neutron && d.Gone.IsZero() && !c.taps.belongs(id, p.Node) {
				select {
				case c.disputed <- struct{}{}:
				default:
				}
				return
			}
		}
	}
}

// ofNeutron refuses to change here what is decided there.
func ofNeutron(p tap.PortView) error {
	return &fault.Error{Kind: fault.Conflict, Msg: "the port " + p.ID + " is Neutron's", Hint: "change it there; it is read again soon", Err: &tap.Refusal{Cause: tap.PortInUse, ID: p.ID}}
}
