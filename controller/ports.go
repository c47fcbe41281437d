package controller

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/tap"
)

func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return tap.FormatUUID(b, 4)
}

// Ports lists the ports that the caller may see: its project's, and to an administrator all.
func (c *Controller) Ports(ctx context.Context, id auth.Identity) ([]tap.PortView, error) {
	if !id.May(seeTaps) {
		return nil, c.deny(ctx, id, "port.list", "", seeTaps)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []tap.PortView
	show := func(pid string) {
		if v := c.portView(pid); v != nil && mine(id, v.Project) {
			out = append(out, *v)
		}
	}
	for pid := range c.taps.places {
		show(pid)
	}
	for pid := range c.taps.declared {
		if len(c.taps.places[pid]) == 0 {
			show(pid)
		}
	}
	slices.SortFunc(out, func(a, b tap.PortView) int {
		if x := strings.Compare(a.Node, b.Node); x != 0 {
			return x
		}
		if x := strings.Compare(a.Name, b.Name); x != 0 {
			return x
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// portView shows a port; nil = there is none. c.mu is held.
func (c *Controller) portView(id string) *tap.PortView {
	p := c.taps.port(id)
	if p == nil {
		return nil
	}
	v := &tap.PortView{
		Port: *p, Origin: tap.Inventory, Services: len(c.taps.servicesOf[id]), Flows: len(c.taps.flowsOf[id]), Mirrors: len(c.taps.mirrorsOf[id]),
	}
	if d := c.taps.declared[id]; d != nil {
		v.Origin, v.Description, v.Created = d.Origin, d.Description, d.Created
	}
	for _, at := range c.taps.places[id] {
		v.Present = true
		v.Nodes = append(v.Nodes, c.taps.nodes[at.nodeID].Node)
		if n := c.nodes[at.nodeID]; n != nil {
			for i := range n.points {
				if n.points[i].Name == at.device {
					v.MTU, v.SpeedBPS = n.points[i].MTU, n.points[i].SpeedBPS
				}
			}
		}
	}
	return v
}

// Port shows one port, by id, name, or node/name.
func (c *Controller) Port(ctx context.Context, id auth.Identity, name string) (tap.PortView, error) {
	if !id.May(seeTaps) {
		return tap.PortView{}, c.deny(ctx, id, "port.show", name, seeTaps)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findPort(id, name)
}

// findPort finds what the caller may see. c.mu is held.
func (c *Controller) findPort(id auth.Identity, name string) (tap.PortView, error) {
	if v := c.portView(strings.ToLower(name)); v != nil && mine(id, v.Project) {
		return *v, nil
	}
	var found []tap.PortView
	look := func(pid string) {
		p := c.taps.port(pid)
		if p == nil || !mine(id, p.Project) {
			return
		}
		if p.Name == name || isAt(name, p.Node, p.Name) || isAt(name, p.Node, p.Device) {
			found = append(found, *c.portView(pid))
		}
	}
	if name != "" {
		for pid := range c.taps.places {
			look(pid)
		}
		for pid := range c.taps.declared {
			if len(c.taps.places[pid]) == 0 {
				look(pid)
			}
		}
	}
	switch len(found) {
	case 0:
		return tap.PortView{}, noPort("port_id", name)
	case 1:
		return found[0], nil
	}
	return tap.PortView{}, fault.Field("port", "several ports are called %q; write node/name, or the id", name)
}

// isAt reports whether a name is node/device.
func isAt(name, node, device string) bool {
	rest, ok := strings.CutPrefix(name, node)
	return ok && node != "" && strings.HasPrefix(rest, "/") && rest[1:] == device
}

func said(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// CreatePorts declares ports, all of them or none. An administrator can say by node and device, or by MAC, which device a
// port is; whoever else makes one has to wait until the host calls a device by the port's id, for what anybody said of
// MACs would give him others' traffic. A port of an administrator that is nobody's is the administrators' own.
func (c *Controller) CreatePorts(ctx context.Context, id auth.Identity, list []tap.PortWish) ([]tap.PortView, error) {
	if !id.May(auth.Start) {
		return nil, c.deny(ctx, id, "port.create", "", auth.Start)
	}
	if err := c.refusedForRoom(); err != nil {
		return nil, err
	}
	admin := id.May(auth.Administer)
	now := time.Now().UTC().Round(0)
	made := make([]*storedPort, len(list))
	acts := make([]act, len(list))
	for i, wish := range list {
		project, err := projectFor(id, said(wish.Project))
		if err != nil {
			return nil, err
		}
		if admin && said(wish.Project) == "" {
			project = "" // the administrators' own, as devices are that nothing is known of
		}
		p := &storedPort{Origin: tap.Declared, Created: now.Add(time.Duration(i)), Bind: admin, Port: tap.Port{ID: newUUID(), Project: project}}
		if wish.ID != nil {
			if !admin {
				return nil, refused(fault.Invalid, &tap.Refusal{Cause: tap.NotAllowed, Field: "id"}, "is made here; only an administrator chooses it", "")
			}
			p.Port.ID = strings.ToLower(*wish.ID)
		}
		if !admin && (said(wish.Node) != "" || said(wish.Device) != "") {
			return nil, c.deny(ctx, id, "port.bind", "", auth.Administer)
		}
		if err := takeWish(p, wish); err != nil {
			return nil, err
		}
		made[i] = p
		acts[i] = act{action: "port.create", object: p.Port.ID, project: project, details: map[string]string{
			"name": p.Port.Name, "node": p.Port.Node, "device": p.Port.Device, "mac": p.Port.MAC,
		}}
	}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		var compares []store.Compare
		var ops []store.Op
		for _, p := range made {
			if c.taps.declared[p.Port.ID] != nil {
				return nil, nil, fault.New(fault.Conflict, "there is a port with the id %s", p.Port.ID)
			}
			if err := quota("port", c.taps.counts[counted{portPrefix, p.Port.Project}], len(made), c.cfg.Taps.Ports); err != nil {
				return nil, nil, err
			}
			value, err := json.Marshal(p)
			if err != nil {
				return nil, nil, err
			}
			compares = append(compares, store.Absent(portPrefix+p.Port.ID))
			ops = append(ops, store.Put(portPrefix+p.Port.ID, value))
		}
		return compares, ops, bulkFits(compares, ops)
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []tap.PortView
	for _, p := range made {
		if v := c.portView(p.Port.ID); v != nil {
			out = append(out, *v)
		}
	}
	if len(out) != len(made) {
		return nil, fault.New(fault.Conflict, "somebody deleted it at once")
	}
	return out, nil
}

// takeWish takes over what a wish says, checked.
func takeWish(p *storedPort, wish tap.PortWish) error {
	for field, s := range map[string]*string{"name": wish.Name, "description": wish.Description, "project_id": wish.Project, "node": wish.Node, "device": wish.Device} {
		if s == nil {
			continue
		}
		f := tap.Service{PortID: p.Port.ID, Name: *s}
		if r := f.Check(); r != nil {
			r.Field = strings.Replace(r.Field, "name", field, 1)
			return wrong(r)
		}
	}
	set := func(to *string, s *string) {
		if s != nil {
			*to = *s
		}
	}
	set(&p.Port.Name, wish.Name)
	set(&p.Description, wish.Description)
	set(&p.Port.Project, wish.Project)
	set(&p.Port.Node, wish.Node)
	set(&p.Port.Device, wish.Device)
	if wish.Network != nil {
		if *wish.Network != "" && !tap.IsUUID(*wish.Network) {
			return wrong(&tap.Refusal{Cause: tap.NotUUID, Field: "network_id", Value: *wish.Network})
		}
		p.Port.Network = strings.ToLower(*wish.Network)
	}
	if wish.MAC != nil && *wish.MAC != "" {
		mac, err := net.ParseMAC(*wish.MAC)
		if err != nil || len(mac) != 6 {
			return wrong(&tap.Refusal{Cause: tap.NotOneOf, Field: "mac_address", Value: *wish.MAC, Detail: "addresses such as fa:16:3e:00:00:02"})
		}
		p.Port.MAC = mac.String()
	} else if wish.MAC != nil {
		p.Port.MAC = ""
	}
	if p.Port.Node != "" && p.Port.Device == "" && p.Port.MAC == "" {
		p.Port.Device = p.Port.Name
	}
	if !tap.IsUUID(p.Port.ID) {
		return wrong(&tap.Refusal{Cause: tap.NotUUID, Field: "id", Value: p.Port.ID})
	}
	if wish.Extra != nil {
		p.Extra = wish.Extra
	}
	return nil
}

// UpdatePort changes what is known of a port. Whose it is, and which device, only an administrator says; a device that
// nothing was known of becomes a declared port by that. Taps that no longer fit end at once, and say so.
func (c *Controller) UpdatePort(ctx context.Context, id auth.Identity, name string, wish tap.PortWish) (tap.PortView, error) {
	if !id.May(auth.Start) {
		return tap.PortView{}, c.deny(ctx, id, "port.update", name, auth.Start)
	}
	admin := id.May(auth.Administer)
	if !admin && (wish.Project != nil || wish.Node != nil || wish.Device != nil || wish.MAC != nil) {
		return tap.PortView{}, c.deny(ctx, id, "port.bind", name, auth.Administer)
	}
	if wish.ID != nil {
		return tap.PortView{}, fault.Field("id", "cannot be changed")
	}
	var pid string
	acts := []act{{action: "port.update"}}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		v, err := c.findPort(id, name)
		if err != nil {
			return nil, nil, err
		}
		if v.Origin == tap.Neutron {
			return nil, nil, ofNeutron(v)
		}
		pid = v.ID
		n := storedPort{Origin: tap.Declared, Bind: admin, Created: time.Now().UTC().Round(0)}
		old := c.taps.declared[pid]
		if old != nil {
			n = *old
			n.Bind = n.Bind || admin && (wish.Node != nil || wish.Device != nil || wish.MAC != nil)
		} else {
			n.Port = tap.Port{ID: pid, Node: v.Node, Device: v.Device}
		}
		if err := takeWish(&n, wish); err != nil {
			return nil, nil, err
		}
		about(acts, pid, v.Project)
		if len(acts) > 0 {
			acts[0].details = map[string]string{"project": n.Port.Project, "node": n.Port.Node, "device": n.Port.Device, "mac": n.Port.MAC}
		}
		if old != nil && reflect.DeepEqual(*old, n) {
			return nil, nil, nil
		}
		value, err := json.Marshal(&n)
		return c.unchangedPort(pid), []store.Op{store.Put(portPrefix+pid, value)}, err
	})
	if err != nil {
		return tap.PortView{}, err
	}
	return c.Port(ctx, id, pid)
}

// DeletePort forgets a declared port and deletes the services, flows and mirrors of it. A device of a node stays a device.
func (c *Controller) DeletePort(ctx context.Context, id auth.Identity, name string) error {
	if !id.May(auth.Start) {
		return c.deny(ctx, id, "port.delete", name, auth.Start)
	}
	var pid string
	acts := []act{{action: "port.delete"}}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		if len(acts) == 0 && c.taps.declared[pid] == nil {
			return nil, nil, nil // somebody else was quicker
		}
		v, err := c.findPort(id, name)
		if err != nil {
			return nil, nil, err
		}
		if v.Origin == tap.Inventory {
			r := &tap.Refusal{Cause: tap.PortInUse, ID: v.ID}
			return nil, nil, refused(fault.Conflict, r, "the port is the device "+v.Device+" of node "+v.Node+"; it is there as long as the device is", "")
		}
		if v.Origin == tap.Neutron {
			return nil, nil, ofNeutron(v)
		}
		pid = v.ID
		about(acts, pid, v.Project)
		if len(acts) > 0 {
			acts[0].details = map[string]string{"services": strconv.Itoa(v.Services), "flows": strconv.Itoa(v.Flows), "mirrors": strconv.Itoa(v.Mirrors)}
		}
		compares, ops := c.deletionOf(pid)
		return compares, ops, nil
	})
	if err != nil {
		return err
	}
	return c.removeTapsOf(ctx, pid)
}

// deletionOf deletes a port and what belongs to it at once, so that nobody who dies meanwhile leaves taps of a port that is no
// more; removeTapsOf deletes what is too much for that. c.mu is held.
func (c *Controller) deletionOf(pid string) ([]store.Compare, []store.Op) {
	ops := []store.Op{store.Delete(portPrefix + pid)}
	add := func(keys ...string) {
		if len(ops)+len(keys) <= store.MaxTxnOps {
			for _, k := range keys {
				if op := store.Delete(k); !slices.ContainsFunc(ops, func(o store.Op) bool { return o.Key == op.Key }) {
					ops = append(ops, op)
				}
			}
		}
	}
	for id := range c.taps.servicesOf[pid] {
		keys := append(keysOf(c.taps.flowsTo[id], flowPrefix), servicePrefix+id, tunnelKey(c.taps.services[id].Service.TunnelID))
		add(keys...)
	}
	for id := range c.taps.mirrorsOf[pid] {
		keys := []string{mirrorPrefix + id}
		for _, t := range c.taps.mirrors[id].Mirror.Directions {
			keys = append(keys, mirrorKey(t))
		}
		add(keys...)
	}
	add(keysOf(c.taps.flowsOf[pid], flowPrefix)...)
	return c.unchangedPort(pid), ops
}

// removeTapsOf deletes what belongs to a port that is no more.
func (c *Controller) removeTapsOf(ctx context.Context, pid string) error {
	for {
		c.mu.Lock()
		var sid, mid string
		for s := range c.taps.servicesOf[pid] {
			sid = s
		}
		for m := range c.taps.mirrorsOf[pid] {
			mid = m
		}
		c.mu.Unlock()
		var err error
		switch {
		case sid != "":
			err = c.removeService(ctx, system, sid, "tap.service.delete")
		case mid != "":
			err = c.removeMirror(ctx, system, mid, "tap.mirror.delete")
		default:
			return c.removeOrphans(ctx, func() []string { return keysOf(c.taps.flowsOf[pid], flowPrefix) })
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
}

// networkPrefix is where networks are stored. No agent hears of them.
const networkPrefix = "tap-network/"

// Networks lists the networks that the caller may see.
func (c *Controller) Networks(ctx context.Context, id auth.Identity) ([]tap.Network, error) {
	if !id.May(seeTaps) {
		return nil, c.deny(ctx, id, "network.list", "", seeTaps)
	}
	kvs, _, err := c.store.List(ctx, networkPrefix)
	if err != nil {
		return nil, storeFault(err)
	}
	var out []tap.Network
	for _, kv := range kvs {
		var n tap.Network
		if err := json.Unmarshal(kv.Value, &n); err == nil && mine(id, n.Project) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b tap.Network) int { return byAge(a.Created, b.Created, a.ID, b.ID) })
	return out, nil
}

// CreateNetworks makes networks, all of them or none.
func (c *Controller) CreateNetworks(ctx context.Context, id auth.Identity, list []tap.Network) ([]tap.Network, error) {
	if !id.May(auth.Start) {
		return nil, c.deny(ctx, id, "network.create", "", auth.Start)
	}
	if err := c.refusedForRoom(); err != nil {
		return nil, err
	}
	made := slices.Clone(list)
	var compares []store.Compare
	var ops []store.Op
	now := time.Now().UTC().Round(0)
	for i := range made {
		n := &made[i]
		var err error
		if n.Project, err = projectFor(id, n.Project); err != nil {
			return nil, err
		}
		check := tap.Service{PortID: newUUID(), Name: n.Name, Description: n.Description}
		if err := wrong(check.Check()); err != nil {
			return nil, err
		}
		n.ID, n.Created = newUUID(), now.Add(time.Duration(i))
		value, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		compares, ops = append(compares, store.Absent(networkPrefix+n.ID)), append(ops, store.Put(networkPrefix+n.ID, value))
	}
	if err := bulkFits(compares, ops); err != nil {
		return nil, err
	}
	have, err := c.Networks(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := quota("network", len(have), len(made), c.cfg.Taps.Ports); err != nil {
		return nil, err
	}
	for i := range made {
		if err := c.record(ctx, id, "network.create", made[i].ID, made[i].Project, map[string]string{"name": made[i].Name}); err != nil {
			return nil, err
		}
	}
	_, err = c.store.Txn(ctx, compares, ops)
	return made, storeFault(err)
}

// DeleteNetwork deletes a network. Its ports stay.
func (c *Controller) DeleteNetwork(ctx context.Context, id auth.Identity, nid string) error {
	if !id.May(auth.Start) {
		return c.deny(ctx, id, "network.delete", nid, auth.Start)
	}
	gone := refused(fault.NotFound, &tap.Refusal{Cause: tap.NoNetwork, ID: nid}, "no network has the id "+strconv.Quote(nid), "")
	if !tap.IsUUID(nid) {
		return gone
	}
	kv, err := c.store.Get(ctx, networkPrefix+strings.ToLower(nid))
	if errors.Is(err, store.ErrNotFound) {
		return gone
	}
	if err != nil {
		return storeFault(err)
	}
	var n tap.Network
	if err := json.Unmarshal(kv.Value, &n); err != nil || !mine(id, n.Project) {
		return gone
	}
	if err := c.record(ctx, id, "network.delete", n.ID, n.Project, nil); err != nil {
		return err
	}
	_, err = c.store.Txn(ctx, nil, []store.Op{store.Delete(kv.Key)})
	return storeFault(err)
}
