// Package reconcile makes the switches of a fabric hold what they should, and finds out when they do not.
//
// An Engine hears the sessions of the switches, discovers the cables between them, computes what each switch shall have
// (package fabric), reads what it has, and mends the difference: every half minute, when a switch comes, a port changes or
// something else is wanted. Rules without our mark are never touched. What was found different without our doing is in the drift log.
//
// Changes are made so that no copy is lost by them and none goes nowhere: first what lies behind the edge, then at the edge of each
// switch all at once, and last what nobody needs any more goes.
//
// Runs in: controller
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"opentap/fabric"
	"opentap/fabric/session"
	"opentap/fault"
	"opentap/want"
	"opentap/wire/of13"
)

// Config sets the pace.
type Config struct {
	Every  time.Duration // between comparisons when nothing happens
	Settle time.Duration // after an event, for others that come with it
	Grace  time.Duration // after the start or a switch's return, during which missing links are not taken for gone
	Drain  time.Duration // for frames under way on a path that is taken down
	Read   time.Duration // for one switch to tell all it has
	Retry  time.Duration // until a policy that a switch refused is tried again; then twice as long each time

	Probe time.Duration // between probes of all policies; 0 = only when somebody asks

	// Overtaken is told that a switch knows a later election than the one this controller leads by; nil = nobody asks.
	Overtaken func(generation uint64)
}

// DefaultConfig is what holds unless somebody says otherwise.
func DefaultConfig() Config {
	return Config{Every: 30 * time.Second, Settle: 30 * time.Millisecond, Grace: 20 * time.Second, Drain: 200 * time.Millisecond, Read: 30 * time.Second, Retry: 15 * time.Second}
}

// Memory is what must outlive a restart: without it, tags would change and links be unknown for a while.
type Memory struct {
	Tags  fabric.Tags          `json:"tags"`
	Links [][2]fabric.Endpoint `json:"links"`
}

// Keeper keeps the memory durably.
type Keeper interface {
	LoadMemory(ctx context.Context) (Memory, error)
	SaveMemory(ctx context.Context, m Memory) error
}

// Engine is safe for concurrent use. Between New and Run nothing happens.
type Engine struct {
	cfg    Config
	seal   fabric.Seal
	keeper Keeper
	log    *slog.Logger
	kick   chan struct{}

	turn sync.Mutex // held by whoever reads or changes switches: one at a time

	mu          sync.Mutex
	began       time.Time
	term        uint64         // of the election by which this controller leads; 0 = it does not
	layout      *fabric.Layout // nil = none is wanted
	known       bool           // somebody has said what is wanted
	tags        fabric.Tags
	topology    *fabric.Topology
	switches    map[uint64]*member
	refused     map[string]*refusal // policies that a switch does not take
	intent      *fabric.Intent      // as last applied
	drift       []want.FabricDrift
	findings    map[string]*incident // spoofed discovery, duplicates, by text
	rejected    map[string]rejection // connections that never came up, by address
	probing     *probe
	sums        map[string]*sum              // by policy
	tally       want.FabricTally             // the parts that are counted as they happen
	probes      map[string]want.FabricProbed // by policy
	changed     chan struct{}                // closed and replaced after every turn
	begun       uint64                       // turns that have begun
	turns       uint64                       // the last of them that has ended
	storedLinks string                       // as last kept
	recalled    uint64                       // the term for which the memory was read
}

// member is a switch that is or was connected.
type member struct {
	session *session.Session // nil = not connected
	since   time.Time
	role    string             // of this controller
	assumed uint64             // the term by which it has it
	holding *fabric.Holding    // as last applied; nil = never
	actual  *fabric.Actual     // as last read
	counted map[string]counted // by rule: its counters as last read
	checked time.Time
	inSync  bool
	foreign int
	problem string
	desc    of13.Desc
	echo    time.Duration // of the last question whether it lives

	came, dropped uint64 // frames that it sent on connections that have ended
}

type incident struct {
	finding want.FabricFinding
	at      time.Time
	count   int
}

type rejection struct {
	at  time.Time
	why string
}

// maxDrift and maxIncidents bound what is kept in memory.
const (
	maxDrift     = 500
	maxIncidents = 100
)

// nobody is a term that no election has.
const nobody = ^uint64(0)

// New makes an Engine. It leads nothing until Lead is called: it looks, and changes nothing.
func New(cfg Config, seal fabric.Seal, k Keeper, log *slog.Logger) *Engine {
	return &Engine{
		cfg: cfg, seal: seal, keeper: k, log: log, kick: make(chan struct{}, 1), topology: fabric.NewTopology(nil),
		switches: make(map[uint64]*member), refused: make(map[string]*refusal), findings: make(map[string]*incident),
		rejected: make(map[string]rejection), changed: make(chan struct{}), sums: make(map[string]*sum),
		probes: make(map[string]want.FabricProbed), tally: want.FabricTally{Probes: make(map[string]uint64)},
	}
}

// Want says what is wanted from now on; nil = nothing, and everything of ours goes. Before the first call nothing is touched.
func (e *Engine) Want(l *fabric.Layout) {
	e.mu.Lock()
	e.layout, e.known = l, true
	e.refused = make(map[string]*refusal)
	e.forget()
	e.mu.Unlock()
	e.Kick()
}

// Lead says by which election this controller changes switches; 0 = another one does. Terms only grow, and the switches themselves
// refuse one that is older than they have seen.
func (e *Engine) Lead(term uint64) {
	e.mu.Lock()
	same := e.term == term
	e.term = term
	e.mu.Unlock()
	if !same {
		e.Kick()
	}
}

// Kick has the switches looked at soon.
func (e *Engine) Kick() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, and returns nil then.
func (e *Engine) Run(ctx context.Context) error {
	for {
		m, err := e.keeper.LoadMemory(ctx)
		if err == nil {
			e.mu.Lock()
			e.tags, e.topology, e.began = m.Tags, fabric.NewTopology(m.Links), time.Now()
			e.mu.Unlock()
			break
		}
		e.log.Warn("the fabric's memory cannot be read; trying again", "err", err)
		if !pause(ctx, time.Second) {
			return nil
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if e.cfg.Probe > 0 {
		wg.Go(func() { e.probeAlways(ctx) })
	}
	tick := time.NewTicker(e.cfg.Every)
	defer tick.Stop()
	discover := time.NewTicker(fabric.DiscoveryEvery)
	defer discover.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-discover.C:
			if !e.Leads() {
				continue
			}
			e.discover()
			e.mu.Lock()
			gone := e.topology.Expire(time.Now())
			e.mu.Unlock()
			if gone {
				e.Kick()
			}
			continue
		case <-tick.C:
		case <-e.kick:
			if !pause(ctx, e.cfg.Settle) {
				return nil
			}
		}
		if err := e.reconcile(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("the fabric is not as it should be yet; trying again", "err", err)
			time.AfterFunc(time.Second, e.Kick)
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Up implements session.Handler.
func (e *Engine) Up(s *session.Session) {
	dpid := s.Features().DatapathID
	e.mu.Lock()
	var old *session.Session
	if m := e.switches[dpid]; m != nil {
		old = m.session
	}
	e.mu.Unlock()
	if old != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := old.Alive(ctx)
		cancel()
		if err == nil {
			text := fmt.Sprintf("%s and %s both claim the datapath id %s; the first is believed", hostOf(old.Remote()), hostOf(s.Remote()), want.DPID(dpid))
			e.incident(want.FabricFinding{Kind: want.FindingDuplicate, Switch: e.name(dpid), Text: text})
			s.Close(errors.New("another switch with this datapath id is connected"))
			return
		}
		old.Close(errors.New("the switch has connected anew"))
	}
	now := time.Now()
	e.mu.Lock()
	m := e.switches[dpid]
	if m == nil {
		m = &member{}
		e.switches[dpid] = m
	}
	m.session, m.since, m.role, m.assumed, m.problem, m.inSync, m.desc = s, now, "", nobody, "", false, s.Desc()
	e.topology.Connected(dpid, true, now)
	for n, p := range s.Ports() {
		if !p.Up() {
			e.topology.Port(fabric.Endpoint{Switch: dpid, Port: n}, false, now)
		}
	}
	e.mu.Unlock()
	select {
	case <-s.Done():
		e.Down(s, session.ErrClosed)
		return
	default:
	}
	e.log.Info("a switch has connected", "switch", e.name(dpid), "dpid", want.DPID(dpid), "address", s.Remote().String())
	e.Kick()
}

// hostOf is an address without its port, which says nothing to people.
func hostOf(a net.Addr) string {
	if h, _, err := net.SplitHostPort(a.String()); err == nil {
		return h
	}
	return a.String()
}

// Down implements session.Handler.
func (e *Engine) Down(s *session.Session, err error) {
	dpid := s.Features().DatapathID
	e.mu.Lock()
	m := e.switches[dpid]
	ours := m != nil && m.session == s
	if ours {
		came, dropped := s.PacketIns()
		m.came, m.dropped = m.came+came, m.dropped+dropped
		m.session, m.inSync, m.echo = nil, false, 0
		e.topology.Connected(dpid, false, time.Now())
		if e.layout == nil || !e.layout.Knows(dpid) {
			delete(e.switches, dpid) // whoever connects can claim any id, again and again
		}
	}
	e.mu.Unlock()
	if ours {
		e.log.Warn("a switch is gone; its rules stay in it", "switch", e.name(dpid), "why", err)
		e.Kick()
	}
}

// Refused implements session.Handler.
func (e *Engine) Refused(remote net.Addr, err error) {
	host := hostOf(remote)
	e.mu.Lock()
	defer e.mu.Unlock()
	before, again := e.rejected[host]
	if len(e.rejected) < maxIncidents || again {
		e.rejected[host] = rejection{time.Now(), err.Error()}
	}
	if !again || before.why != err.Error() {
		e.log.Warn("a switch was refused", "address", host, "why", err)
	}
}

// PortChanged implements session.Handler.
func (e *Engine) PortChanged(s *session.Session, m *of13.PortStatus) {
	at := fabric.Endpoint{Switch: s.Features().DatapathID, Port: m.Port.Number}
	up := m.Reason != of13.PortDeleted && m.Port.Up()
	e.mu.Lock()
	changed := e.topology.Port(at, up, time.Now())
	e.mu.Unlock()
	if changed {
		e.log.Info("a port changed", "switch", e.name(at.Switch), "port", at.Port, "up", up)
		e.Kick()
	}
}

// RuleRemoved implements session.Handler. Rules of ours ask for no such message; whoever else's they are, nothing is to do.
func (e *Engine) RuleRemoved(*session.Session, *of13.FlowRemoved) {}

// PacketIn implements session.Handler: discovery and probe frames come this way, and nothing else is looked at.
func (e *Engine) PacketIn(s *session.Session, m *of13.PacketIn) {
	to := fabric.Endpoint{Switch: s.Features().DatapathID, Port: m.InPort()}
	if e.probed(to, m) {
		return
	}
	now := time.Now()
	from, err := e.seal.Discovered(m.Data, now)
	if to.Port == 0 {
		return
	}
	e.mu.Lock()
	l := e.layout
	e.mu.Unlock()
	if l == nil {
		return
	}
	switch {
	case err != nil:
		e.incident(want.FabricFinding{Kind: want.FindingSpoof, Switch: e.name(to.Switch), Text: fmt.Sprintf("a discovery frame came in by %s that is not believed: %s", l.Name(to), err)})
		return
	case l.Host(to) || l.Host(from):
		e.incident(want.FabricFinding{Kind: want.FindingSpoof, Switch: e.name(to.Switch), Text: fmt.Sprintf("a discovery frame of %s came in by %s, where no switch can be; it is not believed", l.Name(from), l.Name(to))})
		return
	case from.Switch == to.Switch:
		return
	}
	e.mu.Lock()
	changed := e.topology.Heard(from, to, now)
	e.mu.Unlock()
	if changed {
		e.log.Info("a link was found", "a", l.Name(from), "b", l.Name(to))
		e.Kick()
	}
}

// incident takes note of something that is reported until it has not happened for a while.
func (e *Engine) incident(f want.FabricFinding) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if i := e.findings[f.Text]; i != nil {
		i.at, i.count = now, i.count+1
		return
	}
	if len(e.findings) >= maxIncidents {
		return
	}
	e.findings[f.Text] = &incident{f, now, 1}
	e.log.Warn("the fabric reports", "kind", f.Kind, "switch", f.Switch, "what", f.Text)
	e.note(f.Switch, f.Kind, f.Text, "reported")
}

// note writes a line of the drift log. e.mu is held.
func (e *Engine) note(name, kind, text, done string) {
	e.tally.Drift++
	e.drift = append(e.drift, want.FabricDrift{Time: time.Now().UTC(), Switch: name, Kind: kind, Text: text, Done: done})
	if len(e.drift) > maxDrift {
		e.drift = slices.Delete(e.drift, 0, len(e.drift)-maxDrift)
	}
}

func (e *Engine) name(dpid uint64) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.nameLocked(dpid)
}

func (e *Engine) nameLocked(dpid uint64) string {
	if e.layout != nil {
		return e.layout.SwitchName(dpid)
	}
	return want.DPID(dpid).String()
}

// sessions are the switches that are connected.
func (e *Engine) sessions() map[uint64]*session.Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[uint64]*session.Session)
	for dpid, m := range e.switches {
		if m.session != nil {
			out[dpid] = m.session
		}
	}
	return out
}

// discover sends a discovery frame out of every port that may lead to a switch.
func (e *Engine) discover() {
	e.mu.Lock()
	l := e.layout
	e.mu.Unlock()
	if l == nil {
		return
	}
	now := time.Now()
	for dpid, s := range e.sessions() {
		if !l.Knows(dpid) || e.isSlave(dpid) {
			continue
		}
		for n, p := range s.Ports() {
			at := fabric.Endpoint{Switch: dpid, Port: n}
			if n >= of13.PortMax || !p.Up() || l.Host(at) {
				continue
			}
			m := &of13.PacketOut{InPort: of13.PortController, Do: []of13.Action{of13.Output{Port: n}}, Data: e.seal.Discovery(at, now)}
			if _, err := s.Send(m); err != nil {
				break
			}
		}
	}
}

// Await waits until what is wanted has been brought to the switches at least once since the call, or ctx ends.
func (e *Engine) Await(ctx context.Context) error {
	e.mu.Lock()
	target := e.begun + 1
	e.mu.Unlock()
	e.Kick()
	for {
		e.mu.Lock()
		done, changed := e.turns >= target, e.changed
		e.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func noFabric() error {
	return &fault.Error{Kind: fault.NotFound, Msg: "no fabric is described", Hint: "opentap fabric apply -f FILE"}
}
