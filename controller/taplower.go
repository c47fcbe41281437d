package controller

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"opentap/tap"
)

// lower says what one node shall mirror. It authorises both ends of everything anew, whatever was allowed once: a source
// is only there while its port, its flow, the service and the service's port are of one project.
func (w *world) lower(nodeID string) tap.Set {
	var set tap.Set
	n := w.nodes[nodeID]
	if n == nil {
		return set
	}
	for device, port := range w.owners[nodeID] {
		at := place{nodeID, device}
		for id := range w.flowsOf[port] {
			if s, why := w.source(w.flows[id], at); why == "" {
				set.Sources = append(set.Sources, s)
			}
		}
		for id := range w.mirrorsOf[port] {
			if why := w.mirrorRefused(w.mirrors[id]); why == "" {
				set.Sources = append(set.Sources, w.mirrorSources(w.mirrors[id], at)...)
			}
		}
		for id := range w.servicesOf[port] {
			if s := w.services[id]; w.serviceRefused(s) == "" {
				set.Sinks = append(set.Sinks, w.sink(s, w.identify(at, port), nodeID))
			}
		}
	}
	for id := range w.making {
		s := w.services[id]
		if at, ok := w.target(s); ok && at.nodeID == nodeID && w.devices[at] == nil && w.serviceRefused(s) == "" {
			set.Sinks = append(set.Sinks, w.sink(s, tap.Device{Name: at.device}, nodeID))
		}
	}
	w.lowerCables(nodeID, &set)
	slices.SortFunc(set.Sources, func(a, b tap.Source) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(set.Sinks, func(a, b tap.Sink) int { return strings.Compare(a.ID, b.ID) })
	return set
}

// deviceToMake is what a device made for a port is called; "" = the port's name is none that a device can have.
func deviceToMake(p *tap.Port) string {
	name := p.Device
	if name == "" {
		name = p.Name
	}
	if name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t\n") || name == "." || name == ".." { // IFNAMSIZ, dev_valid_name
		return ""
	}
	return name
}

// identify says how the node shall find the device. The MAC of a device that is only known by its name is left out: it is
// the administrator's own, and may come back with another. Any other's is told, lest a name that was given to somebody
// else's device meanwhile be believed.
func (w *world) identify(at place, port string) tap.Device {
	d := w.devices[at]
	out := tap.Device{Name: d.Name, MAC: d.MAC, IfaceID: d.IfaceID}
	if p := w.port(port); p.Project == "" && d.IfaceID == "" && port == d.PortID {
		out.MAC = ""
	}
	return out
}

// fits reports whether who made a thing of the project may use the port for it.
func fits(p *tap.Port, project string, admin bool) bool {
	return p.Project != "" && p.Project == project || p.Project == "" && admin
}

// serviceRefused says why a service may receive nothing; "" = it may.
func (w *world) serviceRefused(s *storedService) string {
	p := w.port(s.Service.PortID)
	switch {
	case p == nil:
		return "its port is not there"
	case !fits(p, s.Service.Project, s.Admin):
		return "its port belongs to another project now"
	}
	return ""
}

// mirrorRefused says why a mirror may not be; "" = it may.
func (w *world) mirrorRefused(m *storedMirror) string {
	p := w.port(m.Mirror.PortID)
	switch {
	case p == nil:
		return "its port is not there"
	case !fits(p, m.Mirror.Project, m.Admin):
		return "its port belongs to another project now"
	case !m.Admin && len(w.underlays[m.Mirror.Remote]) > 0:
		return "its destination is the address of a node, where it could pass for another project's copies; only an administrator sends there"
	}
	return ""
}

// flowRefused says why a flow may not be; "" = it may.
func (w *world) flowRefused(f *storedFlow) string {
	s := w.services[f.Flow.ServiceID]
	p := w.port(f.Flow.PortID)
	switch {
	case s == nil:
		return "its service is not there"
	case p == nil:
		return "its source port is not there"
	case s.Service.Project != f.Flow.Project:
		return "its service belongs to another project"
	case !fits(p, f.Flow.Project, f.Admin):
		return "its source port belongs to another project now"
	}
	if why := w.serviceRefused(s); why != "" {
		return "of the service: " + why
	}
	if w.port(s.Service.PortID).Project != p.Project {
		return "its two ports belong to different projects now"
	}
	return ""
}

// target is where the copies for a service are to go: the place that its port came to last, rivals set aside. made is the node where a
// device shall be made for it, when it is nowhere.
func (w *world) target(s *storedService) (at place, ok bool) {
	if places := w.places[s.Service.PortID]; len(places) > 0 {
		return places[len(places)-1], true
	}
	if d := w.declared[s.Service.PortID]; s.Service.Options.Device && d != nil && d.Bind {
		if id, known := w.byNode[d.Port.Node]; known {
			if dev := deviceToMake(&d.Port); dev != "" && w.devices[place{id, dev}] == nil { // what is called so is another port
				return place{id, dev}, true
			}
		}
	}
	return place{}, false
}

// source is what a flow means at one place of its source port; why is not "" when it means nothing there.
func (w *world) source(f *storedFlow, at place) (s tap.Source, why string) {
	s, _, _, why = w.legs(f, at)
	return s, why
}

// legs is source, and what is to be done elsewhere for it when copies go through the fabric; see switched.
func (w *world) legs(f *storedFlow, at place) (s tap.Source, more *tap.Source, moreAt, why string) {
	if why := w.flowRefused(f); why != "" {
		return s, nil, "", why
	}
	svc := w.services[f.Flow.ServiceID]
	to, ok := w.target(svc)
	if !ok {
		return s, nil, "", "the service's port is on no node now"
	}
	s = tap.Source{ID: f.Flow.ID, Device: w.identify(at, f.Flow.PortID), Direction: f.Flow.Direction, Options: f.Flow.Options}
	s.Options.Expires = earlier(f.Flow.Options.Expires, svc.Service.Options.Expires)
	if at.nodeID == fabricNode || to.nodeID == fabricNode {
		return w.switched(f, svc, s, at, to)
	}
	if to.nodeID == at.nodeID {
		if to == at {
			return s, nil, "", "source and destination are the same device"
		}
		if w.devices[to] == nil {
			s.To.Device = tap.Device{Name: to.device} // it is made
		} else {
			s.To.Device = w.identify(to, svc.Service.PortID)
		}
		return s, nil, "", ""
	}
	addr, ok := reach(w.nodes[at.nodeID].Underlay, w.nodes[to.nodeID].Underlay)
	if !ok {
		return s, nil, "", "node " + w.nodes[at.nodeID].Node + " has no address from which it reaches node " + w.nodes[to.nodeID].Node
	}
	s.To = tap.Target{Remote: addr, Encap: encapOf(svc), TunnelID: svc.Service.TunnelID, UDPPort: tap.NodePort(encapOf(svc))}
	return s, nil, "", ""
}

func encapOf(s *storedService) tap.Encap {
	if e := s.Service.Options.Encap; e != "" {
		return e
	}
	return tap.VXLAN
}

// earlier of two times of which the zero one is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// reach picks the address of the other node: the first one of a family that both have.
func reach(from, to []netip.Addr) (netip.Addr, bool) {
	for _, t := range to {
		if slices.ContainsFunc(from, func(f netip.Addr) bool { return f.Is4() == t.Is4() }) {
			return t, true
		}
	}
	return netip.Addr{}, false
}

// mirrorSources are one source for each direction that a mirror has.
func (w *world) mirrorSources(m *storedMirror, at place) []tap.Source {
	var out []tap.Source
	for d, id := range m.Mirror.Directions {
		if m.Mirror.Type == tap.ERSPAN1 || m.Mirror.Type == tap.ERSPAN2 {
			id &= tap.MaxSession // as Open vSwitch and OVN cut it; the report says so
		}
		out = append(out, tap.Source{
			ID: mirrorSource(m.Mirror.ID, d), Device: w.identify(at, m.Mirror.PortID), Direction: d, Options: m.Mirror.Options,
			To: tap.Target{Remote: m.Mirror.Remote, Encap: m.Mirror.Type, TunnelID: id},
		})
	}
	return out
}

// mirrorSource is the id of a mirror's source of one direction.
func mirrorSource(id string, d tap.Direction) string { return id + "." + strings.ToLower(string(d)) }

// sink is what a service means at its port. Copies are taken only from nodes that shall send some.
func (w *world) sink(s *storedService, dev tap.Device, nodeID string) tap.Sink {
	out := tap.Sink{
		ID: s.Service.ID, Device: dev, Make: s.Service.Options.Device, Encap: encapOf(s), TunnelID: s.Service.TunnelID,
		UDPPort: tap.NodePort(encapOf(s)), Expires: s.Service.Options.Expires,
	}
	for id := range w.flowsTo[s.Service.ID] {
		f := w.flows[id]
		if w.flowRefused(f) != "" {
			continue
		}
		for _, p := range w.places[f.Flow.PortID] {
			if p.nodeID == nodeID {
				continue
			}
			for _, a := range w.nodes[p.nodeID].Underlay {
				if !slices.Contains(out.From, a) {
					out.From = append(out.From, a)
				}
			}
		}
	}
	slices.SortFunc(out.From, netip.Addr.Compare)
	return out
}
