package controller

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"opentap/fabric"
	"opentap/fault"
	"opentap/tap"
	"opentap/tap/oftap"
	"opentap/want"
)

// fabricNode is the node that ports of switches are at, in the inventory of ports: its id and its name. Their devices are called
// SWITCH/PORT, as no network device is.
const fabricNode = "fabric"

// switchPort is what a port of a switch is for, as the description of the fabric says.
type switchPort struct {
	Role    string `json:"role"`               // filter, delivery
	LeadsTo string `json:"leads_to,omitempty"` // NODE/DEVICE
	Into    string `json:"into,omitempty"`     // device of that node which its agent hands to what policies deliver
	Exact   string `json:"exact,omitempty"`    // filter with which it does
}

// Suffixes of the ids of what a node does for a flow whose source is not there.
const (
	relaySuffix  = ".relay"  // at the service's node: hands on what a delivery port gives to it, filtered exactly
	switchSuffix = ".switch" // in the fabric: brings what a host sends in by a filter port
	intoSuffix   = ".into"   // of a port: what policies deliver there
)

// fabricPlaces are the ports of a description that can be tapped or delivered to. old is what was there before.
func fabricPlaces(f *want.Fabric, old *storedPlaces, now time.Time) *storedPlaces {
	out := &storedPlaces{NodeID: fabricNode, Node: fabricNode}
	since := make(map[string]time.Time)
	if old != nil {
		for i := range old.Devices {
			since[old.Devices[i].Name] = old.Devices[i].Since
		}
	}
	for name, p := range f.Ports {
		if p.Role != want.RoleFilter && p.Role != want.RoleDelivery {
			continue
		}
		d := storedDevice{Name: p.At, PortID: tap.PortID(fabricNode, p.At), Since: now, Switch: &switchPort{Role: p.Role, LeadsTo: p.LeadsTo}}
		if t, ok := since[p.At]; ok {
			d.Since = t
		}
		if exact, some := fabric.ExactFilter(f, name); some {
			d.Switch.Into, d.Switch.Exact = p.Into, exact
		}
		out.Devices = append(out.Devices, d)
	}
	slices.SortFunc(out.Devices, func(a, b storedDevice) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// kickCables kicks the nodes that cables of a switch's ports lead to. n may be nil.
func (w *world) kickCables(n *storedPlaces, kick map[string]bool) {
	if n == nil || n.NodeID != fabricNode {
		return
	}
	for i := range n.Devices {
		if d := &n.Devices[i]; d.Switch != nil {
			node, _, _ := fabric.CutPlace(d.Switch.LeadsTo)
			if id, ok := w.byNode[node]; ok {
				kick[id] = true
			}
		}
	}
}

// cable is a port of a switch and the network device of a host that it leads to.
type cable struct{ port, nic place }

// cablesTo are the cables to a node at ports of a role, by the ports' names.
func (w *world) cablesTo(nodeID, role string) []cable {
	var out []cable
	for i := range w.nodes[fabricNode].Devices {
		d := &w.nodes[fabricNode].Devices[i]
		node, device, ok := fabric.CutPlace(d.Switch.LeadsTo)
		if ok && d.Switch.Role == role && w.byNode[node] == nodeID && w.devices[place{nodeID, device}] != nil {
			out = append(out, cable{place{fabricNode, d.Name}, place{nodeID, device}})
		}
	}
	return out
}

// cableFor picks the cable by which copies for a service go between the fabric and a node. Behind it nobody can tell whose copies are whose: so
// it serves one service, the oldest first, and only one whose project its port belongs to.
func (w *world) cableFor(s *storedService, nodeID, role string) (c cable, why string) {
	all := w.cablesTo(nodeID, role)
	node := w.nodes[nodeID].Node
	if len(all) == 0 {
		return c, "node " + node + " has no cable to a " + role + " port of the fabric: say with leads_to in the fabric's description which port leads to which of its devices"
	}
	list := w.overCables(nodeID, role)
	if !slices.Contains(list, s) {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *storedService) int {
		return cmp.Or(a.Service.Created.Compare(b.Service.Created), strings.Compare(a.Service.ID, b.Service.ID))
	})
	taken := make(map[place]bool)
	for _, direct := range []bool{true, false} { // a service that is at the end of a cable has no choice
		for _, o := range list {
			at, _ := w.target(o)
			end := slices.ContainsFunc(all, func(c cable) bool { return c.nic == at })
			if end != direct {
				continue
			}
			i := slices.IndexFunc(all, func(c cable) bool {
				p := w.port(w.owners[fabricNode][c.port.device])
				into := w.devices[c.port].Switch.Into != ""
				return !taken[c.port] && !into && (!direct || c.nic == at) && p != nil && fits(p, o.Service.Project, o.Admin)
			})
			if i < 0 && o == s {
				return c, "node " + node + " has no cable to a " + role + " port of the fabric that is the service's project's and serves nothing else"
			}
			if i >= 0 {
				if o == s {
					return all[i], ""
				}
				taken[all[i].port] = true
			}
		}
	}
	return c, "node " + node + " has no cable that is free"
}

// overCables are the services whose copies go between the fabric and a node by ports of the role.
func (w *world) overCables(nodeID, role string) []*storedService {
	at, from := nodeID, fabricNode // delivery: the service is at the node
	if role == want.RoleFilter {
		at, from = fabricNode, nodeID
	}
	var out []*storedService
	for _, port := range w.owners[at] {
		for id := range w.servicesOf[port] {
			s := w.services[id]
			if to, ok := w.target(s); ok && to.nodeID == at && w.flowsFrom(s, from) {
				out = append(out, s)
			}
		}
	}
	return out
}

// flowsFrom reports whether a flow of the service has its source at the node.
func (w *world) flowsFrom(s *storedService, nodeID string) bool {
	for id := range w.flowsTo[s.Service.ID] {
		for _, p := range w.places[w.flows[id].Flow.PortID] {
			if p.nodeID == nodeID && w.flowRefused(w.flows[id]) == "" {
				return true
			}
		}
	}
	return false
}

// switched is what a flow means at one place of its source port, when that or its destination is in the fabric; more is what is to be
// done elsewhere for it, at moreAt. s is complete but for its target.
func (w *world) switched(f *storedFlow, svc *storedService, s tap.Source, at, to place) (_ tap.Source, more *tap.Source, moreAt, why string) {
	switch {
	case at == to:
		return s, nil, "", "source and destination are the same port"
	case at.nodeID == to.nodeID:
		s.To.Device = tap.Device{Name: to.device}
		return s, nil, "", ""
	case at.nodeID == fabricNode:
		c, why := w.cableFor(svc, to.nodeID, want.RoleDelivery)
		if why != "" {
			return s, nil, "", why
		}
		s.To.Device = tap.Device{Name: c.port.device}
		if c.nic == to {
			return s, nil, "", ""
		}
		relay := s
		relay.ID, relay.Direction = f.Flow.ID+relaySuffix, tap.Arriving
		relay.Device, relay.To = w.identify(c.nic, w.owners[to.nodeID][c.nic.device]), tap.Target{Device: tap.Device{Name: to.device}}
		if w.devices[to] != nil {
			relay.To.Device = w.identify(to, svc.Service.PortID)
		}
		return s, &relay, to.nodeID, ""
	}
	c, why := w.cableFor(svc, at.nodeID, want.RoleFilter)
	if why != "" {
		return s, nil, "", why
	}
	if c.nic == at {
		return s, nil, "", "node " + w.nodes[at.nodeID].Node + ": the source is the device that leads to the fabric; tap the port " + c.port.device + " of the switch"
	}
	s.To.Device = w.identify(c.nic, w.owners[at.nodeID][c.nic.device])
	across := tap.Source{ID: f.Flow.ID + switchSuffix, Device: tap.Device{Name: c.port.device}, Direction: tap.Out, To: tap.Target{Device: tap.Device{Name: to.device}}}
	across.Options.Expires, across.Options.Priority = s.Options.Expires, s.Options.Priority
	return s, &across, fabricNode, ""
}

// lowerCables adds what a node does for flows whose source is not there, and for policies.
func (w *world) lowerCables(nodeID string, set *tap.Set) {
	if w.nodes[fabricNode] == nil {
		return
	}
	for _, port := range w.owners[nodeID] {
		for sid := range w.servicesOf[port] {
			for id := range w.flowsTo[sid] {
				f := w.flows[id]
				for _, at := range w.places[f.Flow.PortID] {
					if at.nodeID == nodeID || at.nodeID != fabricNode && nodeID != fabricNode {
						continue
					}
					if _, more, moreAt, why := w.legs(f, at); why == "" && more != nil && moreAt == nodeID {
						set.Sources = append(set.Sources, *more)
					}
				}
			}
		}
	}
	for i := range w.nodes[fabricNode].Devices {
		d := &w.nodes[fabricNode].Devices[i]
		node, device, ok := fabric.CutPlace(d.Switch.LeadsTo)
		if ok && d.Switch.Into != "" && w.byNode[node] == nodeID {
			set.Sources = append(set.Sources, tap.Source{
				ID: d.PortID + intoSuffix, Device: tap.Device{Name: device}, Direction: tap.Arriving,
				Options: tap.Options{Filter: d.Switch.Exact}, To: tap.Target{Device: tap.Device{Name: d.Switch.Into}},
			})
		}
	}
}

// switchWishes is what the fabric shall carry.
func (w *world) switchWishes() (list []oftap.Wish, sinks []tap.Sink) {
	set := w.lower(fabricNode)
	for _, s := range set.Sources {
		wish := oftap.Wish{Source: s}
		if f := w.flows[s.ID]; f != nil {
			if _, more, _, _ := w.legs(f, place{fabricNode, s.Device.Name}); more != nil {
				to, _ := w.target(w.services[f.Flow.ServiceID])
				wish.ExactAt = w.nodes[to.nodeID].Node + "/" + to.device
			}
		}
		list = append(list, wish)
	}
	return list, set.Sinks
}

// carriable refuses a flow that the fabric would have a part in and cannot do. c.mu is held.
func (c *Controller) carriable(f *tap.Flow, admin bool) error {
	if c.taps.nodes[fabricNode] == nil {
		return nil
	}
	s := c.taps.services[f.ServiceID]
	to, ok := c.taps.target(s)
	if !ok {
		return nil
	}
	for _, at := range c.taps.places[f.PortID] {
		if at.nodeID != fabricNode && to.nodeID != fabricNode {
			continue
		}
		src, more, _, why := c.taps.legs(&storedFlow{Flow: *f, Admin: admin}, at)
		if why != "" {
			return &fault.Error{Kind: fault.Unsupported, Field: "source_port", Msg: why, Err: tap.ErrUnsupported}
		}
		w := oftap.Wish{Source: src}
		switch {
		case at.nodeID == fabricNode && more != nil:
			w.ExactAt = c.taps.nodes[to.nodeID].Node + "/" + to.device
		case at.nodeID != fabricNode:
			w.Source = *more
		}
		if c.fabric == nil {
			continue
		}
		if _, err := oftap.Policy(c.fabric.Layout(), w); err != nil && !errors.Is(err, tap.ErrNoDevice) {
			return err
		}
	}
	return nil
}

// leavesByTunnel refuses a mirror of a switch's port. c.mu is held.
func (c *Controller) leavesByTunnel(portID string) error {
	if !slices.ContainsFunc(c.taps.places[portID], func(p place) bool { return p.nodeID == fabricNode }) {
		return nil
	}
	return &fault.Error{
		Kind: fault.Unsupported, Field: "port_id", Msg: "switches send copies to ports, not in tunnels to addresses",
		Hint: "use a tap service at a delivery port, or at a host that one leads to", Err: tap.ErrUnsupported,
	}
}

// switchEnd is what the fabric says of its part in a tap. c.mu is held.
func (c *Controller) switchEnd(role, id string, rev int64) (tap.End, tap.Condition, string) {
	e := tap.End{Role: role, NodeID: fabricNode, Node: fabricNode}
	e.Status = tap.Status{ID: id, State: tap.Pending, Reason: "this server takes no OpenFlow switches: ask one that does"}
	if c.fabric != nil {
		st, ok := c.fabric.tapStatus(id, rev)
		if !ok {
			st = tap.Status{ID: id, State: tap.Pending, Reason: "the fabric has not taken it yet"}
		}
		e.Status = st
	}
	switch e.State {
	case tap.Active:
		return e, tap.Up, ""
	case tap.Failed:
		return e, tap.Error, "fabric: " + e.Reason
	case tap.Pending, tap.Expired:
	}
	return e, tap.Down, "fabric: " + e.Reason
}

// overCable adds what another node or the fabric says of a flow that goes by a cable, and returns the worse of both. c.mu is held.
func (c *Controller) overCable(r *tap.Report, f *storedFlow, at place, e tap.End, cond tap.Condition, why string) (tap.End, tap.Condition, string) {
	_, more, moreAt, _ := c.taps.legs(f, at)
	if more == nil {
		return e, cond, why
	}
	role := "switch"
	if at.nodeID == fabricNode { // the agent behind it counts what the flow wants; the switches may copy more
		e.Role, role = "switch", "source"
	}
	other, otherCond, otherWhy := c.end(role, moreAt, more.ID, f.meant)
	r.Ends = append(r.Ends, other)
	if otherCond == tap.Error || otherCond == tap.Down && cond == tap.Up {
		cond = otherCond
	}
	return e, cond, strings.Join(slices.DeleteFunc([]string{why, otherWhy}, func(s string) bool { return s == "" }), "; ")
}
