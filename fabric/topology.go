package fabric

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Link is a cable between two switches. A is the lower end.
type Link struct {
	A, B      Endpoint
	Up        bool // no end is known to be down
	Confirmed bool // LLDP came through lately, in both directions
	Static    bool // it is in the description
	Seen      time.Time
	Problem   string
}

// other is the end that is not at the switch.
func (k Link) other(dpid uint64) (here, there Endpoint) {
	if k.A.Switch == dpid {
		return k.A, k.B
	}
	return k.B, k.A
}

func between(a, b Endpoint) [2]Endpoint {
	if b.compare(a) < 0 {
		return [2]Endpoint{b, a}
	}
	return [2]Endpoint{a, b}
}

// Topology knows the cables between switches: those of the description, or those that LLDP proved in both directions. Links
// that were once proved are remembered until they are disproved, so that a controller that starts anew, or a switch that
// was away, changes nothing. It is not safe for concurrent use.
type Topology struct {
	heard map[Endpoint]sighting  // by receiving port
	known map[[2]Endpoint]bool   // proved once, or remembered
	down  map[Endpoint]bool      // ports that cannot carry anything
	downs map[uint64]int         // how many, by switch
	seen  map[uint64]bool        // switches that are connected
	since map[uint64]time.Time   // when they connected
	told  bool                   // what is known was told by the controller that discovers, and is believed
	flaps map[[2]Endpoint]*flaps // see Flap
}

type sighting struct {
	from Endpoint
	at   time.Time
}

type flaps struct{ times []time.Time }

// Discovery times.
const (
	DiscoveryEvery = 5 * time.Second
	DiscoveryLost  = 3*DiscoveryEvery + time.Second // silence after which a link is not confirmed any more

	flapsMany   = 5
	flapsWithin = 30 * time.Second
)

// NewTopology makes a Topology of links that were known before.
func NewTopology(known [][2]Endpoint) *Topology {
	t := &Topology{
		heard: make(map[Endpoint]sighting), known: make(map[[2]Endpoint]bool), down: make(map[Endpoint]bool), downs: make(map[uint64]int),
		seen: make(map[uint64]bool), since: make(map[uint64]time.Time), flaps: make(map[[2]Endpoint]*flaps),
	}
	for _, k := range known {
		t.known[between(k[0], k[1])] = true
	}
	return t
}

// Known are the links to remember.
func (t *Topology) Known() [][2]Endpoint {
	var out [][2]Endpoint
	for k := range t.known {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b [2]Endpoint) int { return cmp.Or(a[0].compare(b[0]), a[1].compare(b[1])) })
	return out
}

// Connected takes note that a switch came, with the ports that are down, or that it went. What it said before is forgotten
// when it comes.
func (t *Topology) Connected(dpid uint64, up bool, now time.Time) {
	t.seen[dpid] = up
	if !up {
		return
	}
	t.since[dpid] = now
	delete(t.downs, dpid)
	for e := range t.down {
		if e.Switch == dpid {
			delete(t.down, e)
		}
	}
}

// maxDowns bounds how many ports of one switch are remembered to be down: it may invent some.
const maxDowns = 1 << 14

// Port takes note whether a port can carry anything. changed is true when that is new.
func (t *Topology) Port(e Endpoint, up bool, now time.Time) (changed bool) {
	if t.down[e] == !up {
		return false
	}
	switch {
	case up:
		delete(t.down, e)
		t.downs[e.Switch]--
	case t.downs[e.Switch] >= maxDowns:
		return false
	default:
		t.down[e] = true
		t.downs[e.Switch]++
		delete(t.heard, e)
	}
	for k := range t.known {
		if k[0] == e || k[1] == e {
			f := t.flaps[k]
			if f == nil {
				f = &flaps{}
				t.flaps[k] = f
			}
			f.times = append(f.times, now)
			if len(f.times) > 2*flapsMany {
				f.times = f.times[len(f.times)-2*flapsMany:]
			}
		}
	}
	return true
}

// flapping reports whether a link changed too often lately to be used for something new.
func (t *Topology) flapping(k [2]Endpoint, now time.Time) bool {
	f := t.flaps[k]
	if f == nil {
		return false
	}
	n := 0
	for _, at := range f.times {
		if now.Sub(at) < flapsWithin {
			n++
		}
	}
	return n > flapsMany
}

// Heard takes note that a discovery frame sent by one port came in at another. changed is true when a link is new by it,
// or is no longer where it was.
func (t *Topology) Heard(from, to Endpoint, now time.Time) (changed bool) {
	t.heard[to] = sighting{from, now}
	back, ok := t.heard[from]
	if !ok || back.from != to || now.Sub(back.at) > DiscoveryLost {
		return false
	}
	k := between(from, to)
	if t.known[k] {
		return false
	}
	// A cable has two ends: what these ports were connected to before, they are not any more.
	for o := range t.known {
		if o[0] == from || o[0] == to || o[1] == from || o[1] == to {
			delete(t.known, o)
		}
	}
	t.known[k] = true
	return true
}

// Expire forgets links that both switches should have confirmed and did not. changed is true when there were some.
func (t *Topology) Expire(now time.Time) (changed bool) {
	for k := range t.known {
		if !t.seen[k[0].Switch] || !t.seen[k[1].Switch] || t.down[k[0]] || t.down[k[1]] {
			continue // nobody could know; what is down may come back
		}
		young := now.Sub(t.since[k[0].Switch]) < DiscoveryLost || now.Sub(t.since[k[1].Switch]) < DiscoveryLost
		if young || t.fresh(k, now) {
			continue
		}
		delete(t.known, k)
		changed = true
	}
	return changed
}

// fresh reports whether the link was proved lately, in both directions.
func (t *Topology) fresh(k [2]Endpoint, now time.Time) bool {
	a, okA := t.heard[k[1]]
	b, okB := t.heard[k[0]]
	return okA && okB && a.from == k[0] && b.from == k[1] && now.Sub(a.at) <= DiscoveryLost && now.Sub(b.at) <= DiscoveryLost
}

// Links are the cables that may be used, and of a static list those that should be there. Sorted.
func (t *Topology) Links(l *Layout, now time.Time) []Link {
	keys := make(map[[2]Endpoint]bool)
	for _, k := range l.links {
		keys[between(k[0], k[1])] = true
	}
	static := len(keys) > 0
	if !static {
		for k := range t.known {
			if l.Knows(k[0].Switch) && l.Knows(k[1].Switch) && !l.Host(k[0]) && !l.Host(k[1]) {
				keys[k] = true
			}
		}
	}
	var out []Link
	for k := range keys {
		link := Link{A: k[0], B: k[1], Static: static, Up: !t.down[k[0]] && !t.down[k[1]], Confirmed: t.told && t.known[k] || t.fresh(k, now)}
		link.Seen = t.heard[k[1]].at
		switch {
		case !link.Up:
			link.Problem = "a port is down"
			link.Confirmed = false
		case t.flapping(k, now):
			link.Problem = fmt.Sprintf("changed more than %d times in %s", flapsMany, flapsWithin)
		case !link.Confirmed && t.seen[k[0].Switch] && t.seen[k[1].Switch]:
			link.Problem = t.wrong(l, k)
		}
		out = append(out, link)
	}
	slices.SortFunc(out, func(a, b Link) int { return cmp.Or(a.A.compare(b.A), a.B.compare(b.B)) })
	return out
}

// wrong says why a link is not confirmed.
func (t *Topology) wrong(l *Layout, k [2]Endpoint) string {
	for _, e := range [...][2]Endpoint{{k[0], k[1]}, {k[1], k[0]}} {
		if s, ok := t.heard[e[1]]; ok && s.from != e[0] {
			return fmt.Sprintf("%s is connected to %s", l.Name(e[1]), l.Name(s.from))
		}
	}
	_, there := t.heard[k[1]]
	_, back := t.heard[k[0]]
	if there != back {
		return "discovery frames come through in one direction alone"
	}
	return "no discovery frame has come through yet"
}

// Remember takes over the links that another controller has found, and believes it until Renew: discovery frames come to that one alone.
func (t *Topology) Remember(known [][2]Endpoint) {
	t.told = true
	clear(t.known)
	for _, k := range known {
		t.known[between(k[0], k[1])] = true
	}
}

// Renew begins to discover: all links have the time that they have after a switch has connected.
func (t *Topology) Renew(now time.Time) {
	t.told = false
	for dpid := range t.since {
		t.since[dpid] = now
	}
}
