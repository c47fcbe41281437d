package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"opentap/auth"
	"opentap/detect"
	"opentap/fault"
	"opentap/tap"
	"opentap/want"
)

// Defaults of actions.
const (
	defaultActive = 5
	mostActive    = 100
	defaultTTL    = 10 * time.Minute
	mostTTL       = 24 * time.Hour
	actPatience   = 30 * time.Second
)

// checkAction refuses an action that could not be done, and fills in its defaults.
func (c *Controller) checkAction(ctx context.Context, id auth.Identity, r *storedRule) error {
	a := r.Then
	if a == nil {
		return nil
	}
	if a.MaxActive == 0 {
		a.MaxActive = defaultActive
	}
	if a.TTL == 0 {
		a.TTL = want.Duration(defaultTTL)
	}
	switch {
	case a.MaxActive < 1 || a.MaxActive > mostActive:
		return fault.Field("then.max_active", "is %d; it can be 1 to %d", a.MaxActive, mostActive)
	case a.TTL < 0 || time.Duration(a.TTL) > mostTTL:
		return fault.Field("then.ttl", "is %s; it can be up to %s", time.Duration(a.TTL), mostTTL)
	}
	if a.Webhook != "" && c.cfg.Webhooks[a.Webhook] == "" {
		return &fault.Error{
			Kind: fault.Invalid, Field: "then.webhook", Msg: fmt.Sprintf("there is no target %q", a.Webhook),
			Hint: "an administrator names targets under webhooks in the server's configuration",
		}
	}
	names := r.compiled.Keys
	values := make([]string, len(names))
	for i, name := range names {
		v, err := detect.Example("{"+name+"}", names)
		if err != nil {
			return err
		}
		if values[i] = v; name == "device" && len(r.compiled.Points) > 0 {
			values[i] = r.compiled.Points[0]
		}
	}
	if a.Capture != nil {
		if a.Capture.Past < 0 || a.Capture.Duration < 0 {
			return fault.Field("then.capture", "a time is negative")
		}
		req, err := captureOf(&r.Rule, names, values, time.Now().UTC())
		if err != nil {
			return err
		}
		if _, err = c.plan(id, req, time.Now().UTC()); err != nil && !fault.Is(err, fault.Unavailable) { // it may be there when it is needed
			return inThen("then.capture", err)
		}
	}
	if a.Tap != nil {
		if err := c.checkTap(r, id, names, values); err != nil {
			return inThen("then.tap", err)
		}
	}
	if a.Policy != nil {
		if !id.May(auth.Administer) {
			return c.refuse(ctx, id, "detect.rule.set", r.Name, auth.Administer)
		}
		if _, _, _, err := c.fabricFor(ctx, id, "detect.rule.set", r.Name, auth.Administer); err != nil {
			return inThen("then.policy", err)
		}
		p, err := c.policyOf(&r.Rule, names, values, false)
		if err == nil && p.Filter != "" {
			_, err = parseFilter(p.Filter, false)
		}
		if err == nil && (len(p.From) == 0 || len(p.To) == 0) {
			err = fault.New(fault.Invalid, "a policy has from and to")
		}
		if err != nil {
			return inThen("then.policy", err)
		}
	}
	return nil
}

// checkTap refuses a tap that could not be made: all is checked as if it were made now, for example values of the keys.
func (c *Controller) checkTap(r *storedRule, id auth.Identity, names, values []string) error {
	now := time.Now().UTC()
	f, err := tapOf(&r.Rule, names, values, now)
	if err != nil {
		return err
	}
	if err := c.checkFlow(&f, now); err != nil {
		return err
	}
	as := storedRule{Rule: r.Rule, Admin: r.Admin}
	as.Owner, as.Project = id.Name, id.Project
	c.detection.mu.Lock()
	if have := c.detection.rules[r.Name]; have != nil {
		as.Project = have.Project
	}
	c.detection.mu.Unlock()
	f.Project, f.PortID, f.ServiceID = as.Project, strings.ToLower(f.PortID), strings.ToLower(f.ServiceID)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.mayFlow(as.identity(makeTap), &f)
	return err
}

// inThen says where in a rule an error is.
func inThen(where string, err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	e := *f
	if e.Field = where; f.Field != "" && !strings.HasPrefix(f.Field, "then") {
		e.Field += "." + f.Field
	}
	return &e
}

// captureOf is the capture that a rule starts for the values of its keys.
func captureOf(r *want.Rule, names, values []string, at time.Time) (want.Request, error) {
	t := r.Then.Capture
	q := want.Request{Kind: t.Kind, Snap: t.Snap, Limits: t.Limits, Retain: t.Retain, MovePast: true, From: at.Add(-time.Duration(t.Past))}
	if q.Kind == "" {
		q.Kind = want.Packets
	}
	life := time.Duration(r.Then.TTL)
	if d := time.Duration(t.Duration); d > 0 {
		life = min(life, d)
	}
	q.To = at.Add(life)
	var err error
	if q.Filter, err = detect.Fill(t.Filter, names, values); err != nil {
		return q, err
	}
	q.Points, err = fillAll(t.Points, names, values)
	return q, err
}

func fillAll(templates, names, values []string) (out []string, err error) {
	for _, t := range templates {
		text, err := detect.Fill(t, names, values)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

// tapOf is the tap flow that a rule makes for the values of its keys.
func tapOf(r *want.Rule, names, values []string, at time.Time) (f tap.Flow, err error) {
	t := r.Then.Tap
	f = tap.Flow{
		Name: "trigger-" + r.Name, Description: "made by the rule " + r.Name, ServiceID: t.Service, Direction: tap.Direction(t.Direction),
		Options: tap.Options{Snap: t.Snap, RateBPS: t.RateBPS, Expires: at.Add(time.Duration(r.Then.TTL))},
	}
	if f.Direction == "" {
		f.Direction = tap.Both
	}
	if f.PortID, err = detect.Fill(t.Port, names, values); err != nil {
		return f, err
	}
	f.Options.Filter, err = detect.Fill(t.Filter, names, values)
	return f, err
}

// policyOf is the policy that a rule sets for the values of its keys. With place, ports of switches become the filter ports that
// are there.
func (c *Controller) policyOf(r *want.Rule, names, values []string, place bool) (p want.FabricPolicy, err error) {
	t := r.Then.Policy
	p = want.FabricPolicy{
		Direction: t.Direction, To: t.To, Priority: t.Priority, Truncate: t.Truncate, RateKbps: t.RateKbps, TTL: r.Then.TTL,
	}
	if p.Filter, err = detect.Fill(t.Filter, names, values); err != nil {
		return p, err
	}
	if p.From, err = fillAll(t.From, names, values); err != nil || !place {
		return p, err
	}
	_, f, _, err := c.theFabric()
	if err != nil {
		return p, err
	}
	for i, from := range p.From {
		dpid, port, ok := strings.Cut(from, "/")
		if !ok {
			continue
		}
		found := ""
		for name, fp := range f.Ports {
			sw, at, _ := strings.Cut(fp.At, "/")
			if s, known := f.Switches[sw]; known && fp.Role == want.RoleFilter && at == port && fmt.Sprintf("%016x", uint64(s.DPID)) == dpid {
				found = name
			}
		}
		if found == "" {
			return p, fault.New(fault.NotFound, "the fabric has no filter port at %s", from)
		}
		p.From[i] = found
	}
	return p, nil
}

// acts reports whether the rule does more than tell.
func acts(a *want.RuleAction) bool {
	return a != nil && (a.Capture != nil || a.Tap != nil || a.Policy != nil)
}

// beginAct does what a rule says for a new detection. d.mu is held.
func (c *Controller) beginAct(r *storedRule, e *want.Detection) {
	a := r.Then
	if a == nil {
		return
	}
	if a.Webhook != "" {
		c.enqueueHook(a.Webhook, e)
	}
	if !acts(a) {
		return
	}
	busy := 0
	for _, other := range c.detection.recent {
		if other.Rule == r.Name && (other.Action.State == "running" || other.Action.State == "ending" || other.Action.State == "pending") {
			busy++
		}
	}
	switch {
	case busy >= a.MaxActive:
		e.Action.State, e.Action.Reason = "refused", fmt.Sprintf("%d acts of the rule are active, as many as it may have", busy)
	case a.Confirm:
		e.Action.State = "pending"
	default:
		c.act(r, e)
	}
}

// act begins what the rule says, on a goroutine of its own. d.mu is held.
func (c *Controller) act(r *storedRule, e *want.Detection) {
	at := time.Now().UTC()
	e.Action.State, e.Action.Until = "running", at.Add(time.Duration(r.Then.TTL))
	rule := *r
	values := make([]string, len(r.compiled.Keys))
	for i, n := range r.compiled.Keys {
		values[i] = e.Keys[n]
	}
	id, began := e.ID, e.Began
	c.detection.acts.Go(func() {
		ctx, cancel := context.WithTimeout(c.detection.ctx, actPatience)
		defer cancel()
		done, err := c.actNow(ctx, &rule, id, values, began, at)
		d := c.detection
		d.mu.Lock()
		defer d.mu.Unlock()
		e.Action.Capture, e.Action.Tap, e.Action.Policy = done.Capture, done.Tap, done.Policy
		if err != nil {
			e.Action.Reason = err.Error()
			if done.Capture == "" && done.Tap == "" && done.Policy == "" {
				e.Action.State = "failed"
			}
		}
		if !e.Ended.IsZero() && e.Action.State == "running" { // it was over before it had begun
			c.stopAct(&rule, e)
		}
		d.tell()
	})
}

// actNow begins everything the rule says. What could not be begun is in err; the rest goes on.
func (c *Controller) actNow(ctx context.Context, r *storedRule, event string, values []string, began, at time.Time) (done want.DetectionAction, err error) {
	names := r.compiled.Keys
	if r.Then.Capture != nil {
		req, e := captureOf(&r.Rule, names, values, began)
		req.ID = "trigger-" + r.Name + "-" + event
		var v want.View
		if e == nil {
			v, _, e = c.CreateCapture(ctx, r.identity(auth.Start), req)
		}
		if done.Capture = v.ID; e == nil && v.Status.State == want.Failed {
			e = errors.New(v.Status.Reason)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("capture: %w", e))
		}
	}
	if r.Then.Tap != nil {
		f, e := tapOf(&r.Rule, names, values, at)
		f.Project = r.Project
		var made []tap.FlowView
		if e == nil {
			made, e = c.CreateTapFlows(ctx, r.identity(makeTap), []tap.Flow{f})
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("tap: %w", e))
		} else {
			done.Tap = made[0].ID
		}
	}
	if r.Then.Policy != nil {
		p, e := c.policyOf(&r.Rule, names, values, true)
		name := "trigger-" + strings.ToLower(strings.ReplaceAll(r.Name+"-"+event, ".", "-"))
		if e == nil {
			_, _, e = c.SetFabricPolicy(ctx, r.identity(auth.Administer), name, p)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("policy: %w", e))
		} else {
			done.Policy = name
		}
	}
	return done, err
}

// identity is whose name a rule acts in, with the rights that one act takes and those of an administrator if one made it.
func (r *storedRule) identity(rights auth.Right) auth.Identity {
	id := auth.Identity{Name: r.Owner, Project: r.Project, Role: "rule", Rights: auth.SeeMetadata | rights, Via: "rule " + r.Name}
	if r.Admin {
		id.Rights |= auth.Administer
	}
	return id
}

// finishAct ends what was begun. d.mu is held.
func (c *Controller) finishAct(r *storedRule, e *want.Detection) {
	if r.Then != nil && r.Then.Webhook != "" {
		c.enqueueHook(r.Then.Webhook, e)
	}
	switch {
	case e.Action.State == "pending":
		e.Action.State, e.Action.Reason = "refused", "it was over before anybody agreed"
	case e.Action.State == "running":
		c.stopAct(r, e)
	}
}

// stopAct ends what a detection had begun, on a goroutine of its own; what has not begun yet is ended when it has. d.mu is held.
func (c *Controller) stopAct(r *storedRule, e *want.Detection) {
	a := e.Action
	if a.Capture == "" && a.Tap == "" && a.Policy == "" {
		return
	}
	e.Action.State = "ending"
	rule := *r
	if rule.Project == "" { // the rule is gone
		rule.Project, rule.Owner = e.Project, "rule "+e.Rule
	}
	c.detection.acts.Go(func() {
		ctx, cancel := context.WithTimeout(c.detection.ctx, actPatience)
		defer cancel()
		var err error
		note := func(what string, e error) {
			if e != nil && !fault.Is(e, fault.NotFound) {
				err = errors.Join(err, fmt.Errorf("%s could not be ended: %w", what, e))
			}
		}
		if a.Capture != "" {
			_, e := c.StopCapture(ctx, rule.identity(auth.Start), a.Capture)
			note("its capture", e)
		}
		if a.Tap != "" {
			note("its tap", c.DeleteTapFlow(ctx, rule.identity(makeTap), a.Tap))
		}
		if a.Policy != "" {
			note("its policy", c.DeleteFabricPolicy(ctx, rule.identity(auth.Administer), a.Policy))
		}
		d := c.detection
		d.mu.Lock()
		defer d.mu.Unlock()
		if e.Action.State = "done"; err != nil {
			e.Action.State, e.Action.Reason = "failed", err.Error()
		}
		d.tell()
	})
}

// DecideDetection lets an action that waits for it be done, or not.
func (c *Controller) DecideDetection(ctx context.Context, id auth.Identity, event string, agree bool) (want.Detection, error) {
	action := "detect.event.refuse"
	if agree {
		action = "detect.event.confirm"
	}
	if err := c.mayDetect(ctx, id, action, event, auth.Start, auth.ReadPayload); err != nil {
		return want.Detection{}, err
	}
	if err := c.record(ctx, id, action, event, id.Project, nil); err != nil {
		return want.Detection{}, err
	}
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.recent, func(e *want.Detection) bool { return e.ID == event && ruleVisible(id, e.Project) })
	if i < 0 {
		return want.Detection{}, fault.New(fault.NotFound, "there is no event %q (any more)", event)
	}
	e := d.recent[i]
	r := d.rules[e.Rule]
	switch {
	case e.Action.State != "pending":
		return want.Detection{}, fault.New(fault.Conflict, "the event does not wait for a decision: its action is %s", e.Action.State)
	case r == nil:
		return want.Detection{}, noRule(e.Rule)
	case agree:
		c.act(r, e)
	default:
		e.Action.State, e.Action.Reason = "refused", "by "+id.Name
	}
	d.tell()
	return copyDetection(e), nil
}
