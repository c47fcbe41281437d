package controller

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"opentap/auth"
	"opentap/detect"
	"opentap/fault"
	"opentap/store"
	"opentap/want"
)

// detectPrefix is where rules are stored, by name.
const detectPrefix = "detect-rule/"

const (
	mostRules      = 200
	mostDetections = 2000            // that are remembered
	detectAgain    = time.Second     // after a node's detection broke off
	detectGrace    = 5 * time.Second // a flow that is not told again so long after a node's detection began anew is over
)

// detection is what is known of rules and of what they found. Rules are the store's; what was found is remembered, not kept.
type detection struct {
	ctx  context.Context // of runDetect, set before anything is detected
	acts sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with every change of what follows
	rules   map[string]*storedRule
	version uint64                              // of rules
	active  map[string]*want.Detection          // by rule, node and keys; see activeKey
	recent  []*want.Detection                   // the oldest first; those in active as well
	tops    map[string]map[string][]want.Ranked // by node, by rule
	counts  map[string]want.DetectCounts        // by node
	seen    map[string]time.Time                // by ID of those in active: when it was last known to go on
	hooks   chan hookCall
}

// storedRule is a rule as the store holds it, by its name.
type storedRule struct {
	want.Rule
	Admin    bool `json:"admin,omitempty"` // an administrator changed it last
	rev      int64
	compiled *detect.Compiled
}

func newDetection() *detection {
	return &detection{
		changed: make(chan struct{}), rules: make(map[string]*storedRule), active: make(map[string]*want.Detection),
		tops: make(map[string]map[string][]want.Ranked), counts: make(map[string]want.DetectCounts), seen: make(map[string]time.Time), hooks: make(chan hookCall, mostHooks),
	}
}

// tell wakes who waits for changes. d.mu is held.
func (d *detection) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// runDetect follows the rules and has the nodes run them, until ctx ends.
func (c *Controller) runDetect(ctx context.Context) {
	c.detection.mu.Lock()
	c.detection.ctx = ctx
	c.detection.mu.Unlock()
	defer c.detection.acts.Wait()
	var wg sync.WaitGroup
	wg.Go(func() { c.superviseDetect(ctx) })
	wg.Go(func() { c.callHooks(ctx) })
	wg.Go(func() { c.expireDetect(ctx) })
	defer wg.Wait()
	for ctx.Err() == nil {
		if err := c.followRules(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("lost the changes of the rules; listing again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func (c *Controller) decodeRule(kv store.KV) *storedRule {
	r := &storedRule{rev: kv.ModRevision}
	err := json.Unmarshal(kv.Value, r)
	if err == nil {
		r.compiled, err = detect.Compile(&r.Rule)
	}
	if err != nil || detectPrefix+r.Name != kv.Key {
		c.log.Error("the store holds a rule that cannot be read; it is left alone", "key", kv.Key, "err", err)
		return nil
	}
	return r
}

func (c *Controller) followRules(ctx context.Context) error {
	kvs, rev, err := c.store.List(ctx, detectPrefix)
	if err != nil {
		return err
	}
	rules := make(map[string]*storedRule)
	for _, kv := range kvs {
		if r := c.decodeRule(kv); r != nil {
			rules[r.Name] = r
		}
	}
	d := c.detection
	d.mu.Lock()
	d.rules = rules
	d.version++
	d.tell()
	d.mu.Unlock()
	for b := range c.store.Watch(ctx, detectPrefix, rev+1) {
		if b.Err != nil {
			return b.Err
		}
		d.mu.Lock()
		for _, ev := range b.Events {
			name := strings.TrimPrefix(ev.Key, detectPrefix)
			if ev.Deleted {
				delete(d.rules, name)
			} else if r := c.decodeRule(ev.KV); r != nil {
				d.rules[name] = r
			}
		}
		d.version++
		d.tell()
		d.mu.Unlock()
	}
	return ctx.Err()
}

// supervised is a node whose detection runs.
type supervised struct {
	cancel  context.CancelFunc
	version uint64
}

// superviseDetect keeps a stream open to each node that collects, with the newest rules.
func (c *Controller) superviseDetect(ctx context.Context) {
	running := make(map[string]*supervised)
	var streams sync.WaitGroup
	defer streams.Wait()
	ended := make(chan string)
	for {
		blind := c.blindRules()
		d := c.detection
		d.mu.Lock()
		version, rulesChanged := d.version, d.changed
		var rules []want.Rule
		needsCollector := true
		for _, name := range slices.Sorted(maps.Keys(d.rules)) {
			if r := d.rules[name]; !r.Disabled && !blind[name] {
				rules = append(rules, r.Rule)
				if r.compiled.Input == want.InputPackets || r.compiled.Input == want.InputCounters {
					needsCollector = false
				}
			}
		}
		d.mu.Unlock()
		nodes, changed := c.nodesToWatch(len(rules) > 0, needsCollector)
		for id, s := range running {
			if s.version != version || nodes[id] == "" {
				s.cancel() // it is taken out when it has ended
			}
		}
		for id, name := range nodes {
			if running[id] != nil || len(rules) == 0 {
				continue
			}
			sctx, cancel := context.WithCancel(ctx)
			running[id] = &supervised{cancel: cancel, version: version}
			streams.Go(func() {
				defer cancel()
				err := c.hub.Stream(sctx, nil, id, name, want.LiveSpec{Look: &want.Look{Detect: rules}}, &detectLines{c: c, node: name, began: time.Now()})
				if sctx.Err() == nil {
					c.log.Warn("a node's detection broke off", "node", name, "err", err)
					select {
					case <-sctx.Done():
					case <-time.After(detectAgain):
					}
				}
				select {
				case ended <- id:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case id := <-ended:
			delete(running, id)
		case <-changed:
		case <-rulesChanged:
		}
	}
}

// nodesToWatch are the names of the nodes, by id, that rules are given to, and a channel that is closed when they change:
// all that are connected, or those alone that collect something.
func (c *Controller) nodesToWatch(rules, collectors bool) (names map[string]string, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names = make(map[string]string)
	if !rules {
		return names, c.nodesChanged
	}
	for id, n := range c.nodes {
		if n.connected && (!collectors || len(n.facts.Collectors)+len(n.facts.FlowStores) > 0) {
			names[id] = n.id.NodeName
		}
	}
	return names, c.nodesChanged
}

// detectLines takes in what a node tells, which comes cut anywhere.
type detectLines struct {
	c     *Controller
	node  string
	began time.Time
	part  []byte
}

// maxDetectLine bounds a line: the largest flows of all rules.
const maxDetectLine = 16 << 20

// Write implements io.Writer.
func (l *detectLines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ok := bytes.Cut(p, []byte{'\n'})
		if !ok {
			if l.part = append(l.part, p...); len(l.part) > maxDetectLine {
				return 0, fault.New(fault.Internal, "node %s tells a line of more than %d octets", l.node, maxDetectLine)
			}
			return n, nil
		}
		var told want.Detections
		if err := json.Unmarshal(append(l.part, line...), &told); err != nil {
			return 0, fault.New(fault.Internal, "node %s tells what is not understood: %v", l.node, err)
		}
		l.part, p = l.part[:0], rest
		l.c.detected(l.node, &told)
	}
}

// activeKey is what a flow that is over its threshold is known by: it is told once, whoever sees it.
func activeKey(rule string, keys []string) string { return rule + "\x00" + strings.Join(keys, "\x00") }

// detected takes over what a node tells.
func (c *Controller) detected(node string, told *want.Detections) {
	d := c.detection
	d.mu.Lock()
	if told.Tops != nil {
		d.tops[node] = told.Tops
		if told.Counts != nil {
			d.counts[node] = *told.Counts
		}
	}
	x := told.Crossing
	if x == nil {
		d.tell()
		d.mu.Unlock()
		return
	}
	r := d.rules[x.Rule]
	if r == nil || len(x.Keys) != len(r.compiled.Keys) { // it was changed meanwhile
		d.mu.Unlock()
		return
	}
	k := activeKey(x.Rule, x.Keys)
	have := d.active[k]
	switch {
	case x.Over && (have == nil || have.Node != node || have.Source != x.Source && have.Agent == x.Agent):
	case x.Over:
		have.Value, have.Peak, have.Samples, have.Ended = x.Value, max(have.Peak, x.Peak), x.Samples, x.At
		delete(d.active, k)
		delete(d.seen, have.ID)
		d.tell()
		c.finishAct(r, have)
	case have != nil: // another node sees it as well, or this one tells it again
	default:
		e := &want.Detection{
			ID: newDetectionID(x.At), Rule: r.Name, Project: r.Project, Node: node, Agent: x.Agent, Source: x.Source, Keys: make(map[string]string, len(x.Keys)),
			Unit: r.compiled.Unit(), Value: x.Value, Peak: x.Peak, Threshold: r.compiled.Above, Samples: x.Samples, Began: x.At,
			Action: want.DetectionAction{State: "none"},
		}
		for i, name := range r.compiled.Keys {
			e.Keys[name] = x.Keys[i]
		}
		d.active[k] = e
		if d.recent = append(d.recent, e); len(d.recent) > mostDetections {
			d.recent = slices.Delete(d.recent, 0, len(d.recent)-mostDetections)
		}
		d.tell()
		c.beginAct(r, e)
	}
	d.mu.Unlock()
}

// newDetectionID makes identifiers that sort by time.
func newDetectionID(at time.Time) string {
	var b [4]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return at.UTC().Format("20060102T150405.000") + "-" + hex.EncodeToString(b[:])
}

// expireDetect ends what nobody can end any more: its rule is gone, or its node has been away for long.
func (c *Controller) expireDetect(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	away := make(map[string]time.Time)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.endStale(now, away)
		}
	}
}

func (c *Controller) endStale(now time.Time, away map[string]time.Time) {
	c.mu.Lock()
	connected := make(map[string]bool)
	for _, n := range c.nodes {
		connected[n.id.NodeName] = n.connected
	}
	c.mu.Unlock()
	blind := c.blindRules()
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.recent { // acts end with their time to live, whatever their flow does
		if e.Action.State == "running" && !e.Action.Until.IsZero() && now.After(e.Action.Until) {
			r := d.rules[e.Rule]
			if r == nil {
				r = &storedRule{Rule: want.Rule{Name: e.Rule}}
			}
			c.stopAct(r, e)
			d.tell()
		}
	}
	for k, e := range d.active {
		r := d.rules[e.Rule]
		if connected[e.Node] {
			delete(away, e.Node)
		} else if away[e.Node].IsZero() {
			away[e.Node] = now
		}
		if slices.ContainsFunc(d.tops[e.Node][e.Rule], func(t want.Ranked) bool { return t.Active && activeKey(e.Rule, t.Keys) == k }) {
			d.seen[e.ID] = now
		}
		last := d.seen[e.ID]
		if last.IsZero() {
			last, d.seen[e.ID] = now, now
		}
		gone := r == nil || r.Disabled || blind[e.Rule]
		if !gone { // a node that begins anew tells again what goes on, or it is over
			patience := detectGrace + r.compiled.Hold + r.compiled.Window
			gone = now.Sub(last) > patience || !away[e.Node].IsZero() && now.Sub(away[e.Node]) > patience
		}
		if gone {
			e.Ended = now.UTC()
			delete(d.active, k)
			delete(d.seen, e.ID)
			d.tell()
			if r == nil {
				r = &storedRule{Rule: want.Rule{Name: e.Rule}}
			}
			c.finishAct(r, e)
		}
	}
}

// mayDetect checks the rights of who makes rules: what they start takes the right to start, and their keys show traffic.
func (c *Controller) mayDetect(ctx context.Context, id auth.Identity, action, object string, rights ...auth.Right) error {
	for _, right := range rights {
		if !id.May(right) {
			return c.refuse(ctx, id, action, object, right)
		}
	}
	if slices.Contains(rights, auth.ReadPayload) && action != "detect.rule.delete" {
		return c.mayWatch(ctx, id, action, object)
	}
	return nil
}

func ruleVisible(id auth.Identity, project string) bool {
	return project == id.Project || id.May(auth.Administer)
}

// Rules lists the rules of the caller's project.
func (c *Controller) Rules(ctx context.Context, id auth.Identity) ([]want.Rule, error) {
	if err := c.mayDetect(ctx, id, "detect.rule.list", "", auth.SeeMetadata); err != nil {
		return nil, err
	}
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []want.Rule{}
	for _, name := range slices.Sorted(maps.Keys(d.rules)) {
		if r := d.rules[name]; ruleVisible(id, r.Project) {
			out = append(out, r.Rule)
		}
	}
	return out, nil
}

// Rule shows one.
func (c *Controller) Rule(ctx context.Context, id auth.Identity, name string) (want.Rule, error) {
	if err := c.mayDetect(ctx, id, "detect.rule.show", name, auth.SeeMetadata); err != nil {
		return want.Rule{}, err
	}
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.rules[name]; r != nil && ruleVisible(id, r.Project) {
		return r.Rule, nil
	}
	return want.Rule{}, noRule(name)
}

func noRule(name string) error { return fault.New(fault.NotFound, "there is no rule %q", name) }

// SetRule makes or changes a rule. What it does is done in the name of who changed it last.
func (c *Controller) SetRule(ctx context.Context, id auth.Identity, r want.Rule) (want.Rule, bool, error) {
	if err := c.mayDetect(ctx, id, "detect.rule.set", r.Name, auth.Start, auth.ReadPayload); err != nil {
		return want.Rule{}, false, err
	}
	r.Owner, r.Changed = id.Name, time.Now().UTC()
	s := &storedRule{Rule: r, Admin: id.May(auth.Administer)}
	var err error
	if s.compiled, err = detect.Compile(&r); err != nil {
		return want.Rule{}, false, err
	}
	if err := c.checkAction(ctx, id, s); err != nil {
		return want.Rule{}, false, err
	}
	if err := c.refusedForRoom(); err != nil {
		return want.Rule{}, false, err
	}
	key := detectPrefix + r.Name
	for {
		kv, err := c.store.Get(ctx, key)
		created := errors.Is(err, store.ErrNotFound)
		if err != nil && !created {
			return want.Rule{}, false, storeFault(err)
		}
		guard := store.Absent(key)
		r.Project = id.Project
		if !created {
			var old want.Rule
			if err := json.Unmarshal(kv.Value, &old); err == nil && !ruleVisible(id, old.Project) {
				return want.Rule{}, false, &fault.Error{Kind: fault.Conflict, Field: "name", Msg: "the name is taken", Hint: "choose another"}
			}
			r.Project = cmp.Or(old.Project, id.Project)
			guard = store.Unchanged(kv)
		} else if c.rulesLeft() <= 0 {
			return want.Rule{}, false, &fault.Error{Kind: fault.Exhausted, Msg: "there are as many rules as there may be", Hint: "delete one"}
		}
		if err := c.record(ctx, id, "detect.rule.set", r.Name, r.Project, map[string]string{
			"keys": strings.Join(r.Flow.Keys, ","), "filter": r.Flow.Filter, "above": r.Threshold.Above,
		}); err != nil {
			return want.Rule{}, false, err
		}
		s.Rule = r
		value, err := json.Marshal(s)
		if err != nil {
			return want.Rule{}, false, err
		}
		_, err = c.store.Txn(ctx, []store.Compare{guard}, []store.Op{store.Put(key, value)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return want.Rule{}, false, storeFault(err)
		}
		return r, created, c.awaitRule(ctx, func(have *storedRule) bool { return have != nil && !have.Changed.Before(r.Changed) }, r.Name)
	}
}

func (c *Controller) rulesLeft() int {
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	return mostRules - len(d.rules)
}

// awaitRule waits until a rule is as it was written.
func (c *Controller) awaitRule(ctx context.Context, ok func(*storedRule) bool, name string) error {
	return c.detection.await(ctx, func(d *detection) bool { return ok(d.rules[name]) })
}

// await returns nil once ok holds; ok is called with d.mu held.
func (d *detection) await(ctx context.Context, ok func(*detection) bool) error {
	for {
		d.mu.Lock()
		done, changed := ok(d), d.changed
		d.mu.Unlock()
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

// DeleteRule takes a rule away. What it started ends.
func (c *Controller) DeleteRule(ctx context.Context, id auth.Identity, name string) error {
	if err := c.mayDetect(ctx, id, "detect.rule.delete", name, auth.Start, auth.ReadPayload); err != nil {
		return err
	}
	r, err := c.Rule(ctx, id, name)
	if err != nil {
		return err
	}
	if err := c.record(ctx, id, "detect.rule.delete", name, r.Project, nil); err != nil {
		return err
	}
	if _, err := c.store.Txn(ctx, nil, []store.Op{store.Delete(detectPrefix + name)}); err != nil {
		return storeFault(err)
	}
	return c.awaitRule(ctx, func(have *storedRule) bool { return have == nil }, name)
}

// TopDetect shows the largest flows of a rule now, over all nodes, each as the node sees it that sees most of it.
func (c *Controller) TopDetect(ctx context.Context, id auth.Identity, name string) (want.DetectTop, error) {
	if err := c.mayDetect(ctx, id, "detect.top", name, auth.ReadPayload); err != nil {
		return want.DetectTop{}, err
	}
	r, err := c.Rule(ctx, id, name)
	if err != nil {
		return want.DetectTop{}, err
	}
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	out := want.DetectTop{Rule: name, Keys: r.Flow.Keys, Flows: []want.Ranked{}, Nodes: make(map[string]want.DetectCounts)}
	if have := d.rules[name]; have != nil {
		out.Unit, out.Threshold = have.compiled.Unit(), have.compiled.Above
	}
	best := make(map[string]int)
	for node, rules := range d.tops {
		out.Nodes[node] = d.counts[node]
		for _, t := range rules[name] {
			k := activeKey(name, t.Keys)
			i, ok := best[k]
			if !ok {
				best[k] = len(out.Flows)
				out.Flows = append(out.Flows, t)
				continue
			}
			active := t.Active || out.Flows[i].Active
			if t.Value > out.Flows[i].Value {
				out.Flows[i] = t
			}
			out.Flows[i].Active = active
		}
	}
	slices.SortFunc(out.Flows, func(a, b want.Ranked) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), slices.Compare(a.Keys, b.Keys))
	})
	return out, nil
}

// Detections lists what rules found, the newest first.
func (c *Controller) Detections(ctx context.Context, id auth.Identity, rule string, active bool) ([]want.Detection, error) {
	if err := c.mayDetect(ctx, id, "detect.event.list", rule, auth.ReadPayload); err != nil {
		return nil, err
	}
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list(id, rule, active), nil
}

// list is what somebody may see. d.mu is held.
func (d *detection) list(id auth.Identity, rule string, active bool) []want.Detection {
	out := []want.Detection{}
	for _, e := range slices.Backward(d.recent) {
		if ruleVisible(id, e.Project) && (rule == "" || e.Rule == rule) && (!active || e.Ended.IsZero()) {
			out = append(out, copyDetection(e))
		}
	}
	return out
}

func copyDetection(e *want.Detection) want.Detection {
	c := *e
	c.Keys = maps.Clone(e.Keys)
	return c
}

// FollowDetections returns what changes: each call of next waits for detections that are not as they were told before; at first
// all are told. None and no error: the server stops.
func (c *Controller) FollowDetections(ctx context.Context, id auth.Identity, rule string) (next func(context.Context, auth.Identity) ([]want.Detection, error), err error) {
	if err := c.mayDetect(ctx, id, "detect.event.follow", rule, auth.ReadPayload); err != nil {
		return nil, err
	}
	told := make(map[string]want.Detection)
	return func(ctx context.Context, id auth.Identity) ([]want.Detection, error) {
		if !id.May(auth.ReadPayload) {
			return nil, c.refuse(ctx, id, "detect.event.follow", rule, auth.ReadPayload)
		}
		if err := c.mayWatch(ctx, id, "detect.event.follow", rule); err != nil {
			return nil, err
		}
		d := c.detection
		for {
			d.mu.Lock()
			var fresh []want.Detection
			known := make(map[string]bool)
			for _, e := range slices.Backward(d.list(id, rule, false)) {
				known[e.ID] = true
				if was, ok := told[e.ID]; !ok || was.Action != e.Action || !was.Ended.Equal(e.Ended) {
					told[e.ID] = e
					fresh = append(fresh, e)
				}
			}
			changed := d.changed
			d.mu.Unlock()
			maps.DeleteFunc(told, func(k string, _ want.Detection) bool { return !known[k] })
			if len(fresh) > 0 {
				return fresh, nil
			}
			select {
			case <-changed:
			case <-c.liveEnd:
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}, nil
}
