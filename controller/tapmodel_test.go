package controller

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"opentap/agentapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/store"
	"opentap/store/mem"
	"opentap/tap"
	"opentap/want"
)

// fakeAgent is a node that makes real whatever it was last told, and goes on with that when it is away.
type fakeAgent struct {
	id, name  string
	addr      netip.Addr
	devices   map[string]string // name → MAC
	told      map[string]string // as it last said
	connected bool
	held      agentapi.Desired
}

// fakeFleet is the agents and the way to them.
type fakeFleet struct {
	mu     sync.Mutex
	c      *Controller
	agents map[string]*fakeAgent
}

func (f *fakeFleet) Kick(nodeID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.agents[nodeID]; a != nil && a.connected {
		f.obey(a)
	}
}

// obey has an agent take what it shall do. f.mu is held.
func (f *fakeFleet) obey(a *fakeAgent) {
	d, err := f.c.Desired(context.Background(), a.id)
	if err != nil || d.Revision < a.held.Revision {
		return // an older set is refused
	}
	a.held = d
	states := []tap.Status{}
	for _, s := range d.Taps.Sources {
		states = append(states, tap.Status{ID: s.ID, State: tap.Active, Since: time.Now()})
	}
	for _, s := range d.Taps.Sinks {
		states = append(states, tap.Status{ID: s.ID, State: tap.Active, Since: time.Now()})
	}
	f.c.TapStates(a.id, states)
	f.c.Actual(a.id, d.Revision, nil, true)
}

// tell has an agent say what it has.
func (f *fakeFleet) tell(a *fakeAgent) {
	var points []point.Point
	for _, name := range slices.Sorted(maps.Keys(a.devices)) {
		points = append(points, point.Point{Name: name, Kind: point.Netdev, Present: true, Up: true, MAC: a.devices[name], LinkType: 1})
	}
	a.told = maps.Clone(a.devices)
	f.c.Inventory(a.id, points, want.Node{Underlay: []netip.Addr{a.addr}})
}

func (f *fakeFleet) connect(a *fakeAgent) {
	f.c.Joined(agentapi.Identity{NodeID: a.id, NodeName: a.name, Version: "test"})
	f.mu.Lock()
	a.connected = true
	f.mu.Unlock()
	f.tell(a)
	f.Kick(a.id)
}

func (f *fakeFleet) Open(context.Context, string, string, string, want.OpenOptions) (*want.Retrieval, error) {
	return nil, fault.New(fault.Unsupported, "no")
}

func (f *fakeFleet) Stream(context.Context, <-chan struct{}, string, string, want.LiveSpec, io.Writer) error {
	return fault.New(fault.Unsupported, "no")
}

// modelPort is a port as the test knows it.
type modelPort struct{ id, mac, project string }

type modelTap struct {
	project, port, service string
	expires                time.Time
}

type modelMirror struct {
	project, port string
	tunnel        uint32
}

// model is what ought to be.
type model struct {
	ports    []*modelPort
	where    map[string]string // MAC → node id; absent = nowhere
	services map[string]modelTap
	flows    map[string]modelTap
	mirrors  map[string]modelMirror
	everIDs  map[string]bool
}

// modelRun is one random life of an installation.
type modelRun struct {
	t     *rapid.T
	store store.Store
	fleet *fakeFleet
	m     model
	users map[string]auth.Identity
	stop  func()
}

func (r *modelRun) start() {
	c := New(DefaultConfig(), r.store, &trail{}, slog.New(slog.DiscardHandler))
	r.fleet.mu.Lock()
	r.fleet.c = c
	r.fleet.mu.Unlock()
	c.SetHub(r.fleet)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
	if err := c.Ready(ctx); err != nil {
		r.t.Fatal(err)
	}
	for _, a := range r.agents() {
		if a.connected {
			r.fleet.connect(a)
		}
	}
}

func (r *modelRun) agents() []*fakeAgent {
	var out []*fakeAgent
	for _, id := range slices.Sorted(maps.Keys(r.fleet.agents)) {
		out = append(out, r.fleet.agents[id])
	}
	return out
}

func (r *modelRun) until(what string, ok func() bool) {
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// settled waits until every agent that is there has what it shall have, and the store knows where everything is.
func (r *modelRun) settled() {
	r.until("agents have what is wished", func() bool {
		for _, a := range r.agents() {
			if !a.connected {
				continue
			}
			r.fleet.c.mu.Lock()
			wish := r.fleet.c.taps.lower(a.id)
			n := r.fleet.c.nodes[a.id]
			known := n != nil && n.told && !r.fleet.c.moved[a.id]
			if p := r.fleet.c.taps.nodes[a.id]; p == nil || !known {
				r.fleet.c.mu.Unlock()
				return false
			}
			r.fleet.c.mu.Unlock()
			r.fleet.mu.Lock()
			same := reflect.DeepEqual(a.held.Taps, wish)
			r.fleet.mu.Unlock()
			if !same {
				return false
			}
		}
		return true
	})
}

// owner is the project of whose port a device is; "" = nobody's.
func (m *model) owner(mac string) string {
	for _, p := range m.ports {
		if p.mac == mac {
			return p.project
		}
	}
	return ""
}

// check proves what must hold always.
func (r *modelRun) check() {
	r.settled()
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	deviceOwner := func(a *fakeAgent, d tap.Device) string { return r.m.owner(a.devices[d.Name]) }
	tunnels := map[uint32]string{}
	for _, a := range r.agents() {
		for _, s := range a.held.Taps.Sources {
			if mirror, _, isMirror := strings.Cut(s.ID, "."); isMirror {
				r.checkMirror(a, s, mirror)
				continue
			}
			f, ok := r.m.flows[s.ID]
			if a.connected {
				if !ok {
					r.t.Fatalf("%s copies for the flow %s, which is not there", a.name, s.ID)
				}
				if ends := earlier(f.expires, r.m.services[f.service].expires); !s.Options.Expires.Equal(ends) {
					r.t.Fatalf("%s ends the flow %s at %s, want %s", a.name, s.ID, s.Options.Expires, ends)
				}
				if got := deviceOwner(a, s.Device); got != f.project {
					r.t.Fatalf("%s copies packets of %q for a flow of %q", a.name, got, f.project)
				}
				if s.To.Device.Name != "" {
					if got := deviceOwner(a, s.To.Device); got != f.project {
						r.t.Fatalf("%s delivers packets of %q to a port of %q", a.name, f.project, got)
					}
				}
			}
			if !s.To.Remote.IsValid() {
				continue
			}
			// Wherever copies can arrive, also from an agent that has been away for long, they meet their own project or nobody.
			for _, b := range r.agents() {
				if b.addr != s.To.Remote {
					continue
				}
				for _, k := range b.held.Taps.Sinks {
					if k.TunnelID != s.To.TunnelID || k.Encap != s.To.Encap || !slices.Contains(k.From, a.addr) {
						continue
					}
					if b.connected && r.m.everOwner(s.ID) != deviceOwner(b, k.Device) {
						r.t.Fatalf("copies of %q arrive at a port of %q on %s", r.m.everOwner(s.ID), deviceOwner(b, k.Device), b.name)
					}
				}
			}
		}
	}
	r.fleet.c.mu.Lock()
	defer r.fleet.c.mu.Unlock()
	for id, s := range r.fleet.c.taps.services {
		if other := tunnels[s.Service.TunnelID]; other != "" || s.Service.TunnelID == 0 || s.Service.TunnelID >= tunnelsMax {
			r.t.Fatalf("services %s and %s have the tunnel id %d", id, other, s.Service.TunnelID)
		}
		tunnels[s.Service.TunnelID] = id
	}
	if len(r.fleet.c.taps.services) != len(r.m.services) || len(r.fleet.c.taps.flows) != len(r.m.flows) || len(r.fleet.c.taps.mirrors) != len(r.m.mirrors) {
		r.t.Fatalf("%d services, %d flows and %d mirrors, want %d, %d and %d", len(r.fleet.c.taps.services), len(r.fleet.c.taps.flows), len(r.fleet.c.taps.mirrors),
			len(r.m.services), len(r.m.flows), len(r.m.mirrors))
	}
	r.checkWorld()
	// What is wished for is what the model says, no more and no less.
	for id, f := range r.m.flows {
		s := r.m.services[f.service]
		src, dst := r.told(r.m.macOf(f.port)), r.told(r.m.macOf(s.port))
		should := src && dst && r.m.projectOf(f.port) == f.project && r.m.projectOf(s.port) == f.project
		did := false
		for node := range r.fleet.c.taps.nodes {
			for _, x := range r.fleet.c.taps.lower(node).Sources {
				did = did || x.ID == id
			}
		}
		if should != did {
			r.t.Fatalf("flow %s of %s: wished for %v, want %v (port told of %v, service's port %v)", id, f.project, did, should, src, dst)
		}
		if rep := r.fleet.c.flowReport(r.fleet.c.taps.flows[id]); rep.Status == tap.Up && !did || rep.Status != tap.Up && rep.Reason == "" {
			r.t.Fatalf("flow %s is %s %q, and wished for is %v", id, rep.Status, rep.Reason, did)
		}
	}
}

// checkMirror proves that a mirror's source is what its project may have. r.fleet.mu is held.
func (r *modelRun) checkMirror(a *fakeAgent, s tap.Source, id string) {
	m, ok := r.m.mirrors[id]
	switch {
	case !a.connected: // it goes on with what it knows
	case !ok:
		r.t.Fatalf("%s sends copies for the mirror %s, which is not there", a.name, id)
	case r.m.owner(a.devices[s.Device.Name]) != m.project:
		r.t.Fatalf("%s mirrors packets of %q for %q", a.name, r.m.owner(a.devices[s.Device.Name]), m.project)
	case s.To.TunnelID != m.tunnel:
		r.t.Fatalf("%s mirrors with the tunnel id %d, want %d", a.name, s.To.TunnelID, m.tunnel)
	}
	for _, b := range r.agents() {
		if s.To.Remote == b.addr {
			r.t.Fatalf("%s sends a mirror of %q to the node %s", a.name, m.project, b.name)
		}
	}
}

// checkWorld proves that what is wished follows from what the store holds, and not from how this controller came to know it:
// another one that reads it now wishes the same. r.fleet.c.mu is held.
func (r *modelRun) checkWorld() {
	kvs, rev, err := r.store.List(context.Background(), tapPrefix)
	if err != nil {
		r.t.Fatal(err)
	}
	if rev != r.fleet.c.revision {
		return // something is on its way
	}
	w := newWorld()
	for _, kv := range kvs {
		if err := w.apply(store.Event{KV: kv}, map[string]bool{}); err != nil {
			r.t.Fatal(err)
		}
	}
	for node := range w.nodes {
		if mine, other := r.fleet.c.taps.lower(node), w.lower(node); !reflect.DeepEqual(mine, other) {
			r.t.Fatalf("of %s one controller wishes %+v, and another one %+v", node, mine, other)
		}
	}
	if !maps.Equal(w.byNode, r.fleet.c.taps.byNode) {
		r.t.Fatalf("nodes are called %v here, and %v there", r.fleet.c.taps.byNode, w.byNode)
	}
	for k, n := range r.fleet.c.taps.counts {
		if n != w.counts[k] {
			r.t.Fatalf("%+v: counted %d, are %d", k, n, w.counts[k])
		}
	}
}

// lie has a host say that it has a port which another host has, and proves that nothing meant for that port goes there.
func (r *modelRun) lie(p *modelPort, device string, byMAC bool) {
	liar := r.fleet.agents["liar"]
	at := point.Point{Name: device, Kind: point.Netdev, Present: true, LinkType: 1, IfaceID: p.id}
	if byMAC {
		at.IfaceID, at.MAC = "", p.mac
	}
	say := func(points ...point.Point) {
		r.fleet.c.Inventory(liar.id, points, want.Node{Underlay: []netip.Addr{liar.addr}})
		r.settled()
	}
	say(at)
	r.fleet.mu.Lock()
	for _, a := range r.agents() {
		for _, s := range a.held.Taps.Sources {
			if s.To.Remote == liar.addr {
				r.t.Fatalf("%s sends copies of %q to a host that lies", a.name, r.m.everOwner(s.ID))
			}
		}
	}
	r.fleet.mu.Unlock()
	say()
}

// holds reports whether a host has the port, and no other has a better right to it; a moment after a move that may not be so.
func (r *modelRun) holds(p *modelPort) bool {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		r.fleet.c.mu.Lock()
		held := slices.ContainsFunc(r.fleet.c.taps.places[p.id], func(at place) bool { return !r.fleet.c.taps.devices[at].Rival })
		r.fleet.c.mu.Unlock()
		if held {
			return true
		}
	}
	return false
}

// told reports whether any agent has said that it has the device.
func (r *modelRun) told(mac string) bool {
	for _, a := range r.agents() {
		for _, m := range a.told {
			if m == mac {
				return true
			}
		}
	}
	return false
}

func (m *model) macOf(port string) string {
	for _, p := range m.ports {
		if p.id == port {
			return p.mac
		}
	}
	return ""
}

func (m *model) projectOf(port string) string {
	for _, p := range m.ports {
		if p.id == port {
			return p.project
		}
	}
	return "?"
}

// everOwner is the project of a flow, also of one that was deleted.
func (m *model) everOwner(flow string) string {
	for _, p := range []string{"red", "blue"} {
		if m.everIDs[p+"/"+flow] {
			return p
		}
	}
	return ""
}

func (m *model) fresh(t *rapid.T, project, id string) {
	for _, p := range []string{"red", "blue"} {
		if m.everIDs[p+"/"+id] {
			t.Fatalf("the id %s was there before", id)
		}
	}
	m.everIDs[project+"/"+id] = true
}

func (m *model) deletePort(id string) {
	m.ports = slices.DeleteFunc(m.ports, func(p *modelPort) bool { return p.id == id })
	for s, x := range m.services {
		if x.port == id {
			m.deleteService(s)
		}
	}
	maps.DeleteFunc(m.flows, func(_ string, f modelTap) bool { return f.port == id })
	maps.DeleteFunc(m.mirrors, func(_ string, x modelMirror) bool { return x.port == id })
}

func (m *model) deleteService(id string) {
	delete(m.services, id)
	maps.DeleteFunc(m.flows, func(_ string, f modelTap) bool { return f.service == id })
}

// modelRoles are rights by role; drawn are more owners than others, so that something happens.
var modelRoles = map[string]auth.Right{"owner": alice.Rights, "viewer": auth.SeeMetadata, "operator": auth.SeeMetadata | auth.Start}

// TestTapModel lets tenants, administrators and hosts do what they like in any order, and proves after each step that no
// packet of one project can come to another's port, also by nodes that lie and mirrors that are aimed at nodes; that no tap
// outlives its time; that what nodes do is what is wished, by any controller; and that no id comes twice.
//
// A failure prints the steps that led to it, made as few as possible, and how to have them again (-rapid.failfile, -rapid.seed);
// -rapid.checks and -rapid.steps make it look for longer.
func TestTapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &modelRun{t: t, store: mem.New(mem.Config{}), fleet: &fakeFleet{agents: map[string]*fakeAgent{}}, users: map[string]auth.Identity{}}
		r.m = model{where: map[string]string{}, services: map[string]modelTap{}, flows: map[string]modelTap{}, mirrors: map[string]modelMirror{}, everIDs: map[string]bool{}}
		for i := range 3 {
			id := fmt.Sprintf("n%d", i)
			r.fleet.agents[id] = &fakeAgent{id: id, name: "host" + id, addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), devices: map[string]string{}, told: map[string]string{}, connected: true}
		}
		r.fleet.agents["liar"] = &fakeAgent{id: "liar", name: "liar", addr: netip.MustParseAddr("192.0.2.66"), devices: map[string]string{}, told: map[string]string{}, connected: true}
		for _, p := range []string{"red", "blue"} {
			r.users[p] = auth.Identity{Name: p, Project: p, Role: "owner", Rights: modelRoles["owner"]}
		}
		r.start()
		defer func() { r.stop() }()
		macs := 0
		newPort := func(project string) {
			macs++
			mac := fmt.Sprintf("02:00:00:00:00:%02x", macs)
			name := "port" + mac
			made, err := r.fleet.c.CreatePorts(context.Background(), root, []tap.PortWish{{Name: &name, MAC: &mac, Project: &project}})
			if err != nil {
				t.Fatal(err)
			}
			r.m.ports = append(r.m.ports, &modelPort{made[0].ID, mac, project})
		}
		place := func(mac, node string) {
			old := r.m.where[mac]
			for _, id := range []string{old, node} {
				if a := r.fleet.agents[id]; a != nil {
					r.fleet.mu.Lock()
					delete(a.devices, "d"+mac[15:])
					if id == node {
						a.devices["d"+mac[15:]] = mac
					}
					r.fleet.mu.Unlock()
					if a.connected {
						r.fleet.tell(a)
					}
				}
			}
			if node == "" {
				delete(r.m.where, mac)
			} else {
				r.m.where[mac] = node
			}
		}
		for i := range 6 {
			newPort([]string{"red", "blue"}[i%2])
			place(r.m.ports[i].mac, fmt.Sprintf("n%d", i%3))
		}
		ctx := context.Background()
		service := func(u auth.Identity, p *modelPort, expires time.Time) error {
			made, err := r.fleet.c.CreateTapServices(ctx, u, []tap.Service{{PortID: p.id, Options: tap.Options{Expires: expires}}})
			if err == nil {
				r.m.fresh(t, u.Project, made[0].ID)
				r.m.services[made[0].ID] = modelTap{project: u.Project, port: p.id, expires: expires}
			}
			return err
		}
		flow := func(u auth.Identity, p *modelPort, sid string, expires time.Time) error {
			made, err := r.fleet.c.CreateTapFlows(ctx, u, []tap.Flow{{PortID: p.id, ServiceID: sid, Direction: tap.Both, Options: tap.Options{Expires: expires}}})
			if err == nil {
				r.m.fresh(t, u.Project, made[0].ID)
				r.m.flows[made[0].ID] = modelTap{project: u.Project, port: p.id, service: sid, expires: expires}
			}
			return err
		}
		begin := time.Now().UTC().Truncate(time.Second)
		anyEnd := func(t *rapid.T) time.Time { // none of them comes while the test runs
			hours := rapid.IntRange(0, 3).Draw(t, "ends in hours")
			if hours == 0 {
				return time.Time{}
			}
			return begin.Add(time.Duration(hours) * time.Hour)
		}
		for i := range 2 { // something to begin with: a service for each, and a flow from each port
			u := r.users[r.m.ports[i].project]
			if err := service(u, r.m.ports[i], time.Time{}); err != nil {
				t.Fatal(err)
			}
			for sid, s := range r.m.services {
				for _, p := range r.m.ports {
					if s.port == r.m.ports[i].id && p.project == u.Project && p.id != s.port {
						if err := flow(u, p, sid, time.Time{}); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		anyPort := func(t *rapid.T) *modelPort {
			if len(r.m.ports) == 0 {
				t.Skip("no port")
			}
			return rapid.SampledFrom(r.m.ports).Draw(t, "port")
		}
		anyUser := func(t *rapid.T) auth.Identity {
			return r.users[rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "user")]
		}
		pick := func(t *rapid.T, m map[string]modelTap, what string) string {
			if len(m) == 0 {
				t.Skip("none of " + what)
			}
			return rapid.SampledFrom(slices.Sorted(maps.Keys(m))).Draw(t, what)
		}
		t.Repeat(map[string]func(*rapid.T){
			"create service": func(t *rapid.T) {
				u, p := anyUser(t), anyPort(t)
				may := u.May(makeService) && p.project == u.Project
				if err := service(u, p, anyEnd(t)); (err == nil) != may {
					t.Fatalf("%s (%s) makes a service at a port of %s: %v", u.Name, u.Role, p.project, err)
				}
			},
			"create flow": func(t *rapid.T) {
				u, p := anyUser(t), anyPort(t)
				sid := pick(t, r.m.services, "service")
				s := r.m.services[sid]
				may := u.May(makeTap) && p.project == u.Project && s.project == u.Project && s.port != p.id && r.m.projectOf(s.port) == u.Project
				if err := flow(u, p, sid, anyEnd(t)); (err == nil) != may {
					t.Fatalf("%s (%s) copies a port of %s to a service of %s: %v, may %v", u.Name, u.Role, p.project, s.project, err, may)
				}
			},
			"delete flow": func(t *rapid.T) {
				u, id := anyUser(t), pick(t, r.m.flows, "flow")
				err := r.fleet.c.DeleteTapFlow(ctx, u, id)
				if may := u.May(makeService) && r.m.flows[id].project == u.Project; (err == nil) != may {
					t.Fatalf("%s deletes a flow of %s: %v", u.Name, r.m.flows[id].project, err)
				}
				if err == nil {
					delete(r.m.flows, id)
				}
			},
			"delete service": func(t *rapid.T) {
				u, id := anyUser(t), pick(t, r.m.services, "service")
				err := r.fleet.c.DeleteTapService(ctx, u, id)
				if may := u.May(makeService) && r.m.services[id].project == u.Project; (err == nil) != may {
					t.Fatalf("%s deletes a service of %s: %v", u.Name, r.m.services[id].project, err)
				}
				if err == nil {
					r.m.deleteService(id)
				}
			},
			"end otherwise": func(t *rapid.T) {
				u, id, end := anyUser(t), pick(t, r.m.flows, "flow"), anyEnd(t)
				_, err := r.fleet.c.UpdateTapFlow(ctx, u, id, tap.Change{Options: &tap.Options{Expires: end}})
				f := r.m.flows[id]
				if may := u.May(makeTap) && f.project == u.Project; (err == nil) != may {
					t.Fatalf("%s (%s) changes when a flow of %s ends: %v", u.Name, u.Role, f.project, err)
				}
				if err == nil {
					f.expires = end
					r.m.flows[id] = f
				}
			},
			"create mirror": func(t *rapid.T) {
				u, p := anyUser(t), anyPort(t)
				tunnel := uint32(rapid.IntRange(1, 8).Draw(t, "tunnel"))
				to := rapid.SampledFrom([]string{"198.51.100.1", "192.0.2.2"}).Draw(t, "to") // nobody's, and a node's
				made, err := r.fleet.c.CreateTapMirrors(ctx, u, []tap.Mirror{{
					PortID: p.id, Type: tap.GRE, Remote: netip.MustParseAddr(to), Directions: map[tap.Direction]uint32{tap.Both: tunnel},
				}})
				taken := false
				for _, m := range r.m.mirrors {
					taken = taken || m.tunnel == tunnel
				}
				if may := u.May(makeTap) && p.project == u.Project && !taken && to == "198.51.100.1"; (err == nil) != may {
					t.Fatalf("%s (%s) mirrors a port of %s to %s with %d (taken %v): %v", u.Name, u.Role, p.project, to, tunnel, taken, err)
				}
				if err == nil {
					r.m.fresh(t, u.Project, made[0].ID)
					r.m.mirrors[made[0].ID] = modelMirror{u.Project, p.id, tunnel}
				}
			},
			"delete mirror": func(t *rapid.T) {
				if len(r.m.mirrors) == 0 {
					t.Skip("no mirror")
				}
				u, id := anyUser(t), rapid.SampledFrom(slices.Sorted(maps.Keys(r.m.mirrors))).Draw(t, "mirror")
				err := r.fleet.c.DeleteTapMirror(ctx, u, id)
				if may := u.May(makeService) && r.m.mirrors[id].project == u.Project; (err == nil) != may {
					t.Fatalf("%s deletes a mirror of %s: %v", u.Name, r.m.mirrors[id].project, err)
				}
				if err == nil {
					delete(r.m.mirrors, id)
				}
			},
			"lie": func(t *rapid.T) {
				p := anyPort(t)
				device := rapid.SampledFrom([]string{"evil", "tap" + p.id[:11]}).Draw(t, "device")
				if !r.told(p.mac) || !r.fleet.agents["liar"].connected {
					t.Skip("nobody has it whom that could be taken from")
				}
				r.settled()
				if !r.holds(p) {
					t.Skip("it is on its way from one host to another: whoever says first that he has it gets it")
				}
				r.lie(p, device, rapid.Bool().Draw(t, "by its MAC"))
			},
			"rename": func(t *rapid.T) {
				u, id := anyUser(t), pick(t, r.m.flows, "flow")
				name := "x"
				if _, err := r.fleet.c.UpdateTapFlow(ctx, u, id, tap.Change{Name: &name}); err == nil && r.m.flows[id].project != u.Project {
					t.Fatalf("%s renames a flow of %s", u.Name, r.m.flows[id].project)
				}
			},
			"move": func(t *rapid.T) {
				place(anyPort(t).mac, rapid.SampledFrom([]string{"", "n0", "n1", "n2"}).Draw(t, "to"))
			},
			"give away": func(t *rapid.T) {
				p := anyPort(t)
				project := rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "to")
				if _, err := r.fleet.c.UpdatePort(ctx, root, p.id, tap.PortWish{Project: &project}); err != nil {
					t.Fatal(err)
				}
				p.project = project
			},
			"steal": func(t *rapid.T) { // no tenant says what a device is
				u, p := anyUser(t), anyPort(t)
				if _, err := r.fleet.c.UpdatePort(ctx, u, p.id, tap.PortWish{Project: &u.Project}); err == nil {
					t.Fatalf("%s gave himself a port", u.Name)
				}
				mac := p.mac
				if made, err := r.fleet.c.CreatePorts(ctx, u, []tap.PortWish{{MAC: &mac}}); err == nil {
					if made[0].Present {
						t.Fatalf("%s has a port that is a device of %s, by its MAC", u.Name, p.project)
					}
					if err := r.fleet.c.DeletePort(ctx, root, made[0].ID); err != nil {
						t.Fatal(err)
					}
				}
			},
			"delete port": func(t *rapid.T) {
				p := anyPort(t)
				if err := r.fleet.c.DeletePort(ctx, root, p.id); err != nil {
					t.Fatal(err)
				}
				r.m.deletePort(p.id)
				project := p.project
				macs++
				mac := p.mac // the device is there still, and becomes another port
				name := "again"
				made, err := r.fleet.c.CreatePorts(ctx, root, []tap.PortWish{{Name: &name, MAC: &mac, Project: &project}})
				if err != nil {
					t.Fatal(err)
				}
				r.m.ports = append(r.m.ports, &modelPort{made[0].ID, mac, project})
			},
			"role": func(t *rapid.T) {
				u := anyUser(t)
				u.Role = rapid.SampledFrom([]string{"owner", "owner", "viewer", "operator"}).Draw(t, "role")
				u.Rights = modelRoles[u.Role]
				r.users[u.Project] = u
			},
			"agent goes": func(t *rapid.T) {
				a := rapid.SampledFrom(r.agents()).Draw(t, "agent")
				r.fleet.mu.Lock()
				a.connected = false
				r.fleet.mu.Unlock()
				r.fleet.c.Left(a.id)
			},
			"agent comes": func(t *rapid.T) { r.fleet.connect(rapid.SampledFrom(r.agents()).Draw(t, "agent")) },
			"agent loses its memory": func(t *rapid.T) {
				a := rapid.SampledFrom(r.agents()).Draw(t, "agent")
				r.fleet.c.Left(a.id)
				r.fleet.mu.Lock()
				a.held = agentapi.Desired{}
				r.fleet.mu.Unlock()
				r.fleet.connect(a)
			},
			"agent crashes": func(t *rapid.T) {
				a := rapid.SampledFrom(r.agents()).Draw(t, "agent")
				r.fleet.c.Left(a.id)
				r.fleet.connect(a)
			},
			"controller crashes": func(*rapid.T) {
				r.stop()
				r.start()
			},
			"": func(*rapid.T) { r.check() },
		})
		for _, a := range r.agents() {
			r.fleet.connect(a)
		}
		r.check()
		r.fleet.c.mu.Lock()
		defer r.fleet.c.mu.Unlock()
		for id, f := range r.m.flows {
			s := r.m.services[f.service]
			whole := r.m.where[r.m.macOf(f.port)] != "" && r.m.where[r.m.macOf(s.port)] != "" && r.m.projectOf(f.port) == f.project && r.m.projectOf(s.port) == f.project
			if rep := r.fleet.c.flowReport(r.fleet.c.taps.flows[id]); whole != (rep.Status == tap.Up) {
				t.Fatalf("in the end flow %s is %s (%s), want active %v", id, rep.Status, rep.Reason, whole)
			}
		}
	})
}
