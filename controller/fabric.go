package controller

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fabric"
	"opentap/fabric/reconcile"
	"opentap/fabric/session"
	"opentap/fault"
	"opentap/store"
	"opentap/tap"
	"opentap/tap/oftap"
	"opentap/want"
)

// Keys of the fabric in the store. What is wanted is one value, so that it changes as a whole.
const (
	fabricPrefix = "fabric/"
	fabricWanted = "fabric/wanted" // want.Fabric
	fabricMemory = "fabric/memory" // reconcile.Memory
	fabricSeal   = "fabric/seal"   // the key that discovery and probe frames are signed with
)

// fabricRoom is the controller's part in the fabric; without a listener there is none.
type fabricRoom struct {
	listener net.Listener
	every    time.Duration
	probe    time.Duration // between probes of all policies; 0 = none
	id       string        // of this controller in elections

	mu     sync.Mutex
	engine *reconcile.Engine // nil until the store was read
	wanted want.Fabric       // as stored
	rev    int64             // its mod revision; 0 = none
	seen   int64             // revision of the store up to which that is true
	told   chan struct{}     // closed and replaced at every change above
	layout *fabric.Layout    // of wanted; nil = none

	wishes  []oftap.Wish // taps that the fabric shall carry
	carries bool         // they are known
	refused map[string]error
	taps    map[string]tap.Status // what became of them, and of services at switches
	tapsRev int64                 // revision of the store that this is about
}

// ServeFabric has OpenFlow switches taken on a listener, which the controller closes. every is the time between comparisons
// of what switches have and what they should, probe that between probes of all policies; 0 = none. Of several controllers with one store one leads; id tells them apart, and is the
// same after a restart. It must be called before Run.
func (c *Controller) ServeFabric(l net.Listener, every, probe time.Duration, id string) {
	c.fabric = &fabricRoom{listener: l, every: every, probe: probe, id: id, told: make(chan struct{})}
}

// runFabric serves switches until ctx ends.
func (c *Controller) runFabric(ctx context.Context) {
	if c.fabric == nil {
		return
	}
	log := c.log.With("room", "fabric")
	var key []byte
	for key == nil {
		var err error
		if key, err = c.sealKey(ctx); err != nil {
			log.Warn("the fabric waits for the store", "err", err)
			select {
			case <-ctx.Done():
				c.fabric.listener.Close()
				return
			case <-time.After(time.Second):
			}
		}
	}
	cfg := reconcile.DefaultConfig()
	if c.fabric.every > 0 {
		cfg.Every = c.fabric.every
	}
	cfg.Probe = c.fabric.probe
	vote := &elector{store: c.store, id: c.fabric.id, seen: make(chan uint64, 1)}
	cfg.Overtaken = vote.overtaken
	engine := reconcile.New(cfg, fabric.Seal{Key: key}, fabricKeeper{c.store}, log)
	vote.engine = engine
	c.fabric.mu.Lock()
	c.fabric.engine = engine
	c.fabric.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { vote.run(ctx) })
	wg.Go(func() { c.followFabric(ctx) })
	wg.Go(func() { c.expirePolicies(ctx) })
	wg.Go(func() { c.carryTaps(ctx) })
	wg.Go(func() { _ = engine.Run(ctx) })
	wg.Go(func() {
		if err := session.NewServer(session.DefaultConfig(), engine, log).Run(ctx, c.fabric.listener); err != nil && ctx.Err() == nil {
			log.Error("switches are taken no more", "err", err)
		}
	})
	wg.Wait()
}

// sealKey returns the key for discovery frames; the first controller makes it.
func (c *Controller) sealKey(ctx context.Context) ([]byte, error) {
	kv, err := c.store.Get(ctx, fabricSeal)
	if err == nil {
		return kv.Value, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	_, err = c.store.Txn(ctx, []store.Compare{store.Absent(fabricSeal)}, []store.Op{store.Put(fabricSeal, key)})
	if errors.Is(err, store.ErrConflict) {
		return c.sealKey(ctx)
	}
	return key, err
}

// fabricKeeper keeps the engine's memory in the store.
type fabricKeeper struct{ store store.Store }

// LoadMemory implements reconcile.Keeper.
func (k fabricKeeper) LoadMemory(ctx context.Context) (m reconcile.Memory, err error) {
	kv, err := k.store.Get(ctx, fabricMemory)
	if errors.Is(err, store.ErrNotFound) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(kv.Value, &m)
	}
	return m, err
}

// SaveMemory implements reconcile.Keeper.
func (k fabricKeeper) SaveMemory(ctx context.Context, m reconcile.Memory) error {
	b, err := json.Marshal(m)
	if err == nil {
		_, err = k.store.Txn(ctx, nil, []store.Op{store.Put(fabricMemory, b)})
	}
	return err
}

// followFabric tells the engine what is wanted, as it changes.
func (c *Controller) followFabric(ctx context.Context) {
	for ctx.Err() == nil {
		kvs, rev, err := c.store.List(ctx, fabricWanted)
		if err == nil {
			var kv *store.KV
			if len(kvs) > 0 {
				kv = &kvs[0]
			}
			c.takeFabric(kv, rev)
			for b := range c.store.Watch(ctx, fabricWanted, rev+1) {
				if err = b.Err; err != nil {
					break
				}
				for _, ev := range b.Events {
					if ev.Key != fabricWanted {
						continue
					}
					kv = &ev.KV
					if ev.Deleted {
						kv = nil
					}
				}
				c.takeFabric(kv, b.Revision)
			}
		}
		if ctx.Err() == nil {
			c.log.Warn("lost the store's changes of the fabric; reading again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// takeFabric takes over what the store has; nil = nothing is wanted.
func (c *Controller) takeFabric(kv *store.KV, rev int64) {
	var f want.Fabric
	var l *fabric.Layout
	mod := int64(0)
	if kv != nil {
		mod = kv.ModRevision
		err := json.Unmarshal(kv.Value, &f)
		if err == nil {
			l, err = fabric.NewLayout(f)
		}
		if err != nil {
			c.log.Error("the store holds a fabric that cannot be read; the switches are left as they are", "err", err)
			return
		}
	}
	r := c.fabric
	r.mu.Lock()
	fresh := r.seen == 0 || r.rev != mod
	r.wanted, r.rev, r.seen, r.layout = f, mod, max(rev, 1), l
	close(r.told)
	r.told = make(chan struct{})
	if fresh {
		r.weave()
	}
	r.mu.Unlock()
}

// awaitFabric waits until what is wanted is known up to a revision.
func (c *Controller) awaitFabric(ctx context.Context, rev int64) error {
	for {
		c.fabric.mu.Lock()
		done, told := c.fabric.seen >= rev, c.fabric.told
		c.fabric.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-told:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// theFabric returns the engine and what is wanted.
func (c *Controller) theFabric() (*reconcile.Engine, want.Fabric, int64, error) {
	if c.fabric == nil {
		return nil, want.Fabric{}, 0, &fault.Error{
			Kind: fault.Unsupported, Msg: "this server takes no OpenFlow switches",
			Hint: "set fabric.listen in its configuration, or start it with --openflow ADDR:PORT",
		}
	}
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	if c.fabric.engine == nil || c.fabric.seen == 0 {
		return nil, want.Fabric{}, 0, &fault.Error{Kind: fault.Unavailable, Msg: "the fabric is not known yet", RetryAfter: time.Second}
	}
	return c.fabric.engine, c.fabric.wanted, c.fabric.rev, nil
}

// fabricFor checks a right and returns the engine.
func (c *Controller) fabricFor(ctx context.Context, id auth.Identity, action, object string, right auth.Right) (*reconcile.Engine, want.Fabric, int64, error) {
	if !id.May(right) {
		return nil, want.Fabric{}, 0, c.refuse(ctx, id, action, object, right)
	}
	return c.theFabric()
}

// Fabric shows the fabric. With fresh the switches are read first.
func (c *Controller) Fabric(ctx context.Context, id auth.Identity, fresh bool) (want.FabricView, error) {
	e, _, _, err := c.fabricFor(ctx, id, "fabric.show", "", auth.SeeMetadata)
	if err != nil {
		return want.FabricView{}, err
	}
	v, err := e.View(ctx, fresh)
	return c.shownFabric(id, v), err
}

// shownFabric is the fabric as the caller may see it.
func (c *Controller) shownFabric(id auth.Identity, v want.FabricView) want.FabricView {
	v.Policies = c.ownPolicies(id, v.Policies)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judgeExact(v.Policies)
	return v
}

// mergeFabric is what a description makes of what is wanted: it replaces switches, ports and the like, and the policies it
// names. Others stay, unless they are pruned.
func mergeFabric(old, f want.Fabric, prune bool, owner string, now time.Time) want.Fabric {
	for i := range f.Policies {
		p := &f.Policies[i]
		at := slices.IndexFunc(old.Policies, func(o want.FabricPolicy) bool { return o.Name == p.Name })
		if at >= 0 && samePolicy(old.Policies[at], *p) && p.TTL == 0 {
			*p = old.Policies[at] // nothing has changed, not even when
			continue
		}
		stamp(p, owner, now)
	}
	if !prune {
		for _, o := range old.Policies {
			if !slices.ContainsFunc(f.Policies, func(p want.FabricPolicy) bool { return p.Name == o.Name }) {
				f.Policies = append(f.Policies, o)
			}
		}
	}
	return f
}

func stamp(p *want.FabricPolicy, owner string, now time.Time) {
	p.Owner, p.Changed, p.Expires = owner, now, time.Time{}
	if p.TTL > 0 {
		p.Expires = now.Add(time.Duration(p.TTL))
	}
}

// samePolicy reports whether two policies ask for the same.
func samePolicy(a, b want.FabricPolicy) bool {
	stamp(&a, "", time.Time{})
	stamp(&b, "", time.Time{})
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// SetFabric has the switches be what the description says. The answer waits a little for them.
func (c *Controller) SetFabric(ctx context.Context, id auth.Identity, f want.Fabric, prune bool) (want.FabricView, error) {
	e, old, rev, err := c.fabricFor(ctx, id, "fabric.set", "", auth.Administer)
	if err != nil {
		return want.FabricView{}, err
	}
	f = mergeFabric(old, f, prune, id.Name, time.Now().UTC())
	if err := c.putFabric(ctx, id, "fabric.set", "", f, rev, map[string]string{
		"switches": strconv.Itoa(len(f.Switches)), "policies": strconv.Itoa(len(f.Policies)), "prune": strconv.FormatBool(prune),
	}); err != nil {
		return want.FabricView{}, err
	}
	return c.settledFabric(ctx, id, e)
}

// settledFabric waits a little until no policy is pending, and shows the fabric.
func (c *Controller) settledFabric(ctx context.Context, id auth.Identity, e *reconcile.Engine) (want.FabricView, error) {
	wait, cancel := context.WithTimeout(ctx, c.cfg.SettleWait)
	defer cancel()
	for {
		done := e.Await(wait)
		v, err := e.View(ctx, false)
		v = c.shownFabric(id, v)
		pending := slices.ContainsFunc(v.Policies, func(p want.FabricPolicyView) bool { return p.State == want.PolicyPending })
		if err != nil || done != nil || !pending {
			return v, err
		}
		select {
		case <-wait.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// putFabric checks, records and stores what is wanted, if nobody else did meanwhile.
func (c *Controller) putFabric(ctx context.Context, id auth.Identity, action, object string, f want.Fabric, rev int64, details map[string]string) error {
	if err := byHand(&f); err != nil {
		return err
	}
	if _, err := fabric.NewLayout(f); err != nil {
		return err
	}
	c.mu.Lock()
	places := fabricPlaces(&f, c.taps.nodes[fabricNode], time.Now().UTC().Round(0))
	c.mu.Unlock()
	b, err := json.Marshal(f)
	p, perr := json.Marshal(places)
	if err := errors.Join(err, perr); err != nil {
		return err
	}
	if err := c.record(ctx, id, action, object, id.Project, details); err != nil {
		return err
	}
	return c.swapFabric(ctx, rev, store.Put(fabricWanted, b), store.Put(placePrefix+fabricNode, p))
}

func (c *Controller) swapFabric(ctx context.Context, rev int64, ops ...store.Op) error {
	now, err := c.store.Txn(ctx, []store.Compare{{Key: fabricWanted, ModRevision: rev}}, ops)
	if errors.Is(err, store.ErrConflict) {
		return fault.New(fault.Conflict, "the fabric was changed at the same time; look at it and try again")
	}
	if err != nil {
		return storeFault(err)
	}
	return c.awaitFabric(ctx, now)
}

// DeleteFabric takes everything of ours out of the switches. What passes pairs stops too.
func (c *Controller) DeleteFabric(ctx context.Context, id auth.Identity) error {
	e, _, rev, err := c.fabricFor(ctx, id, "fabric.delete", "", auth.Administer)
	if err != nil {
		return err
	}
	if rev == 0 {
		return noFabric()
	}
	if err := c.record(ctx, id, "fabric.delete", "", id.Project, nil); err != nil {
		return err
	}
	if err := c.swapFabric(ctx, rev, store.Delete(fabricWanted), store.Delete(placePrefix+fabricNode)); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, c.cfg.SettleWait)
	defer cancel()
	_ = e.Await(wait) // a time-out is an answer too
	return nil
}

func noFabric() error {
	return &fault.Error{Kind: fault.NotFound, Msg: "no fabric is described", Hint: "opentap fabric apply -f FILE"}
}

// PlanFabric says what a description would change. It changes nothing.
func (c *Controller) PlanFabric(ctx context.Context, id auth.Identity, f want.Fabric, prune bool) (want.FabricPlan, error) {
	e, old, _, err := c.fabricFor(ctx, id, "fabric.plan", "", auth.SeeMetadata)
	if err != nil {
		return want.FabricPlan{}, err
	}
	f = mergeFabric(old, f, prune, id.Name, time.Now().UTC())
	if err := byHand(&f); err != nil {
		return want.FabricPlan{}, err
	}
	l, err := fabric.NewLayout(f)
	if err != nil {
		return want.FabricPlan{}, err
	}
	l, _ = oftap.With(l, c.fabric.Carried())
	p, err := e.Plan(ctx, l)
	p.Policies = c.ownPolicies(id, p.Policies)
	for i := range p.Switches {
		p.Switches[i].Changes = slices.DeleteFunc(p.Switches[i].Changes, func(ch want.RuleChange) bool { return c.hidden(id, ch.Why) })
	}
	return p, err
}

// VerifyFabric reads the switches and compares them with what they should be. It changes nothing.
func (c *Controller) VerifyFabric(ctx context.Context, id auth.Identity) (want.FabricReport, error) {
	e, _, _, err := c.fabricFor(ctx, id, "fabric.verify", "", auth.SeeMetadata)
	if err != nil {
		return want.FabricReport{}, err
	}
	r, err := e.Verify(ctx)
	r.Findings = slices.DeleteFunc(r.Findings, func(f want.FabricFinding) bool { return c.hidden(id, f.Text) })
	return r, err
}

// FabricDrift is the drift log.
func (c *Controller) FabricDrift(ctx context.Context, id auth.Identity) ([]want.FabricDrift, error) {
	e, _, _, err := c.fabricFor(ctx, id, "fabric.drift", "", auth.SeeMetadata)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(e.Drift(), func(d want.FabricDrift) bool { return c.hidden(id, d.Text) }), nil
}

// FabricPolicy shows a policy with its counters, read from the switches now.
func (c *Controller) FabricPolicy(ctx context.Context, id auth.Identity, name string) (want.FabricPolicyView, error) {
	e, _, _, err := c.fabricFor(ctx, id, "fabric.policy.show", name, auth.SeeMetadata)
	if err != nil {
		return want.FabricPolicyView{}, err
	}
	v, err := e.View(ctx, true)
	if err != nil {
		return want.FabricPolicyView{}, err
	}
	for _, p := range c.shownFabric(id, v).Policies {
		if p.Name == name {
			return p, nil
		}
	}
	return want.FabricPolicyView{}, noPolicy(name)
}

func noPolicy(name string) error {
	return fault.New(fault.NotFound, "there is no policy %q", name)
}

// SetFabricPolicy makes a policy or changes the one of that name. created is false when there was one.
func (c *Controller) SetFabricPolicy(ctx context.Context, id auth.Identity, name string, p want.FabricPolicy) (v want.FabricPolicyView, created bool, err error) {
	e, f, rev, err := c.fabricFor(ctx, id, "fabric.policy.set", name, auth.Administer)
	if err != nil {
		return v, false, err
	}
	if rev == 0 {
		return v, false, noFabric()
	}
	if p.Name != "" && p.Name != name {
		return v, false, fault.Field("name", "is another than that of the path")
	}
	p.Name = name
	stamp(&p, id.Name, time.Now().UTC())
	f.Policies = slices.Clone(f.Policies)
	if at := slices.IndexFunc(f.Policies, func(o want.FabricPolicy) bool { return o.Name == name }); at >= 0 {
		f.Policies[at] = p
	} else {
		f.Policies, created = append(f.Policies, p), true
	}
	if err := c.putFabric(ctx, id, "fabric.policy.set", name, f, rev, map[string]string{
		"filter": p.Filter, "from": list(p.From), "to": list(p.To),
	}); err != nil {
		return v, false, err
	}
	view, err := c.settledFabric(ctx, id, e)
	for _, p := range view.Policies {
		if p.Name == name {
			return p, created, err
		}
	}
	return v, created, errors.Join(err, noPolicy(name))
}

func list(names []string) string {
	b, _ := json.Marshal(names)
	return string(b)
}

// DeleteFabricPolicy ends a policy.
func (c *Controller) DeleteFabricPolicy(ctx context.Context, id auth.Identity, name string) error {
	e, _, _, err := c.fabricFor(ctx, id, "fabric.policy.delete", name, auth.Administer)
	if err != nil {
		return err
	}
	if err := mayNotEnd(name); err != nil {
		return err
	}
	if err := c.dropPolicies(ctx, id, "fabric.policy.delete", func(p want.FabricPolicy) bool { return p.Name == name }); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, c.cfg.SettleWait)
	defer cancel()
	_ = e.Await(wait) // a time-out is an answer too
	return nil
}

// dropPolicies removes policies. It is NotFound when there is none.
func (c *Controller) dropPolicies(ctx context.Context, id auth.Identity, action string, which func(want.FabricPolicy) bool) error {
	_, f, rev, err := c.theFabric()
	if err != nil {
		return err
	}
	var gone []string
	f.Policies = slices.DeleteFunc(slices.Clone(f.Policies), func(p want.FabricPolicy) bool {
		if which(p) {
			gone = append(gone, p.Name)
			return true
		}
		return false
	})
	if len(gone) == 0 {
		return fault.New(fault.NotFound, "there is no such policy")
	}
	return c.putFabric(ctx, id, action, gone[0], f, rev, map[string]string{"policies": list(gone)})
}

// expirePolicies ends policies whose time is over.
func (c *Controller) expirePolicies(ctx context.Context) {
	every(ctx, time.Second, func(now time.Time) {
		over := func(p want.FabricPolicy) bool { return !p.Expires.IsZero() && now.After(p.Expires) }
		if e, f, _, err := c.theFabric(); err != nil || !e.Leads() || !slices.ContainsFunc(f.Policies, over) {
			return
		}
		if err := c.dropPolicies(ctx, system, "fabric.policy.expire", over); err != nil && ctx.Err() == nil {
			c.log.Warn("cannot end a policy whose time is over; it is tried again", "err", err)
		}
	})
}

// ProbeFabric sends marked frames along a policy's paths and says what became of them.
func (c *Controller) ProbeFabric(ctx context.Context, id auth.Identity, policy string) ([]want.ProbeResult, error) {
	e, _, _, err := c.fabricFor(ctx, id, "fabric.probe", policy, auth.Administer)
	if err != nil {
		return nil, err
	}
	if err := c.record(ctx, id, "fabric.probe", policy, id.Project, nil); err != nil {
		return nil, err
	}
	return e.Probe(ctx, policy)
}
