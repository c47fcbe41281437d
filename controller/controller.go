// Package controller holds the use cases: it decides who may do what, keeps what is wanted in the store, and has the
// agents do it.
//
// What is wanted (captures) is in the store; what became of it is reported by agents and kept in memory, except a
// capture's last word, which is stored too. Every act on somebody's traffic has its audit entry before it happens.
//
// Runs in: controller
package controller

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"opentap/agentapi"
	"opentap/audit"
	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/ledger"
	"opentap/point"
	"opentap/store"
	"opentap/tap"
	"opentap/want"
)

// Config is what an administrator decides about captures.
type Config struct {
	Name         string             // of this installation, shown in capabilities
	Version      string             // of the program
	Retention    time.Duration      // how long data is kept when a request does not say
	RetentionMax time.Duration      // 0 = no limit
	DurationMax  time.Duration      // of one capture; 0 = no limit
	CapturesMax  int                // that exist at one time, per project
	Projects     []want.Project     // that the configuration declares
	DefaultPoint string             // "" = the device of the default route
	Aliases      []point.Alias      // the names people use
	SettleWait   time.Duration      // how long an answer waits for the agent to take a change
	Taps         TapQuota           // that exist at one time, per project
	MirrorTo     []netip.Prefix     // where tenants' mirrors may send to; empty = anywhere but to nodes
	Webhooks     map[string]Webhook // targets that rules may tell, by name
	EventsKept   time.Duration      // of what rules found, after its end; 0 = the newest 2000, however old
}

// DefaultConfig is what holds unless the administrator says otherwise.
func DefaultConfig() Config {
	return Config{
		Name: "opentap", Retention: time.Hour, CapturesMax: 1000, SettleWait: 2 * time.Second, EventsKept: 7 * 24 * time.Hour,
		Taps: TapQuota{Services: 1000, Flows: 10_000, Mirrors: 1000, Ports: 10_000},
	}
}

// Auditor writes an entry durably before it returns nil.
type Auditor interface {
	Append(ctx context.Context, e audit.Entry) error
}

// Hub reaches the agents.
type Hub interface {
	Kick(nodeID string)
	Open(ctx context.Context, nodeID, nodeName, uid string, o want.OpenOptions) (*want.Retrieval, error)
	Stream(ctx context.Context, end <-chan struct{}, nodeID, nodeName string, spec want.LiveSpec, w io.Writer) error
}

// Controller is safe for concurrent use.
type Controller struct {
	cfg       Config
	store     store.Store
	audit     Auditor
	hub       Hub
	keys      Keys
	members   Membership // nil = no fleet
	providers []Provider // where people sign in
	doctor    Doctor
	full      atomic.Pointer[string] // why nothing new is taken; nil = it is
	log       *slog.Logger

	began    time.Time     // this controller
	disputed chan struct{} // see Disputed
	trials   trials

	fabric *fabricRoom // nil = no OpenFlow switches are taken

	liveEnd chan struct{} // closed: live streams end
	endLive sync.Once

	mu           sync.Mutex
	changed      chan struct{}                   // closed and replaced at every change below
	nodesChanged chan struct{}                   // closed and replaced when a node comes, goes, or has other things
	captures     map[string]*entry               // by UID: the store's content
	byID         map[captureKey]string           // → UID
	byNode       map[string]map[string]*entry    // by node ID and UID
	moved        map[string]bool                 // IDs of nodes whose devices may not be where the store says
	ahead        map[string]bool                 // IDs of nodes that have taken a revision later than ours: what we sent was refused
	ended        map[string]bool                 // UIDs whose last word is to be stored
	projects     map[string]want.Project         // by name: the store's content; nil = not known yet
	named        *point.Set                      // of all points; nil = they have changed
	revision     int64                           // of the store, up to which captures is true
	status       map[string]want.Status          // by UID: as last reported
	recorders    map[recorderKey]*storedRecorder // the store's content
	nodes        map[string]*node                // by node ID
	taps         *world                          // the store's content, as far as it has to do with taps
	packets      ledger.Account                  // see Tally
	records      map[want.Kind]uint64

	events    events
	detection *detection
	browsers  browsers
	probers   probers
}

// captureKey names a capture as its project does.
type captureKey struct{ project, id string }

// stored is a capture as the store holds it, under capture/<uid>.
type stored struct {
	Capture want.Capture `json:"capture"`
	NodeID  string       `json:"node_id"`
	Node    string       `json:"node"`
	Request want.Request `json:"request"`         // as it was asked, to know a repetition
	Admin   bool         `json:"admin,omitempty"` // an administrator began it
	Final   *want.Status `json:"final,omitempty"` // its last word
}

type entry struct {
	stored
	rev       int64  // mod revision
	filtering string // the filter in plain words
}

type node struct {
	id        agentapi.Identity
	connected bool
	member    bool // of the fleet, or was
	since     time.Time
	revision  int64                  // desired revision it has taken
	early     map[string]want.Status // of captures that are not known here yet, by UID
	points    []point.Point
	facts     want.Node
	taps      map[string]tap.Status // of all its sources and sinks, by their ids
	told      bool                  // it has said what devices it has
}

const (
	capturePrefix = "capture/"
	idPrefix      = "capture-id/"

	// watched is what the keys that agents hear of begin with: one list and one watch, so that a revision stands for all.
	watched = "capture"
)

// New makes a controller; Run brings it to life. SetHub must be called before Run.
func New(cfg Config, st store.Store, au Auditor, log *slog.Logger) *Controller {
	return &Controller{
		detection: newDetection(cfg.Webhooks),
		began:     time.Now(), disputed: make(chan struct{}, 1), cfg: cfg, store: st, audit: au, log: log, liveEnd: make(chan struct{}), changed: make(chan struct{}), nodesChanged: make(chan struct{}), captures: make(map[string]*entry),
		byID: make(map[captureKey]string), byNode: make(map[string]map[string]*entry), ahead: make(map[string]bool), moved: make(map[string]bool), ended: make(map[string]bool), status: make(map[string]want.Status), recorders: make(map[recorderKey]*storedRecorder), nodes: make(map[string]*node),
		records: make(map[want.Kind]uint64), taps: newWorld(),
		events: events{
			wake: make(chan struct{}, 1), listeners: make(map[*listener]bool), rates: make(map[ratePoint]want.Rate),
			fresh: make(map[ratePoint]want.Rate), captures: make(map[string]*toldCapture),
		},
	}
}

// SetHub gives the way to the agents. The hub in its turn is made with this controller as its Fleet.
func (c *Controller) SetHub(h Hub) { c.hub = h }

// Run follows the store and expires old captures until ctx ends, and then returns nil.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.expire(ctx) })
	wg.Go(func() { c.keepFinals(ctx) })
	wg.Go(func() { c.runFabric(ctx) })
	wg.Go(func() { c.keepPlaces(ctx) })
	wg.Go(func() { c.expireTaps(ctx) })
	wg.Go(func() { c.keepNarrow(ctx) })
	wg.Go(func() { c.followMembers(ctx) })
	wg.Go(func() { c.followProjects(ctx) })
	wg.Go(func() { c.broadcast(ctx) })
	wg.Go(func() { c.runDetect(ctx) })
	defer wg.Wait()
	for ctx.Err() == nil {
		if err := c.follow(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("lost the store's changes; listing again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// Ready waits until the store's content is known, or ctx ends.
func (c *Controller) Ready(ctx context.Context) error {
	return c.await(ctx, func() bool { return c.revision > 0 && c.projects != nil })
}

// Reached reports whether a node is connected, has told what it has, and the store has it: before that its points and ports
// are unknown here.
func (c *Controller) Reached(nodeID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeID]
	return n != nil && n.connected && len(n.points) > 0 && c.taps.nodes[nodeID] != nil
}

// follow lists the captures and then applies changes as they come.
func (c *Controller) follow(ctx context.Context) error {
	kvs, rev, err := c.store.List(ctx, watched)
	if err != nil {
		return err
	}
	fresh := make(map[string]*entry, len(kvs))
	recorders := make(map[recorderKey]*storedRecorder)
	taps := newWorld()
	for _, kv := range kvs {
		switch {
		case strings.HasPrefix(kv.Key, capturePrefix):
			if e := c.decode(kv); e != nil {
				fresh[e.Capture.UID] = e
			}
		case strings.HasPrefix(kv.Key, recorderPrefix):
			if r := c.decodeRecorder(kv); r != nil {
				recorders[r.key()] = r
			}
		case strings.HasPrefix(kv.Key, tapPrefix):
			if err := taps.apply(store.Event{KV: kv}, map[string]bool{}); err != nil {
				c.log.Error("the store holds something about taps that cannot be read; it is left alone", "key", kv.Key, "err", err)
			}
		}
	}
	c.mu.Lock()
	c.captures, c.recorders, c.taps = fresh, recorders, taps
	c.byID = make(map[captureKey]string, len(fresh))
	clear(c.byNode)
	for uid, e := range fresh {
		c.byID[captureKey{e.Capture.Project, e.Capture.ID}] = uid
		c.index(e)
		c.takeEarly(e)
	}
	for uid := range c.status {
		if fresh[uid] == nil {
			delete(c.status, uid)
		}
	}
	c.revision = max(rev, 1)
	c.tell()
	all := make([]string, 0, len(c.nodes))
	for id, n := range c.nodes {
		all = append(all, id)
		if n.told {
			c.moved[id] = true
		}
	}
	c.mu.Unlock()
	for _, id := range all {
		c.hub.Kick(id)
	}
	for b := range c.store.Watch(ctx, watched, rev+1) {
		if b.Err != nil {
			return b.Err
		}
		c.apply(b)
	}
	return ctx.Err()
}

func (c *Controller) decode(kv store.KV) *entry {
	e := &entry{rev: kv.ModRevision}
	if err := json.Unmarshal(kv.Value, &e.stored); err != nil || e.Capture.UID == "" {
		c.log.Error("the store holds a capture that cannot be read; it is left alone", "key", kv.Key, "err", err)
		return nil
	}
	if text := e.Capture.Query.Filter; text != "" {
		if expr, err := filter.Parse(text); err == nil {
			e.filtering = expr.Explain()
		}
	}
	return e
}

func (c *Controller) apply(b store.Batch) {
	kick := make(map[string]bool)
	c.mu.Lock()
	for _, ev := range b.Events {
		if strings.HasPrefix(ev.Key, recorderPrefix) {
			c.applyRecorder(ev, kick)
			continue
		}
		if strings.HasPrefix(ev.Key, tapPrefix) {
			c.applyTap(ev, kick)
			continue
		}
		if !strings.HasPrefix(ev.Key, capturePrefix) {
			continue
		}
		uid := ev.Key[len(capturePrefix):]
		old := c.captures[uid]
		if old != nil {
			kick[old.NodeID] = true
		}
		if ev.Deleted {
			if old != nil {
				delete(c.byID, captureKey{old.Capture.Project, old.Capture.ID})
				delete(c.byNode[old.NodeID], uid)
			}
			delete(c.captures, uid)
			delete(c.status, uid)
			delete(c.ended, uid)
			continue
		}
		if e := c.decode(ev.KV); e != nil {
			c.captures[uid] = e
			c.byID[captureKey{e.Capture.Project, e.Capture.ID}] = uid
			c.index(e)
			c.takeEarly(e)
			kick[e.NodeID] = true
		}
	}
	c.revision = b.Revision
	for id := range c.ahead {
		if n := c.nodes[id]; n == nil || n.revision <= c.revision {
			delete(c.ahead, id)
			kick[id] = true
		}
	}
	c.tell()
	c.mu.Unlock()
	for id := range kick {
		c.hub.Kick(id)
	}
}

// index notes which node has a capture; that never changes. c.mu is held.
func (c *Controller) index(e *entry) {
	if c.byNode[e.NodeID] == nil {
		c.byNode[e.NodeID] = make(map[string]*entry)
	}
	c.byNode[e.NodeID][e.Capture.UID] = e
}

// tell wakes everybody in await. c.mu is held.
func (c *Controller) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// tellNodes is tell for changes of the nodes, their points among them. c.mu is held.
func (c *Controller) tellNodes() {
	c.named = nil
	close(c.nodesChanged)
	c.nodesChanged = make(chan struct{})
}

// await returns nil once ok holds; ok is called with c.mu held.
func (c *Controller) await(ctx context.Context, ok func() bool) error {
	for {
		c.mu.Lock()
		done, changed := ok(), c.changed
		c.mu.Unlock()
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

// settle waits a little until ok holds; an answer given before is still true, only less complete.
func (c *Controller) settle(ctx context.Context, ok func() bool) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleWait)
	defer cancel()
	_ = c.await(ctx, ok) // a time-out is an answer too
}

// record writes the audit entry that must stand before the act.
func (c *Controller) record(ctx context.Context, id auth.Identity, action, object, project string, details map[string]string) error {
	e := audit.Entry{Actor: audit.ActorOf(id), Action: action, Object: object, Project: project, Outcome: audit.Allowed, Details: details}
	if err := c.audit.Append(ctx, e); err != nil {
		return &fault.Error{
			Kind: fault.Unavailable, Msg: "refused, because the audit log cannot be written", Err: err,
			Hint: "an administrator must make room for the audit log or mend its disk", RetryAfter: 10 * time.Second,
		}
	}
	return nil
}

// refuse writes down that somebody was refused, and returns the refusal.
func (c *Controller) refuse(ctx context.Context, id auth.Identity, action, object string, right auth.Right) error {
	e := audit.Entry{
		Actor: audit.ActorOf(id), Action: action, Object: object, Project: id.Project, Outcome: audit.Denied,
		Details: map[string]string{"needs": right.String()},
	}
	err := &fault.Error{
		Kind: fault.Forbidden, Msg: "the role " + id.Role + " may not do this",
		Hint: "it takes the right to " + right.String(),
	}
	if aerr := c.audit.Append(ctx, e); aerr != nil {
		err.Err = aerr
	}
	return err
}

// storeFault makes a store's error one that a caller can decide on.
func storeFault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrFull):
		return &fault.Error{Kind: fault.Exhausted, Msg: "the state store is full", Err: err}
	case errors.Is(err, store.ErrTooLarge):
		return &fault.Error{Kind: fault.Invalid, Msg: "the request is too large to keep", Err: err}
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		return &fault.Error{Kind: fault.Unavailable, Msg: "the state store does not answer", Err: err, RetryAfter: 2 * time.Second}
	}
	return err
}
