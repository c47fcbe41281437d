package controller

import (
	"context"
	"errors"
	"fmt"
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
	if a.Webhook != "" && c.detection.hooks[a.Webhook] == nil {
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
	f, err := tapOf(&r.Rule, names, values, now.Add(time.Duration(r.Then.TTL)))
	if err != nil {
		return err
	}
	if err := c.checkFlow(&f, now); err != nil {
		return err
	}
	as := actor{Owner: id.Name, Project: id.Project, Admin: r.Admin}
	if have := c.detection.rule(r.Name); have != nil {
		as.Project = have.Project
	}
	f.Project, f.PortID, f.ServiceID = as.Project, strings.ToLower(f.PortID), strings.ToLower(f.ServiceID)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.mayFlow(as.identity(r.Name, makeTap), &f)
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
func tapOf(r *want.Rule, names, values []string, until time.Time) (f tap.Flow, err error) {
	t := r.Then.Tap
	f = tap.Flow{
		Name: "trigger-" + r.Name, Description: "made by the rule " + r.Name, ServiceID: t.Service, Direction: tap.Direction(t.Direction),
		Options: tap.Options{Snap: t.Snap, RateBPS: t.RateBPS, Expires: until},
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

// decide says what becomes of the action of a rule for a new event. d.mu is held.
func (d *detection) decide(r *storedRule) want.DetectionAction {
	if !acts(r.Then) {
		return want.DetectionAction{State: "none"}
	}
	busy := 0
	for _, e := range d.events {
		if e.Rule == r.Name && (e.Action.State == "running" || e.Action.State == "ending" || e.Action.State == "pending") {
			busy++
		}
	}
	switch {
	case busy >= r.Then.MaxActive:
		return want.DetectionAction{State: "refused", Reason: fmt.Sprintf("as many acts of the rule are active as it may have: %d", busy)}
	case r.Then.Confirm:
		return want.DetectionAction{State: "pending"}
	}
	return want.DetectionAction{State: "running", Until: time.Now().UTC().Add(time.Duration(r.Then.TTL))}
}

// act begins what the rule says for an event that is marked as running, on a goroutine of its own. nil: the rule is gone.
func (c *Controller) act(r *storedRule, e *storedDetection) {
	c.work(e.ID, func(ctx context.Context) {
		var done want.DetectionAction
		err := noRule(e.Rule)
		if r != nil && acts(r.Then) {
			done, err = c.actNow(ctx, r, e)
		}
		e := c.sureChange(ctx, e.ID, func(e *storedDetection) bool {
			e.Action.Capture, e.Action.Tap, e.Action.Policy = done.Capture, done.Tap, done.Policy
			if err != nil {
				e.Action.Reason = err.Error()
				if done.Capture == "" && done.Tap == "" && done.Policy == "" {
					e.Action.State = "failed"
				}
			}
			return true
		})
		if e != nil && e.Action.State == "running" && !e.goesOn() { // it was over before it had begun
			c.stopAct(e)
		}
	})
}

// work runs fn on a goroutine of its own, while this controller counts as at work for an event.
func (c *Controller) work(id string, fn func(ctx context.Context)) {
	d := c.detection
	d.mu.Lock()
	ctx := d.ctx
	d.working[id]++
	d.mu.Unlock()
	d.acts.Go(func() {
		defer func() {
			d.mu.Lock()
			if d.working[id]--; d.working[id] == 0 {
				delete(d.working, id)
			}
			d.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(ctx, actPatience)
		defer cancel()
		fn(ctx)
	})
}

// sureChange is change, tried again while the store does not answer. nil: the event is gone, or time was up; then another look at it will
// do the rest.
func (c *Controller) sureChange(ctx context.Context, id string, fn func(e *storedDetection) bool) *storedDetection {
	for {
		e, _, err := c.change(ctx, id, fn)
		if err == nil {
			return e
		}
		if fault.Is(err, fault.NotFound) || ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(writeAgain):
		}
	}
}

// actNow begins everything the rule says. What could not be begun is in err; the rest goes on.
// Doing it again does not do it twice.
func (c *Controller) actNow(ctx context.Context, r *storedRule, event *storedDetection) (done want.DetectionAction, err error) {
	names, values := r.compiled.Keys, event.Values
	as := event.As
	if r.Then.Capture != nil {
		req, e := captureOf(&r.Rule, names, values, event.Began)
		req.ID = "trigger-" + r.Name + "-" + event.ID
		var v want.View
		if e == nil {
			v, _, e = c.CreateCapture(ctx, as.identity(r.Name, auth.Start), req)
		}
		if done.Capture = v.ID; e == nil && v.Status.State == want.Failed {
			e = errors.New(v.Status.Reason)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("capture: %w", e))
		}
	}
	if r.Then.Tap != nil {
		f, e := tapOf(&r.Rule, names, values, event.Action.Until)
		f.Project = as.Project
		f.Description += " for " + event.ID
		if done.Tap = c.flowDescribed(as.Project, f.Description); done.Tap == "" && e == nil {
			var made []tap.FlowView
			if made, e = c.CreateTapFlows(ctx, as.identity(r.Name, makeTap), []tap.Flow{f}); e == nil {
				done.Tap = made[0].ID
			}
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("tap: %w", e))
		}
	}
	if r.Then.Policy != nil {
		p, e := c.policyOf(&r.Rule, names, values, true)
		name := "trigger-" + strings.ToLower(strings.ReplaceAll(r.Name+"-"+event.ID, ".", "-"))
		if e == nil {
			_, _, e = c.SetFabricPolicy(ctx, as.identity(r.Name, auth.Administer), name, p)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("policy: %w", e))
		} else {
			done.Policy = name
		}
	}
	return done, err
}

// flowDescribed is the id of a project's tap flow with this description; "" = there is none.
func (c *Controller) flowDescribed(project, description string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, f := range c.taps.flows {
		if f.Flow.Project == project && f.Flow.Description == description {
			return id
		}
	}
	return ""
}

// identity is whose name an act is done in, with the rights that it takes and those of an administrator if one made the rule.
func (a actor) identity(rule string, rights auth.Right) auth.Identity {
	id := auth.Identity{Name: a.Owner, Project: a.Project, Role: "rule", Rights: auth.SeeMetadata | rights, Via: "rule " + rule}
	if a.Admin {
		id.Rights |= auth.Administer
	}
	return id
}

// endAct ends what was begun for an event. What has not begun yet is ended when it has. Of all controllers one does it.
func (c *Controller) endAct(e *storedDetection) {
	if e.Action.State != "running" || e.Action.Capture == "" && e.Action.Tap == "" && e.Action.Policy == "" {
		return
	}
	c.stopAct(e)
}

// stopAct marks an act as ending and ends it, on a goroutine of its own. Doing it again does no harm.
func (c *Controller) stopAct(e *storedDetection) {
	c.work(e.ID, func(ctx context.Context) {
		mine := false
		e := c.sureChange(ctx, e.ID, func(now *storedDetection) bool {
			mine = now.rev == e.rev || now.Action.State == "running"
			now.Action.State = "ending"
			return mine
		})
		if e == nil || !mine {
			return
		}
		err := c.stopNow(ctx, e)
		c.sureChange(ctx, e.ID, func(e *storedDetection) bool {
			if e.Action.State = "done"; err != nil {
				e.Action.State, e.Action.Reason = "failed", err.Error()
			}
			return true
		})
	})
}

// stopNow ends all that was begun for an event. What is gone already is well.
func (c *Controller) stopNow(ctx context.Context, e *storedDetection) (err error) {
	a, as := e.Action, e.As
	note := func(what string, e error) {
		if e != nil && !fault.Is(e, fault.NotFound) {
			err = errors.Join(err, fmt.Errorf("%s could not be ended: %w", what, e))
		}
	}
	if a.Capture != "" {
		_, e := c.StopCapture(ctx, as.identity(e.Rule, auth.Start), a.Capture)
		note("its capture", e)
	}
	if a.Tap != "" {
		note("its tap", c.DeleteTapFlow(ctx, as.identity(e.Rule, makeTap), a.Tap))
	}
	if a.Policy != "" {
		note("its policy", c.DeleteFabricPolicy(ctx, as.identity(e.Rule, auth.Administer), a.Policy))
	}
	return err
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
	var r *storedRule
	var refused error
	e, done, err := c.change(ctx, event, func(e *storedDetection) bool {
		r, refused = c.detection.rule(e.Rule), nil
		switch {
		case !ruleVisible(id, e.Project):
			refused = fault.New(fault.NotFound, "there is no event %q (any more)", event)
		case e.Action.State != "pending":
			refused = fault.New(fault.Conflict, "the event does not wait for a decision: its action is %s", e.Action.State)
		case !agree:
			e.Action.State, e.Action.Reason = "refused", id.Name+" refused it"
		case r == nil || !acts(r.Then):
			refused = noRule(e.Rule)
		default:
			e.Action.State, e.Action.Until = "running", time.Now().UTC().Add(time.Duration(r.Then.TTL))
		}
		return refused == nil
	})
	switch {
	case err != nil:
		return want.Detection{}, err
	case refused != nil:
		return want.Detection{}, refused
	case done && agree:
		c.act(r, e)
	}
	return e.Detection, nil
}
