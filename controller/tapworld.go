package controller

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"opentap/store"
	"opentap/tap"
)

// Where taps are stored. All of it begins as watched does, for what a node shall mirror follows from all of it: what
// services, flows and mirrors there are, whose the ports are, and where they are now.
const (
	tapPrefix      = "capture-tap/"
	servicePrefix  = tapPrefix + "service/"       // + id → storedService
	flowPrefix     = tapPrefix + "flow/"          // + id → storedFlow
	mirrorPrefix   = tapPrefix + "mirror/"        // + id → storedMirror
	portPrefix     = tapPrefix + "port/"          // + id → storedPort
	placePrefix    = tapPrefix + "node/"          // + node id → storedPlaces
	tunnelPrefix   = tapPrefix + "tunnel/"        // + id, hexadecimal → the service's id
	tunnelNext     = tapPrefix + "tunnel-next"    // → where the search for a free id goes on
	keyPrefix      = tapPrefix + "mirror-tunnel/" // + id → the mirror's id
	tunnelsMax     = 1 << 24
	reservedTunnel = 0 // not handed out: some tools take 0 for "no id"
)

// storedService is a service as the store holds it. Admin says that it was made by an administrator, whose own are the
// ports that belong to no project.
type storedService struct {
	Service tap.Service `json:"service"`
	Admin   bool        `json:"admin,omitempty"`
	rev     int64
	meant   int64 // revision since which it means what it means: a new name means nothing to a node
}

type storedFlow struct {
	Flow       tap.Flow `json:"flow"`
	Admin      bool     `json:"admin,omitempty"`
	rev, meant int64
	filtering  string
}

type storedMirror struct {
	Mirror     tap.Mirror `json:"mirror"`
	Admin      bool       `json:"admin,omitempty"`
	rev, meant int64
	filtering  string
}

// storedPort is a port that somebody told us of. Which device it is follows from what is said of it; see bind.
type storedPort struct {
	Port        tap.Port       `json:"port"`
	Description string         `json:"description,omitempty"`
	Origin      tap.Origin     `json:"origin"`
	Bind        bool           `json:"bind,omitempty"` // an administrator said so: MAC, node and device may be believed
	Created     time.Time      `json:"created_at"`
	Extra       map[string]any `json:"extra,omitempty"` // further attributes of Neutron's, echoed
	rev         int64
}

// storedPlaces is what a node has: its address for copies, and its network devices. It is written by the controller that the
// node is connected to, when it changes.
type storedPlaces struct {
	NodeID   string         `json:"node_id"`
	Node     string         `json:"node"`
	Underlay []netip.Addr   `json:"underlay,omitempty"`
	Devices  []storedDevice `json:"devices,omitempty"` // by name
	rev      int64
}

// storedDevice is a network device of a node.
type storedDevice struct {
	Name    string    `json:"name"`
	MAC     string    `json:"mac,omitempty"`
	IfaceID string    `json:"iface_id,omitempty"`
	PortID  string    `json:"port_id"`         // of the port that it is when nobody claims it; stays through renames
	Since   time.Time `json:"since"`           // it is there
	Gone    time.Time `json:"gone,omitzero"`   // since then it is not, but a tap waits for it
	Rival   bool      `json:"rival,omitempty"` // it came while its port was at another node, which has it still: copies go there
	Left    time.Time `json:"left,omitzero"`   // when its port left the node before; see moveGap
	From    string    `json:"from,omitempty"`  // the name of that node

	Switch *switchPort `json:"switch,omitempty"` // of a port of a switch
}

// place is where a port is.
type place struct {
	nodeID string
	device string // its name there
}

type ids map[string]struct{}

// counted is a sort of things, by its prefix, of a project.
type counted struct{ prefix, project string }

// world is all that is known of taps and ports, and what follows from it. It is a function of the store's content at one
// revision and of nothing else, so that every controller wishes the same of a node, and a revision names that wish. The
// owner's lock guards it.
type world struct {
	services map[string]*storedService
	flows    map[string]*storedFlow
	mirrors  map[string]*storedMirror
	declared map[string]*storedPort
	nodes    map[string]*storedPlaces // by node id
	tunnels  map[uint32]string        // of services

	// What follows.
	servicesOf, flowsOf, mirrorsOf map[string]ids                 // by port
	flowsTo                        map[string]ids                 // by service
	places                         map[string][]place             // by port: rivals first, then the newest last
	owners                         map[string]map[string]string   // node id → device name → port
	devices                        map[place]*storedDevice        //
	seen                           map[string]map[string]struct{} // trait of a device → ids of nodes that have such a one
	claims                         map[string]ids                 // trait → declared ports that claim it
	byNode                         map[string]string              // node's name → its id; where two have it, the one that told last
	named                          map[string]ids                 // node's name → ids of all that have it
	rivals                         ids                            // nodes with devices that are rivals
	underlays                      map[netip.Addr]ids             // address for copies → nodes that have it
	mirrorsTo                      map[netip.Addr]ids             // address → mirrors that send there
	counts                         map[counted]int                // what projects have
	making                         ids                            // services that want a device made
	mortal                         ids                            // services, flows and mirrors that expire
}

func newWorld() *world {
	return &world{
		services: map[string]*storedService{}, flows: map[string]*storedFlow{}, mirrors: map[string]*storedMirror{},
		declared: map[string]*storedPort{}, nodes: map[string]*storedPlaces{}, tunnels: map[uint32]string{},
		servicesOf: map[string]ids{}, flowsOf: map[string]ids{}, mirrorsOf: map[string]ids{}, flowsTo: map[string]ids{},
		places: map[string][]place{}, owners: map[string]map[string]string{}, devices: map[place]*storedDevice{},
		seen: map[string]map[string]struct{}{}, claims: map[string]ids{}, byNode: map[string]string{}, making: ids{}, mortal: ids{},
		named: map[string]ids{}, rivals: ids{}, underlays: map[netip.Addr]ids{}, mirrorsTo: map[netip.Addr]ids{}, counts: map[counted]int{},
	}
}

func link[K comparable](m map[K]ids, key K, id string) {
	if m[key] == nil {
		m[key] = ids{}
	}
	m[key][id] = struct{}{}
}

func unlink[K comparable](m map[K]ids, key K, id string) {
	if delete(m[key], id); len(m[key]) == 0 {
		delete(m, key)
	}
}

// apply takes over one change and adds the nodes whose wishes it may change to kick. A value that cannot be read is an
// error, and changes nothing.
func (w *world) apply(ev store.Event, kick map[string]bool) error {
	switch kind, id := tapKey(ev.Key); kind {
	case servicePrefix:
		old := w.services[id]
		var fresh *storedService
		if !ev.Deleted {
			fresh = &storedService{rev: ev.ModRevision}
			if err := json.Unmarshal(ev.Value, fresh); err != nil || fresh.Service.ID != id {
				return fmt.Errorf("service %s cannot be read: %w", id, err)
			}
			if fresh.meant = ev.ModRevision; old != nil && old.Service.Options == fresh.Service.Options {
				fresh.meant = old.meant
			}
		}
		w.setService(id, old, fresh, kick)
	case flowPrefix:
		old := w.flows[id]
		var fresh *storedFlow
		if !ev.Deleted {
			fresh = &storedFlow{rev: ev.ModRevision}
			if err := json.Unmarshal(ev.Value, fresh); err != nil || fresh.Flow.ID != id {
				return fmt.Errorf("flow %s cannot be read: %w", id, err)
			}
			if fresh.meant = ev.ModRevision; old != nil && old.Flow.Options == fresh.Flow.Options {
				fresh.meant = old.meant
			}
			fresh.filtering = explain(fresh.Flow.Options.Filter)
		}
		w.setFlow(id, old, fresh, kick)
	case mirrorPrefix:
		old := w.mirrors[id]
		var fresh *storedMirror
		if !ev.Deleted {
			fresh = &storedMirror{rev: ev.ModRevision}
			if err := json.Unmarshal(ev.Value, fresh); err != nil || fresh.Mirror.ID != id {
				return fmt.Errorf("mirror %s cannot be read: %w", id, err)
			}
			if fresh.meant = ev.ModRevision; old != nil && old.Mirror.Options == fresh.Mirror.Options {
				fresh.meant = old.meant
			}
			fresh.filtering = explain(fresh.Mirror.Options.Filter)
		}
		w.setMirror(id, old, fresh, kick)
	case portPrefix:
		old := w.declared[id]
		var fresh *storedPort
		if !ev.Deleted {
			fresh = &storedPort{rev: ev.ModRevision}
			if err := json.Unmarshal(ev.Value, fresh); err != nil || fresh.Port.ID != id {
				return fmt.Errorf("port %s cannot be read: %w", id, err)
			}
		}
		w.setPort(id, old, fresh, kick)
	case placePrefix:
		old := w.nodes[id]
		var fresh *storedPlaces
		if !ev.Deleted {
			fresh = &storedPlaces{rev: ev.ModRevision}
			if err := json.Unmarshal(ev.Value, fresh); err != nil || fresh.NodeID != id {
				return fmt.Errorf("devices of node %s cannot be read: %w", id, err)
			}
		}
		w.setNode(id, old, fresh, kick)
	}
	return nil
}

// tapKey takes a key apart: which of the prefixes above, and what is behind it.
func tapKey(key string) (kind, id string) {
	for _, p := range []string{servicePrefix, flowPrefix, mirrorPrefix, portPrefix, placePrefix} {
		if rest, ok := strings.CutPrefix(key, p); ok {
			return p, rest
		}
	}
	return "", ""
}

func (w *world) setService(id string, old, fresh *storedService, kick map[string]bool) {
	if old != nil {
		w.touchService(id, kick)
		unlink(w.servicesOf, old.Service.PortID, id)
		w.counts[counted{servicePrefix, old.Service.Project}]--
		delete(w.tunnels, old.Service.TunnelID)
		delete(w.services, id)
		delete(w.making, id)
		delete(w.mortal, id)
	}
	if fresh != nil {
		w.services[id] = fresh
		if fresh.Service.Options.Device {
			w.making[id] = struct{}{}
		}
		w.mayDie(id, fresh.Service.Options)
		w.tunnels[fresh.Service.TunnelID] = id
		link(w.servicesOf, fresh.Service.PortID, id)
		w.counts[counted{servicePrefix, fresh.Service.Project}]++
		w.touchService(id, kick)
	}
}

func (w *world) setFlow(id string, old, fresh *storedFlow, kick map[string]bool) {
	for _, f := range []*storedFlow{old, fresh} {
		if f == nil {
			continue
		}
		w.kickPort(f.Flow.PortID, kick)
		if s := w.services[f.Flow.ServiceID]; s != nil {
			w.kickPort(s.Service.PortID, kick)
		}
	}
	if old != nil {
		unlink(w.flowsOf, old.Flow.PortID, id)
		unlink(w.flowsTo, old.Flow.ServiceID, id)
		w.counts[counted{flowPrefix, old.Flow.Project}]--
		delete(w.flows, id)
		delete(w.mortal, id)
	}
	if fresh != nil {
		w.flows[id] = fresh
		w.mayDie(id, fresh.Flow.Options)
		link(w.flowsOf, fresh.Flow.PortID, id)
		link(w.flowsTo, fresh.Flow.ServiceID, id)
		w.counts[counted{flowPrefix, fresh.Flow.Project}]++
	}
}

func (w *world) setMirror(id string, old, fresh *storedMirror, kick map[string]bool) {
	if old != nil {
		w.kickPort(old.Mirror.PortID, kick)
		unlink(w.mirrorsOf, old.Mirror.PortID, id)
		unlink(w.mirrorsTo, old.Mirror.Remote, id)
		w.counts[counted{mirrorPrefix, old.Mirror.Project}]--
		delete(w.mirrors, id)
		delete(w.mortal, id)
	}
	if fresh != nil {
		w.mirrors[id] = fresh
		w.mayDie(id, fresh.Mirror.Options)
		link(w.mirrorsOf, fresh.Mirror.PortID, id)
		link(w.mirrorsTo, fresh.Mirror.Remote, id)
		w.counts[counted{mirrorPrefix, fresh.Mirror.Project}]++
		w.kickPort(fresh.Mirror.PortID, kick)
	}
}

func (w *world) mayDie(id string, o tap.Options) {
	if !o.Expires.IsZero() {
		w.mortal[id] = struct{}{}
	}
}

// touchService kicks all nodes that a service concerns: its own, and those of its flows.
func (w *world) touchService(id string, kick map[string]bool) {
	s := w.services[id]
	if s == nil {
		return
	}
	w.kickPort(s.Service.PortID, kick)
	for f := range w.flowsTo[id] {
		w.kickPort(w.flows[f].Flow.PortID, kick)
	}
}

// touchPort kicks all nodes that a port concerns, those of the other ends of its taps among them.
func (w *world) touchPort(id string, kick map[string]bool) {
	w.kickPort(id, kick)
	if slices.ContainsFunc(w.places[id], func(p place) bool { return p.nodeID == fabricNode }) {
		w.kickCables(w.nodes[fabricNode], kick)
	}
	for s := range w.servicesOf[id] {
		w.touchService(s, kick)
	}
	for f := range w.flowsOf[id] {
		if s := w.services[w.flows[f].Flow.ServiceID]; s != nil {
			w.kickPort(s.Service.PortID, kick)
		}
	}
}

// kickPort kicks the nodes where a port is.
func (w *world) kickPort(id string, kick map[string]bool) {
	for _, p := range w.places[id] {
		kick[p.nodeID] = true
	}
	if d := w.declared[id]; d != nil && d.Port.Node != "" { // a device may be made for it there
		if n, ok := w.byNode[d.Port.Node]; ok {
			kick[n] = true
		}
	}
}

// used reports whether a tap names the port.
func (w *world) used(id string) bool {
	return len(w.servicesOf[id])+len(w.flowsOf[id])+len(w.mirrorsOf[id]) > 0
}

// traits are what a declared port can be known by, of a device of a node.
func traits(node string, d *storedDevice) []string {
	out := []string{"device\x00" + node + "\x00" + d.Name}
	if d.IfaceID != "" {
		out = append(out, "iface\x00"+strings.ToLower(d.IfaceID))
	}
	if d.MAC != "" {
		out = append(out, "mac\x00"+d.MAC)
	}
	if p := neutronName(d.Name); p != "" {
		out = append(out, "neutron\x00"+p)
	}
	return out
}

// neutronName returns the part of a port's id that is in the name of a device of Neutron's or Nova's (nova/network/model.py,
// NIC_NAME_LEN = 14: a prefix of three letters and the first 11 characters of the id).
func neutronName(device string) string {
	if len(device) != 14 || device[11] != '-' {
		return ""
	}
	switch device[:3] {
	case "tap", "vhu":
		return device[3:]
	}
	return ""
}

// claimsOf are the traits of devices that a declared port is.
func claimsOf(p *storedPort) []string {
	out := []string{"iface\x00" + p.Port.ID, "neutron\x00" + p.Port.ID[:min(11, len(p.Port.ID))]}
	if !p.Bind {
		return out
	}
	if p.Port.Node != "" && p.Port.Device != "" {
		out = append(out, "device\x00"+p.Port.Node+"\x00"+p.Port.Device)
	}
	if p.Port.MAC != "" && p.Port.Device == "" {
		out = append(out, "mac\x00"+p.Port.MAC)
	}
	return out
}

func (w *world) setPort(id string, old, fresh *storedPort, kick map[string]bool) {
	w.touchPort(id, kick)
	nodes := make(map[string]bool)
	for _, p := range []*storedPort{old, fresh} {
		if p == nil {
			continue
		}
		for _, t := range claimsOf(p) {
			for n := range w.seen[t] {
				nodes[n] = true
			}
		}
	}
	if old != nil {
		for _, t := range claimsOf(old) {
			unlink(w.claims, t, id)
		}
		w.counts[counted{portPrefix, old.Port.Project}]--
		delete(w.declared, id)
	}
	if fresh != nil {
		w.declared[id] = fresh
		for _, t := range claimsOf(fresh) {
			link(w.claims, t, id)
		}
		w.counts[counted{portPrefix, fresh.Port.Project}]++
	}
	for n := range nodes {
		w.bindNode(n, kick)
	}
	w.touchPort(id, kick)
}

func (w *world) setNode(id string, old, fresh *storedPlaces, kick map[string]bool) {
	w.kickCables(old, kick)
	w.kickCables(fresh, kick)
	if old != nil {
		for i := range old.Devices {
			for _, t := range traits(old.Node, &old.Devices[i]) {
				if delete(w.seen[t], id); len(w.seen[t]) == 0 {
					delete(w.seen, t)
				}
			}
		}
		for _, a := range old.Underlay {
			unlink(w.underlays, a, id)
		}
		unlink(w.named, old.Node, id)
		delete(w.nodes, id)
		delete(w.rivals, id)
	}
	if fresh != nil {
		w.nodes[id] = fresh
		link(w.named, fresh.Node, id)
		for _, a := range fresh.Underlay {
			link(w.underlays, a, id)
		}
		if slices.ContainsFunc(fresh.Devices, func(d storedDevice) bool { return d.Rival && d.Gone.IsZero() }) {
			w.rivals[id] = struct{}{}
		}
		for i := range fresh.Devices {
			if !fresh.Devices[i].Gone.IsZero() {
				continue
			}
			for _, t := range traits(fresh.Node, &fresh.Devices[i]) {
				if w.seen[t] == nil {
					w.seen[t] = map[string]struct{}{}
				}
				w.seen[t][id] = struct{}{}
			}
		}
	}
	for _, p := range []*storedPlaces{old, fresh} {
		if p != nil {
			w.nameNode(p.Node)
		}
	}
	moved := old == nil || fresh == nil || !slices.Equal(old.Underlay, fresh.Underlay)
	if moved {
		w.touchMirrors(old, fresh, kick)
		for _, p := range w.owners[id] {
			w.touchPort(p, kick)
		}
	}
	w.bindNode(id, kick)
	if moved {
		for _, p := range w.owners[id] {
			w.touchPort(p, kick)
		}
	}
}

// nameNode finds the node that a name means. A host that was made anew has its old one's name until that is forgotten.
func (w *world) nameNode(name string) {
	var newest *storedPlaces
	for id := range w.named[name] {
		if n := w.nodes[id]; newest == nil || n.rev > newest.rev {
			newest = n
		}
	}
	if delete(w.byNode, name); newest != nil {
		w.byNode[name] = newest.NodeID
	}
}

// touchMirrors kicks the nodes of mirrors that send to an address which a node has now, or has no more: see mirrorRefused.
func (w *world) touchMirrors(old, fresh *storedPlaces, kick map[string]bool) {
	for _, n := range []*storedPlaces{old, fresh} {
		if n == nil {
			continue
		}
		for _, a := range n.Underlay {
			for id := range w.mirrorsTo[a] {
				w.kickPort(w.mirrors[id].Mirror.PortID, kick)
			}
		}
	}
}

// bindNode finds out anew which ports the devices of a node are.
func (w *world) bindNode(id string, kick map[string]bool) {
	before := w.owners[id]
	after := make(map[string]string)
	n := w.nodes[id]
	was := make(map[string]*storedDevice)
	for name := range before {
		was[name] = w.devices[place{id, name}]
		delete(w.devices, place{id, name})
	}
	if n != nil {
		for i := range n.Devices {
			if d := &n.Devices[i]; d.Gone.IsZero() {
				after[d.Name] = w.bind(n, d)
				w.devices[place{id, d.Name}] = d
			}
		}
	}
	for name, port := range before {
		if d := w.devices[place{id, name}]; after[name] == port && d != nil && was[name] != nil && d.MAC == was[name].MAC && d.IfaceID == was[name].IfaceID && d.Rival == was[name].Rival {
			continue // nothing about it has changed
		}
		w.touchPort(port, kick)
		if after[name] != port {
			w.places[port] = slices.DeleteFunc(w.places[port], func(p place) bool { return p == place{id, name} })
			if len(w.places[port]) == 0 {
				delete(w.places, port)
			}
		}
	}
	w.owners[id] = after
	if len(after) == 0 {
		delete(w.owners, id)
	}
	for name, port := range after {
		if before[name] == port {
			w.sortPlaces(port)
			continue
		}
		w.places[port] = append(w.places[port], place{id, name})
		w.sortPlaces(port)
		w.touchPort(port, kick)
	}
}

// sortPlaces puts the newest last, and rivals first: a node that says that it has a port which another one has does not get
// what is meant for that port.
func (w *world) sortPlaces(port string) {
	slices.SortFunc(w.places[port], func(a, b place) int {
		if ra, rb := w.devices[a].Rival, w.devices[b].Rival; ra != rb {
			if ra {
				return -1
			}
			return 1
		}
		if c := w.devices[a].Since.Compare(w.devices[b].Since); c != 0 {
			return c
		}
		return strings.Compare(a.nodeID+"\x00"+a.device, b.nodeID+"\x00"+b.device)
	})
}

// bind says which port a device is: the one whose id Open vSwitch or its name has, the one that an administrator bound to
// node and name, the one with its MAC if no other device of the node has that, or else one of its own. A node is not
// believed to have a port of which an administrator or Neutron says that it is on another one.
func (w *world) bind(n *storedPlaces, d *storedDevice) string {
	iface := strings.ToLower(d.IfaceID)
	for _, t := range []string{"iface\x00" + iface, "neutron\x00" + neutronName(d.Name), "device\x00" + n.Node + "\x00" + d.Name} {
		if id := w.claimant(t); id != "" && w.belongs(id, n.Node) {
			return id
		}
	}
	if tap.IsUUID(iface) && w.declared[iface] == nil && !tap.IsPortID(iface) {
		return iface
	}
	if d.MAC != "" {
		alone := true
		for i := range n.Devices {
			if o := &n.Devices[i]; o != d && o.MAC == d.MAC && o.Gone.IsZero() {
				alone = false
			}
		}
		if id := w.claimant("mac\x00" + d.MAC); id != "" && alone && w.belongs(id, n.Node) {
			return id
		}
	}
	return d.PortID
}

// belongs reports whether a declared port may be on a node of this name. Hosts are called by their first label by some, and
// by all of them by others.
func (w *world) belongs(port, node string) bool {
	d := w.declared[port]
	if !d.Bind || d.Port.Node == "" {
		return true
	}
	a, b := strings.ToLower(d.Port.Node), strings.ToLower(node)
	if a == b {
		return true
	}
	short, domain, _ := strings.Cut(a, ".")
	other, otherDomain, _ := strings.Cut(b, ".")
	return short == other && (domain == "" || otherDomain == "") && d.Origin == tap.Neutron
}

// claimant returns the one declared port that claims a trait. Where two do, neither is believed.
func (w *world) claimant(trait string) string {
	if strings.HasSuffix(trait, "\x00") || len(w.claims[trait]) != 1 {
		return ""
	}
	for id := range w.claims[trait] {
		return id
	}
	return ""
}

// port describes a port; nil = there is none.
func (w *world) port(id string) *tap.Port {
	var p tap.Port
	d := w.declared[id]
	places := w.places[id]
	switch {
	case d != nil:
		p = d.Port
	case len(places) > 0:
		p = tap.Port{ID: id}
	default:
		return nil
	}
	if len(places) > 0 {
		at := places[len(places)-1]
		dev := w.devices[at]
		p.Node, p.Device = w.nodes[at.nodeID].Node, at.device
		if p.Name == "" {
			p.Name = at.device
		}
		if p.MAC == "" {
			p.MAC = dev.MAC
		}
	}
	return &p
}
