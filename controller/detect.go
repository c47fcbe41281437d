package controller

import (
	"bytes"
	"cmp"
	"context"
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
	mostRules   = 200
	detectAgain = time.Second     // after a node's detection broke off
	detectGrace = 5 * time.Second // a flow that is not told again so long after a node's detection began anew is over
)

// detection is what is known of rules and of what they found. Both are the store's.
type detection struct {
	ctx  context.Context // of runDetect, set before anything is detected
	acts sync.WaitGroup
	wake chan struct{} // something is heard

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced with every change of what follows
	rules     map[string]*storedRule
	suspended map[string]string // rules that may not run: why
	version   uint64            // of rules, and of which may run

	known   bool                        // the store's events are
	events  map[string]*storedDetection // by id
	order   []string                    // their ids, the oldest first
	active  map[string]string           // ids of those that go on, by flow; see activeKey
	budgets map[string]int64            // by rule: the store's revision of its budget
	working map[string]int              // by id of the event: how many goroutines of this controller are at work for it

	heard  []crossing                          // crossings that are not written down yet, the oldest first
	tops   map[string]map[string][]want.Ranked // by node, by rule
	counts map[string]want.DetectCounts        // by node
	seen   map[string]time.Time                // by id of those that go on: when it was last known
	hooks  map[string]*hook                    // by target; never changes
}

// storedRule is a rule as the store holds it, by its name.
type storedRule struct {
	want.Rule
	Admin    bool `json:"admin,omitempty"` // an administrator changed it last
	rev      int64
	compiled *detect.Compiled
}

func newDetection(targets map[string]Webhook) *detection {
	d := &detection{
		wake: make(chan struct{}, 1), changed: make(chan struct{}), rules: make(map[string]*storedRule), events: make(map[string]*storedDetection), active: make(map[string]string),
		budgets: make(map[string]int64), working: make(map[string]int), tops: make(map[string]map[string][]want.Ranked), counts: make(map[string]want.DetectCounts),
		seen: make(map[string]time.Time), hooks: make(map[string]*hook),
	}
	for name, w := range targets {
		d.hooks[name] = newHook(name, w)
	}
	return d
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
	wg.Go(func() { c.writeDown(ctx) })
	wg.Go(func() { c.care(ctx) })
	for _, h := range c.detection.hooks {
		wg.Go(func() { c.callHook(ctx, h) })
	}
	wg.Go(func() { c.again(ctx, "what rules found", c.followFound) })
	defer wg.Wait()
	c.again(ctx, "the rules", c.followRules)
}

// again follows something of the store until ctx ends.
func (c *Controller) again(ctx context.Context, what string, follow func(context.Context) error) {
	for ctx.Err() == nil {
		if err := follow(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("lost the changes of "+what+"; listing again", "err", err)
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

// rule is one by its name; nil = there is none. It locks d.mu.
func (d *detection) rule(name string) *storedRule {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rules[name]
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
	out := make([]want.Rule, 0, len(d.rules))
	for _, name := range slices.Sorted(maps.Keys(d.rules)) {
		if r := d.rules[name]; ruleVisible(id, r.Project) {
			out = append(out, d.shown(r))
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
		return d.shown(r), nil
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
	if _, err := c.store.Txn(ctx, nil, []store.Op{store.Delete(detectPrefix + name), store.Delete(budgetPrefix + name)}); err != nil {
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
