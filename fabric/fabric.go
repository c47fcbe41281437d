// Package fabric turns policies over OpenFlow switches into the rules, groups and meters that the switches shall have.
//
// A Layout is the checked description: switches, ports and their roles, tools. A Topology knows the cables between the
// switches, from a list or from what LLDP proved. Compile makes of both an Intent: for each switch what it shall hold, rule by
// rule, each with the reason it is there for. Diff tells an Intent from what a switch has. All of it is computation: connections are
// fabric/session's business, and fabric/reconcile makes the switches agree.
//
// How copies travel: a rule at the filter port copies what a policy's filter selects, for all policies of the port together,
// so that a tool gets one copy however many policies want it there. Copies for another switch get a VLAN tag from a pool; switches on
// the way forward by that tag along a tree of cheapest paths, over groups that fail over by themselves where there are several
// cables; the last switch takes the tag off.
//
// Runs in: controller
package fabric

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"opentap/fault"
	"opentap/want"
	"opentap/wire/of13"
)

// Endpoint is a port of a switch.
type Endpoint struct {
	Switch uint64 // datapath id
	Port   uint32
}

func (e Endpoint) compare(o Endpoint) int {
	return cmp.Or(cmp.Compare(e.Switch, o.Switch), cmp.Compare(e.Port, o.Port))
}

// Cookies of our rules: 16 bits of mark, 16 of kind, 32 of what the rule is for.
const (
	cookieMark = uint64(0x07a9) << 48
	markMask   = uint64(0xffff) << 48
)

// Ours reports whether a rule with this cookie is ours.
func Ours(cookie uint64) bool { return cookie&markMask == cookieMark }

// Kinds of rules, in their cookies.
const (
	kindBase = iota + 1
	kindPair
	kindCell
	kindWay
	kindDiscovery
	kindProbe
)

func cookie(kind uint64, what string) uint64 { return cookieMark | kind<<32 | uint64(hash32(what)) }

func hash32(s string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s))
	return h.Sum32()
}

// Groups have no cookie: ours are known by their number. Meters likewise, in a range that switches with 32768 meters have.
const (
	groupBase  = uint32(0x07a90000)
	groupRange = uint32(0x10000)
	meterBase  = uint32(0x7a00)
	meterRange = uint32(0x0400)
)

// OurGroup reports whether a group with this number is ours.
func OurGroup(id uint32) bool { return id >= groupBase && id < groupBase+groupRange }

// OurMeter reports whether a meter with this number is ours.
func OurMeter(id uint32) bool { return id >= meterBase && id < meterBase+meterRange }

// Priorities of our rules, the lowest first.
const (
	prioCore      = 20000 // what has no tag of ours goes nowhere from a core port
	prioPort      = 30000 // what no policy wants: pairs forward it, taps drop it
	prioCell      = 30001 // and up: policies
	prioCellEnd   = 59000
	prioDelivery  = 60000 // what a tool sends goes nowhere
	prioProbe     = 61000
	prioDiscovery = 65000
)

// role is what a port is for.
type role uint8

const (
	roleNone role = iota // core, if a link is there
	roleFilter
	rolePair // one of a pair, no policies
	roleDelivery
	roleService // in or return
)

// Layout is a checked description. It is never changed.
type Layout struct {
	Fabric   want.Fabric
	switches []uint64          // sorted
	names    map[uint64]string // of switches
	roles    map[Endpoint]role
	peers    map[Endpoint]Endpoint // of pairs, both ways
	at       map[string]Endpoint   // of ports, by name
	returns  map[string]Endpoint   // of services, by name
	portName map[Endpoint]string
	links    [][2]Endpoint       // static
	known    map[string]lowering // by policy
}

// nameRules is what names may be.
const maxName = 63

func checkName(what, s string) error {
	ok := s != "" && len(s) <= maxName
	for _, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	}
	if !ok {
		return fault.Field(what, "the name %q is not 1 to %d letters, digits, dots, dashes and underscores", s, maxName)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// NewLayout checks a description; its policies too, apart from what only the switches know. Errors are *fault.Error that name
// the field.
func NewLayout(f want.Fabric) (*Layout, error) {
	l := &Layout{
		Fabric: f, names: make(map[uint64]string), roles: make(map[Endpoint]role), peers: make(map[Endpoint]Endpoint),
		at: make(map[string]Endpoint), returns: make(map[string]Endpoint), portName: make(map[Endpoint]string), known: make(map[string]lowering),
	}
	for _, name := range sortedKeys(f.Switches) {
		s := f.Switches[name]
		field := "switches." + name
		if err := checkName(field, name); err != nil {
			return nil, err
		}
		if other, twice := l.names[uint64(s.DPID)]; twice {
			return nil, fault.Field(field+".dpid", "%s is the datapath id of %s as well", s.DPID, other)
		}
		if s.TableLimit < 0 {
			return nil, fault.Field(field+".table_limit", "is negative")
		}
		l.names[uint64(s.DPID)] = name
		l.switches = append(l.switches, uint64(s.DPID))
	}
	slices.Sort(l.switches)
	for i, p := range f.Pairs {
		if err := l.addPair(fmt.Sprintf("pairs[%d]", i), p); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(f.Ports) {
		if err := l.addPort(name, f.Ports[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(f.Tools) {
		if err := l.checkTool(name, f.Tools[name]); err != nil {
			return nil, err
		}
	}
	for i, k := range f.Links {
		if err := l.addLink(fmt.Sprintf("links[%d]", i), k); err != nil {
			return nil, err
		}
	}
	seen := make(map[string]bool)
	for i := range f.Policies {
		field := fmt.Sprintf("policies[%d]", i)
		if err := l.CheckPolicy(field, &f.Policies[i]); err != nil {
			return nil, err
		}
		if seen[f.Policies[i].Name] {
			return nil, fault.Field(field+".name", "%s is there twice", f.Policies[i].Name)
		}
		seen[f.Policies[i].Name] = true
		if d, split, err := l.lowered(&f.Policies[i]); err == nil {
			l.known[f.Policies[i].Name] = lowering{f.Policies[i].Filter, l.exactAt(&f.Policies[i]), d, split}
		}
	}
	if err := l.checkExact(); err != nil {
		return nil, err
	}
	return l, nil
}

// PortAt is what the description calls a port, and its role there; "" = it does not name it. at is SWITCH/PORT.
func (l *Layout) PortAt(at string) (name, role string) {
	e, err := l.endpoint("", at)
	if err != nil {
		return "", ""
	}
	name = l.portName[e]
	return name, l.Fabric.Ports[name].Role
}

// Paired reports whether the named port is one of a pair.
func (l *Layout) Paired(name string) bool {
	_, ok := l.peers[l.at[name]]
	return ok
}

// EndpointOf is where a named port is.
func (l *Layout) EndpointOf(name string) (Endpoint, bool) {
	e, ok := l.at[name]
	return e, ok
}

// endpoint reads switch/port.
func (l *Layout) endpoint(field, s string) (Endpoint, error) {
	name, number, ok := strings.Cut(s, "/")
	sw, known := l.Fabric.Switches[name]
	n, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil || n == 0 || n >= of13.PortMax {
		return Endpoint{}, fault.Field(field, "%q is not SWITCH/PORT such as s1/1", s)
	}
	if !known {
		f := fault.Field(field, "there is no switch %q", name)
		f.Hint = "switches: " + strings.Join(sortedKeys(l.Fabric.Switches), ", ")
		return Endpoint{}, f
	}
	return Endpoint{uint64(sw.DPID), uint32(n)}, nil
}

// Name writes an endpoint as the description does.
func (l *Layout) Name(e Endpoint) string { return fmt.Sprintf("%s/%d", l.SwitchName(e.Switch), e.Port) }

// SwitchName is what the description calls a switch; its datapath id if it does not.
func (l *Layout) SwitchName(dpid uint64) string {
	if n, ok := l.names[dpid]; ok {
		return n
	}
	return want.DPID(dpid).String()
}

// Knows reports whether the description has the switch.
func (l *Layout) Knows(dpid uint64) bool { _, ok := l.names[dpid]; return ok }

// Switches are the datapath ids of the description, sorted. The slice is the layout's.
func (l *Layout) Switches() []uint64 { return l.switches }

// Host reports whether the port is one of the description that leads out of the fabric: no discovery there.
func (l *Layout) Host(e Endpoint) bool { return l.roles[e] != roleNone }

// Filter reports whether traffic can be taken from the port: it is a filter port, or one of a pair.
func (l *Layout) Filter(e Endpoint) bool { return l.roles[e] == roleFilter || l.roles[e] == rolePair }

// Use says in words what the port is for.
func (l *Layout) Use(e Endpoint) string {
	name := l.portName[e]
	switch l.roles[e] {
	case roleFilter:
		name = "filter " + name
	case roleDelivery:
		name = "delivery " + name
	case roleService:
		return "service " + name
	case rolePair, roleNone:
	}
	if p, ok := l.peers[e]; ok {
		return strings.TrimSpace(name + " in line with " + l.Name(p))
	}
	return name
}

// Endpoints are all ports the description names, sorted.
func (l *Layout) Endpoints() []Endpoint {
	var out []Endpoint
	for e := range l.roles {
		out = append(out, e)
	}
	for _, k := range l.links {
		out = append(out, k[0], k[1])
	}
	slices.SortFunc(out, Endpoint.compare)
	return slices.Compact(out)
}

func (l *Layout) addPair(field string, p want.FabricPair) error {
	a, err := l.endpoint(field, p[0])
	if err != nil {
		return err
	}
	b, err := l.endpoint(field, p[1])
	if err != nil {
		return err
	}
	switch {
	case a.Switch != b.Switch:
		return fault.Field(field, "%s and %s are of two switches", p[0], p[1])
	case a == b:
		return fault.Field(field, "%s cannot be joined with itself", p[0])
	}
	for _, e := range [...]Endpoint{a, b} {
		if _, twice := l.peers[e]; twice {
			return fault.Field(field, "%s is in two pairs", l.Name(e))
		}
		l.roles[e] = rolePair
	}
	l.peers[a], l.peers[b] = b, a
	return nil
}

func (l *Layout) addPort(name string, p want.FabricPort) error {
	field := "ports." + name
	if err := checkName(field, name); err != nil {
		return err
	}
	e, err := l.endpoint(field+".at", p.At)
	if err != nil {
		return err
	}
	if other, twice := l.portName[e]; twice {
		return fault.Field(field+".at", "%s is %s already", p.At, other)
	}
	_, paired := l.peers[e]
	if p.Return != "" && p.Role != want.RoleService {
		return fault.Field(field+".return", "is of services alone")
	}
	if err := l.checkPlace(field, &p); err != nil {
		return err
	}
	if paired && p.Role != want.RoleFilter {
		return fault.Field(field+".at", "%s is one of a pair: it can only be a filter port", p.At)
	}
	switch p.Role {
	case want.RoleFilter:
		l.roles[e] = roleFilter
	case want.RoleDelivery:
		l.roles[e] = roleDelivery
	case want.RoleService:
		back, err := l.endpoint(field+".return", p.Return)
		if err != nil {
			return err
		}
		_, backPaired := l.peers[back]
		if back == e || back.Switch != e.Switch || backPaired || l.roles[back] != roleNone {
			return fault.Field(field+".return", "must be another port of the same switch, used for nothing else")
		}
		l.roles[e], l.roles[back] = roleService, roleService
		l.returns[name], l.portName[back] = back, name+" (return)"
	default:
		return fault.Field(field+".role", "%q is none of filter, delivery, service", p.Role)
	}
	l.at[name], l.portName[e] = e, name
	return nil
}

func (l *Layout) checkTool(name string, t want.FabricTool) error {
	field := "tools." + name
	if err := checkName(field, name); err != nil {
		return err
	}
	if _, taken := l.Fabric.Ports[name]; taken {
		return fault.Field(field, "a port is called %s as well", name)
	}
	if len(t.Members) == 0 {
		return fault.Field(field+".members", "is empty")
	}
	seen := make(map[Endpoint]bool)
	for _, m := range t.Members {
		e, ok := l.at[m]
		switch {
		case !ok || l.roles[e] != roleDelivery:
			return fault.Field(field+".members", "%q is no delivery port", m)
		case seen[e]:
			return fault.Field(field+".members", "%s is there twice", m)
		case e.Switch != l.at[t.Members[0]].Switch:
			return &fault.Error{Kind: fault.Unsupported, Field: field + ".members", Msg: "the members are at several switches; the load is shared by the switch that they all are at"}
		}
		seen[e] = true
	}
	return nil
}

func (l *Layout) addLink(field string, k want.FabricLink) error {
	a, err := l.endpoint(field+".a", k.A)
	if err != nil {
		return err
	}
	b, err := l.endpoint(field+".b", k.B)
	if err != nil {
		return err
	}
	if a.Switch == b.Switch {
		return fault.Field(field, "both ends are at one switch")
	}
	for _, e := range [...]Endpoint{a, b} {
		if l.roles[e] != roleNone {
			return fault.Field(field, "%s is %s already", l.Name(e), l.Use(e))
		}
		for _, o := range l.links {
			if o[0] == e || o[1] == e {
				return fault.Field(field, "%s is an end of two links", l.Name(e))
			}
		}
	}
	l.links = append(l.links, [2]Endpoint{a, b})
	return nil
}

// limits of a policy.
const (
	minTruncate = 14 // Open vSwitch: an Ethernet header
	maxTruncate = 65535
)

// CheckPolicy checks one policy against the layout, filter included.
func (l *Layout) CheckPolicy(field string, p *want.FabricPolicy) error {
	if err := checkName(field+".name", p.Name); err != nil {
		return err
	}
	if len(p.From) == 0 || len(p.To) == 0 {
		return fault.Field(field, "from and to must both name something")
	}
	for _, n := range p.From {
		if e, ok := l.at[n]; !ok || l.roles[e] != roleFilter {
			return fault.Field(field+".from", "%q is no filter port", n)
		}
	}
	for _, n := range p.To {
		if e, ok := l.at[n]; ok && l.roles[e] == roleDelivery {
			continue
		}
		if _, ok := l.Fabric.Tools[n]; !ok {
			return fault.Field(field+".to", "%q is neither a delivery port nor a tool", n)
		}
	}
	for _, n := range p.Services {
		if _, ok := l.returns[n]; !ok {
			return fault.Field(field+".services", "%q is no service port", n)
		}
	}
	for i, n := range p.Services {
		if slices.Contains(p.Services[:i], n) {
			return fault.Field(field+".services", "%s is there twice", n)
		}
	}
	switch p.Direction {
	case "", want.Ingress:
	case want.BothSides, want.Egress:
		for _, n := range p.From {
			if _, ok := l.peers[l.at[n]]; !ok {
				return fault.Field(field+".direction", "%s: %s is not one of a pair; only what enters by it passes here", p.Direction, n)
			}
		}
	default:
		return fault.Field(field+".direction", "%q is none of ingress, egress, both", p.Direction)
	}
	if p.Truncate != 0 && (p.Truncate < minTruncate || p.Truncate > maxTruncate) {
		return fault.Field(field+".truncate", "is %d octets; it can be %d to %d", p.Truncate, minTruncate, maxTruncate)
	}
	if p.RateKbps < 0 {
		return fault.Field(field+".rate_kbps", "is negative")
	}
	if p.TTL < 0 {
		return fault.Field(field+".ttl", "is negative")
	}
	_, _, err := l.lowered(p)
	return err
}
