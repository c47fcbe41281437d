package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"opentap/auth"
	"opentap/detect"
	"opentap/fault"
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
func (c *Controller) checkAction(id auth.Identity, r *want.Rule, compiled *detect.Compiled) error {
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
	if a.Capture == nil {
		return nil
	}
	values := make([]string, len(compiled.Keys))
	for i, name := range compiled.Keys {
		v, err := detect.Example("{"+name+"}", compiled.Keys)
		if err != nil {
			return err
		}
		values[i] = v
	}
	req, err := captureOf(r, compiled.Keys, values, time.Now().UTC())
	if err != nil {
		return err
	}
	if a.Capture.Past < 0 || a.Capture.Duration < 0 {
		return fault.Field("then.capture", "a time is negative")
	}
	_, err = c.plan(id, req, time.Now().UTC())
	if fault.Is(err, fault.Unavailable) { // it may be there when it is needed
		return nil
	}
	return err
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
	for _, p := range t.Points {
		name, err := detect.Fill(p, names, values)
		if err != nil {
			return q, err
		}
		q.Points = append(q.Points, name)
	}
	return q, nil
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
	if a.Capture == nil {
		return
	}
	busy := 0
	for _, other := range c.detection.recent {
		if other.Rule == r.Name && (other.Action.State == "running" || other.Action.State == "pending") {
			busy++
		}
	}
	switch {
	case busy >= a.MaxActive:
		e.Action = want.DetectionAction{State: "refused", Reason: fmt.Sprintf("%d acts of the rule are active, as many as it may have", busy), Webhook: e.Action.Webhook}
	case a.Confirm:
		e.Action.State = "pending"
	default:
		c.act(r, e)
	}
}

// act starts the capture, on a goroutine of its own. d.mu is held.
func (c *Controller) act(r *storedRule, e *want.Detection) {
	e.Action.State = "running"
	rule, names := r.Rule, r.compiled.Keys
	values := make([]string, len(names))
	for i, n := range names {
		values[i] = e.Keys[n]
	}
	id, at := e.ID, e.Began
	c.detection.acts.Go(func() {
		ctx, cancel := context.WithTimeout(c.detection.ctx, actPatience)
		defer cancel()
		req, err := captureOf(&rule, names, values, at)
		req.ID = "trigger-" + rule.Name + "-" + id
		var v want.View
		if err == nil {
			v, _, err = c.CreateCapture(ctx, ruleIdentity(&rule), req)
		}
		d := c.detection
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil {
			e.Action.State, e.Action.Reason = "failed", err.Error()
		} else {
			e.Action.Capture = v.ID
			if v.Status.State == want.Failed {
				e.Action.State, e.Action.Reason = "failed", v.Status.Reason
			}
			if !e.Ended.IsZero() { // it was over before it had begun
				c.stopAct(&rule, e)
			}
		}
		d.tell()
	})
}

// ruleIdentity is whose name a rule acts in.
func ruleIdentity(r *want.Rule) auth.Identity {
	return auth.Identity{Name: r.Owner, Project: r.Project, Role: "rule", Rights: auth.SeeMetadata | auth.Start, Via: "rule " + r.Name}
}

// finishAct ends what was begun. d.mu is held.
func (c *Controller) finishAct(r *storedRule, e *want.Detection) {
	if r.Then != nil && r.Then.Webhook != "" {
		c.enqueueHook(r.Then.Webhook, e)
	}
	switch {
	case e.Action.State == "pending":
		e.Action.State, e.Action.Reason = "refused", "it was over before anybody agreed"
	case e.Action.State == "running" && e.Action.Capture != "":
		c.stopAct(&r.Rule, e)
	}
}

// stopAct stops the capture of a detection, on a goroutine of its own. d.mu is held.
func (c *Controller) stopAct(r *want.Rule, e *want.Detection) {
	id := ruleIdentity(r)
	id.Project = e.Project
	capture := e.Action.Capture
	c.detection.acts.Go(func() {
		ctx, cancel := context.WithTimeout(c.detection.ctx, actPatience)
		defer cancel()
		_, err := c.StopCapture(ctx, id, capture)
		d := c.detection
		d.mu.Lock()
		defer d.mu.Unlock()
		if e.Action.State = "done"; err != nil && !fault.Is(err, fault.NotFound) {
			e.Action.State, e.Action.Reason = "failed", "its capture could not be stopped: "+err.Error()
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
