package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"opentap/fabric"
	"opentap/fabric/session"
	"opentap/want"
	"opentap/wire/of13"
)

// read reads switches, all at the same time. Those that cannot be read are in errs.
func (e *Engine) read(ctx context.Context, sessions map[uint64]*session.Session) (map[uint64]*fabric.Actual, map[uint64]error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Read)
	defer cancel()
	out, errs := make(map[uint64]*fabric.Actual), make(map[uint64]error)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for dpid, s := range sessions {
		wg.Go(func() {
			asked := time.Now()
			if s.Alive(ctx) == nil {
				e.echoed(dpid, s, time.Since(asked))
			}
			t, err := s.ReadTables(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[dpid] = err
				return
			}
			out[dpid] = &fabric.Actual{Rules: t.Rules, Groups: t.Groups, Meters: t.Meters}
		})
	}
	wg.Wait()
	return out, errs
}

// situation is what a computation begins with.
type situation struct {
	layout  *fabric.Layout
	links   []fabric.Link
	tags    *fabric.Tags
	refused map[string]string
	now     time.Time
}

func (e *Engine) situation() (situation, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun++
	s := situation{layout: e.layout, now: time.Now()}
	if !e.known {
		return s, false
	}
	if s.layout == nil {
		s.layout, _ = fabric.NewLayout(want.Fabric{})
	}
	s.links = e.topology.Links(s.layout, s.now)
	s.tags = e.tags.Clone()
	s.refused = e.leftOut(s.now)
	return s, true
}

// holdingOf is what a switch shall have: nothing of ours when the layout does not know it.
func holdingOf(i *fabric.Intent, dpid uint64) *fabric.Holding {
	if h := i.Switches[dpid]; h != nil {
		return h
	}
	return &fabric.Holding{}
}

// reconcile makes the switches what they should be. A policy that a switch refuses is left out, and the rest is done.
func (e *Engine) reconcile(ctx context.Context) error {
	e.turn.Lock()
	defer e.turn.Unlock()
	began := time.Now()
	defer func() { e.took(time.Since(began)) }()
	for {
		again, err := e.once(ctx)
		if !again || err != nil {
			return err
		}
	}
}

func (e *Engine) once(ctx context.Context) (again bool, err error) {
	leads, err := e.assume(ctx)
	if err != nil {
		return false, err
	}
	at, ok := e.situation()
	if !ok {
		return false, nil
	}
	sessions := e.sessions()
	if !leads {
		e.look(ctx, at, sessions)
		return false, nil
	}
	intent := fabric.Compile(at.layout, at.links, at.tags, at.refused, at.now)
	if over := limited(at.layout, intent); over != nil {
		e.refuse(over)
		return true, nil
	}
	actual, errs := e.read(ctx, sessions)
	e.mu.Lock()
	e.saw(actual)
	e.mu.Unlock()
	e.watchDrift(actual)
	young := e.young(intent, at.now)
	if err := e.remember(ctx, at.tags); err != nil {
		return false, err // tags that are used must be known after a restart
	}
	steps := make(map[uint64]*fabric.Steps)
	for dpid, a := range actual {
		if !e.mayChange(dpid) {
			continue
		}
		h := holdingOf(intent, dpid)
		d := fabric.Diff(h, a)
		if young {
			d = onlyBase(d)
		}
		if s := fabric.Repair(h, d); !s.Empty() {
			steps[dpid] = s
		}
	}
	e.touch(steps)
	if refused, err := e.apply(ctx, at.layout, sessions, steps); err != nil || refused {
		return refused, err
	}
	if len(steps) > 0 || len(errs) > 0 {
		var failed map[uint64]error
		actual, failed = e.read(ctx, sessions)
		for k, v := range failed {
			errs[k] = v
		}
	}
	e.conclude(ctx, at, intent, actual, errs, young)
	if young {
		time.AfterFunc(time.Second, e.Kick)
	}
	if len(steps) > 0 || young {
		e.discover()
	}
	return false, errors.Join(values(errs)...)
}

func values(m map[uint64]error) []error {
	var out []error
	for _, err := range m {
		out = append(out, err)
	}
	return out
}

// young reports whether links may be missing only because nobody had the time to find them.
func (e *Engine) young(i *fabric.Intent, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.fresh(now) {
		return false
	}
	for _, o := range i.Policies {
		if strings.Contains(o.Reason, fabric.NoWay) {
			return true
		}
	}
	return false
}

// fresh reports whether a switch, or this controller, has not been there for long. e.mu is held.
func (e *Engine) fresh(now time.Time) bool {
	youngest := e.began
	for _, m := range e.switches {
		if m.session != nil && m.since.After(youngest) {
			youngest = m.since
		}
	}
	return now.Sub(youngest) <= e.cfg.Grace
}

// onlyBase leaves what is of no policy and comes.
func onlyBase(d *fabric.Difference) *fabric.Difference {
	out := &fabric.Difference{}
	for _, r := range d.Missing {
		if len(r.Policies) == 0 {
			out.Missing = append(out.Missing, r)
		}
	}
	return out
}

// limited finds a policy that must go because a switch may not have so many rules: the last one there.
func limited(l *fabric.Layout, i *fabric.Intent) map[string]string {
	for name, s := range l.Fabric.Switches {
		h := i.Switches[uint64(s.DPID)]
		if s.TableLimit == 0 || len(h.Rules) <= s.TableLimit {
			continue
		}
		for k := len(l.Fabric.Policies) - 1; k >= 0; k-- {
			p := l.Fabric.Policies[k].Name
			for _, r := range h.Rules {
				if slices.Contains(r.Policies, p) {
					return map[string]string{p: fmt.Sprintf("table_limit: %s would need %d rules and may have %d", name, len(h.Rules), s.TableLimit)}
				}
			}
		}
	}
	return nil
}

// apply takes the steps on all switches: each kind of step everywhere before the next one anywhere. refused is true when a
// switch refused a policy, which is left out then.
func (e *Engine) apply(ctx context.Context, l *fabric.Layout, sessions map[uint64]*session.Session, steps map[uint64]*fabric.Steps) (refused bool, err error) {
	type stage struct {
		msgs func(*fabric.Steps) []of13.Message
		of   func(*fabric.Steps) [][]string
		plan func(context.Context, *session.Session, []of13.Message) error
	}
	together := func(ctx context.Context, s *session.Session, m []of13.Message) error {
		_, err := s.CommitAtomic(ctx, m)
		return err
	}
	single := func(ctx context.Context, s *session.Session, m []of13.Message) error { return s.Commit(ctx, m) }
	nobody := func(*fabric.Steps) [][]string { return nil }
	for n, st := range []stage{
		{func(s *fabric.Steps) []of13.Message { return s.Meters }, nobody, single},
		{func(s *fabric.Steps) []of13.Message { return s.Behind }, func(s *fabric.Steps) [][]string { return s.BehindOf }, together},
		{func(s *fabric.Steps) []of13.Message { return s.Edge }, func(s *fabric.Steps) [][]string { return s.EdgeOf }, together},
		{func(s *fabric.Steps) []of13.Message { return s.After }, nobody, single},
	} {
		errs := make(map[uint64]error)
		var mu sync.Mutex
		var wg sync.WaitGroup
		some := false
		for _, s := range steps {
			some = some || len(st.msgs(s)) > 0
		}
		if some && n == 3 && !pause(ctx, e.cfg.Drain) {
			return false, ctx.Err()
		}
		for dpid, s := range steps {
			msgs := st.msgs(s)
			if len(msgs) == 0 {
				continue
			}
			wg.Go(func() {
				if err := st.plan(ctx, sessions[dpid], msgs); err != nil {
					mu.Lock()
					errs[dpid] = err
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for dpid, err := range errs {
			if e.lost(dpid, err) {
				continue // the others are changed all the same
			}
			policies := e.blame(l, err, st.of(steps[dpid]))
			if len(policies) == 0 {
				e.setProblem(dpid, err.Error())
				return false, fmt.Errorf("%s: %w", l.SwitchName(dpid), err)
			}
			why := make(map[string]string)
			for _, p := range policies {
				why[p] = fmt.Sprintf("%s refuses it: %s", l.SwitchName(dpid), errors.Unwrap(firstMod(err)))
			}
			e.refuse(why)
			refused = true
		}
		if refused {
			return true, nil
		}
	}
	return false, nil
}

func firstMod(err error) *session.ModError {
	var m *session.ModError
	if errors.As(err, &m) {
		return m
	}
	return &session.ModError{Index: -1, Err: err}
}

// blame names the policies that must go because a switch refused a message. When it has no room it is the one that takes the most,
// if possible of those that are new; when it does not know an action, those that need one beyond the standard.
func (e *Engine) blame(l *fabric.Layout, err error, of [][]string) []string {
	m := firstMod(err)
	if m.Index < 0 || m.Index >= len(of) {
		return nil
	}
	e.mu.Lock()
	before := e.intent
	e.mu.Unlock()
	var refusal *of13.Error
	errors.As(m.Err, &refusal)
	switch {
	case refusal != nil && refusal.TableFull():
		name, most := "", -1
		for i := range l.Fabric.Policies {
			p := &l.Fabric.Policies[i]
			if !slices.ContainsFunc(of, func(names []string) bool { return slices.Contains(names, p.Name) }) {
				continue
			}
			weight := l.Weight(p)
			if before != nil {
				if o, ok := before.Outcome(p.Name); !ok || o.State == want.PolicyInfeasible {
					weight += 1 << 20
				}
			}
			if weight >= most {
				name, most = p.Name, weight
			}
		}
		if name != "" {
			return []string{name}
		}
	case refusal != nil && refusal.Class == of13.ErrBadAction:
		var special []string
		for i := range l.Fabric.Policies {
			if p := &l.Fabric.Policies[i]; p.Truncate > 0 && slices.Contains(of[m.Index], p.Name) {
				special = append(special, p.Name)
			}
		}
		if len(special) > 0 {
			return special
		}
	}
	return of[m.Index]
}

// touch takes note that switches are about to be changed: until that has been concluded nobody knows what they hold.
func (e *Engine) touch(steps map[uint64]*fabric.Steps) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for dpid := range steps {
		if m := e.switches[dpid]; m != nil {
			m.holding = nil
		}
	}
}

func (e *Engine) setProblem(dpid uint64, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.switches[dpid]; m != nil {
		m.problem, m.inSync = text, false
	}
}

// watchDrift logs what is not as it was left. What is ours is about to be mended.
func (e *Engine) watchDrift(actual map[uint64]*fabric.Actual) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for dpid, a := range actual {
		m := e.switches[dpid]
		if m == nil || m.holding == nil {
			continue
		}
		d := fabric.Diff(m.holding, a)
		if d.Clean() {
			continue
		}
		name := e.nameLocked(dpid)
		d.Foreign = nil
		list := d.Findings(name, m.holding, a)
		const most = 20
		for i, f := range list {
			if i == most {
				e.note(name, f.Kind, fmt.Sprintf("and %d more of the kind", len(list)-most), "repaired")
				break
			}
			text := f.Text
			if f.Intended != "" {
				text += ": " + f.Intended
			} else if f.Actual != "" {
				text += ": " + f.Actual
			}
			e.note(name, f.Kind, text, "repaired")
			e.log.Warn("a switch was changed behind our back; it is mended", "switch", name, "kind", f.Kind, "what", text)
		}
	}
}

// remember keeps tags and links over a restart.
func (e *Engine) remember(ctx context.Context, tags *fabric.Tags) error {
	e.mu.Lock()
	m := Memory{Tags: *tags, Links: e.topology.Known()}
	same := sameTags(&e.tags, tags)
	e.tags = *tags.Clone()
	links := fmt.Sprint(m.Links)
	stored := e.storedLinks
	e.mu.Unlock()
	if same && links == stored {
		return nil
	}
	if err := e.keeper.SaveMemory(ctx, m); err != nil {
		return fmt.Errorf("keep the fabric's memory: %w", err)
	}
	e.mu.Lock()
	e.storedLinks = links
	e.mu.Unlock()
	return nil
}

func sameTags(a, b *fabric.Tags) bool {
	if len(a.Used) != len(b.Used) || len(a.Free) != len(b.Free) {
		return false
	}
	for k, v := range a.Used {
		if b.Used[k] != v {
			return false
		}
	}
	return true
}

// conclude takes note of how things are after a turn.
func (e *Engine) conclude(ctx context.Context, at situation, intent *fabric.Intent, actual map[uint64]*fabric.Actual, errs map[uint64]error, young bool) {
	now := time.Now()
	e.mu.Lock()
	for dpid, m := range e.switches {
		if err := errs[dpid]; err != nil {
			m.problem, m.inSync = err.Error(), false
			continue
		}
		a := actual[dpid]
		if a == nil {
			continue
		}
		h := holdingOf(intent, dpid)
		d := fabric.Diff(h, a)
		m.checked, m.inSync, m.foreign, m.problem = now, d.Clean(), d.Others, ""
		if !young {
			m.holding = h
		}
		switch {
		case m.role == slave && e.term != 0:
			m.problem = anotherLeads
		case !m.inSync && !young && e.term != 0:
			m.problem = "it does not hold what it was given"
		}
	}
	if !young {
		e.intent = intent
		e.accepted()
		tags := e.tags.Clone()
		if tags.Keep(intent.Ways, now) {
			e.mu.Unlock()
			if err := e.remember(ctx, tags); err != nil {
				e.log.Warn("tags that were let go are not free after a restart", "err", err)
			}
			e.mu.Lock()
		}
	}
	e.saw(actual)
	e.turns = e.begun
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
}
