package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Found is the one event there is.
func Found() want.Detection {
	return want.Detection{
		ID: "20260102T030405.000-00000001", Rule: "big", Project: "default", Node: "virgo", Agent: "192.0.2.1", Source: "0/0/3",
		Keys: map[string]string{"src": "10.0.0.1"}, Unit: "bit/s", Value: 2e8, Peak: 3e8, Threshold: 1e8, Samples: 40, Began: Epoch,
		Action: want.DetectionAction{State: "pending"},
	}
}

func (c *Controller) mayDetect(call string, id auth.Identity, r auth.Right) error {
	if err := c.Fail[call]; err != nil {
		return err
	}
	if !id.May(r) {
		return fault.New(fault.Forbidden, "role %s may not", id.Role)
	}
	return nil
}

// Rules implements the doors' Controller.
func (c *Controller) Rules(_ context.Context, id auth.Identity) ([]want.Rule, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []want.Rule
	for _, r := range c.rules {
		out = append(out, r)
	}
	return out, c.mayDetect("Rules", id, auth.SeeMetadata)
}

// Rule implements the doors' Controller.
func (c *Controller) Rule(_ context.Context, id auth.Identity, name string) (want.Rule, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayDetect("Rule", id, auth.SeeMetadata); err != nil {
		return want.Rule{}, err
	}
	r, ok := c.rules[name]
	if !ok {
		return r, fault.New(fault.NotFound, "there is no rule %q", name)
	}
	return r, nil
}

// SetRule implements the doors' Controller.
func (c *Controller) SetRule(_ context.Context, id auth.Identity, r want.Rule) (want.Rule, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayDetect("SetRule", id, auth.Start|auth.ReadPayload); err != nil {
		return r, false, err
	}
	if len(r.Flow.Keys) == 0 {
		return r, false, fault.Field("flow.keys", "has none")
	}
	_, have := c.rules[r.Name]
	r.Project, r.Owner, r.Changed = id.Project, id.Name, Epoch
	if c.rules == nil {
		c.rules = make(map[string]want.Rule)
	}
	c.rules[r.Name] = r
	return r, !have, nil
}

// DeleteRule implements the doors' Controller.
func (c *Controller) DeleteRule(ctx context.Context, id auth.Identity, name string) error {
	if _, err := c.Rule(ctx, id, name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rules, name)
	return c.mayDetect("DeleteRule", id, auth.Start|auth.ReadPayload)
}

// TopDetect implements the doors' Controller.
func (c *Controller) TopDetect(ctx context.Context, id auth.Identity, name string) (want.DetectTop, error) {
	r, err := c.Rule(ctx, id, name)
	if err != nil {
		return want.DetectTop{}, err
	}
	return want.DetectTop{
		Rule: name, Keys: r.Flow.Keys, Unit: "bit/s", Threshold: 1e8, Nodes: map[string]want.DetectCounts{"virgo": {Samples: 7}},
		Flows: []want.Ranked{{Keys: []string{"10.0.0.1"}, Agent: "192.0.2.1", Value: 5, Samples: 2}},
	}, nil
}

// Detections implements the doors' Controller.
func (c *Controller) Detections(_ context.Context, id auth.Identity, rule string, _ bool) ([]want.Detection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayDetect("Detections", id, auth.ReadPayload); err != nil {
		return nil, err
	}
	if rule != "" && rule != Found().Rule {
		return nil, nil
	}
	return []want.Detection{Found()}, nil
}

// FollowDetections implements the doors' Controller: one event, and then the end.
func (c *Controller) FollowDetections(_ context.Context, id auth.Identity, _ string) (func(context.Context, auth.Identity) ([]want.Detection, error), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	return func(context.Context, auth.Identity) ([]want.Detection, error) {
		if n++; n > 1 {
			return nil, nil
		}
		return []want.Detection{Found()}, nil
	}, c.mayDetect("FollowDetections", id, auth.ReadPayload)
}

// DecideDetection implements the doors' Controller.
func (c *Controller) DecideDetection(_ context.Context, id auth.Identity, event string, agree bool) (want.Detection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayDetect("DecideDetection", id, auth.Start|auth.ReadPayload); err != nil {
		return want.Detection{}, err
	}
	e := Found()
	if event != e.ID {
		return e, fault.New(fault.NotFound, "there is no event %q", event)
	}
	if e.Action.State = "refused"; agree {
		e.Action.State, e.Action.Capture = "running", "c"
	}
	return e, nil
}

// Webhooks implements the doors' Controller: one target that has trouble.
func (c *Controller) Webhooks(_ context.Context, id auth.Identity) ([]want.WebhookStatus, error) {
	return []want.WebhookStatus{{Name: "noc", Waiting: 1, Told: 3, Failed: 1, FailedAt: Epoch, Problem: "it answered 500"}}, c.mayDetect("Webhooks", id, auth.SeeMetadata)
}
