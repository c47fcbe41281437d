package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"opentap/want"
)

// Rules lists the rules of detection.
func (c *Client) Rules(ctx context.Context) ([]want.Rule, error) {
	return listOf[want.Rule](ctx, c, "/v1/detect/rules", "rules", nil)
}

// Rule shows one.
func (c *Client) Rule(ctx context.Context, name string) (r want.Rule, err error) {
	_, err = c.do(ctx, "GET", "/v1/detect/rules/"+escape(name), nil, &r)
	return r, err
}

// SetRule makes or changes a rule; whose it is and when it was changed is the server's to say.
func (c *Client) SetRule(ctx context.Context, r want.Rule) (v want.Rule, created bool, err error) {
	body := struct {
		Flow      want.RuleFlow      `json:"flow"`
		Threshold want.RuleThreshold `json:"threshold"`
		Then      *want.RuleAction   `json:"then,omitempty"`
		Disabled  bool               `json:"disabled,omitempty"`
	}{r.Flow, r.Threshold, r.Then, r.Disabled}
	status, err := c.do(ctx, "PUT", "/v1/detect/rules/"+escape(r.Name), body, &v)
	return v, status == http.StatusCreated, err
}

// DeleteRule takes a rule away.
func (c *Client) DeleteRule(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/detect/rules/"+escape(name), nil, nil)
	return err
}

// TopDetect shows the largest flows of a rule now.
func (c *Client) TopDetect(ctx context.Context, rule string) (t want.DetectTop, err error) {
	_, err = c.do(ctx, "GET", "/v1/detect/rules/"+escape(rule)+"/top", nil, &t)
	return t, err
}

// Detections lists what rules found, the newest first; rule "" = of all.
func (c *Client) Detections(ctx context.Context, rule string, active bool) ([]want.Detection, error) {
	v := url.Values{"active": {strconv.FormatBool(active)}}
	if rule != "" {
		v.Set("rule", rule)
	}
	return listOf[want.Detection](ctx, c, "/v1/detect/events", "events", v)
}

// Webhooks shows how the targets fare that rules may tell.
func (c *Client) Webhooks(ctx context.Context) ([]want.WebhookStatus, error) {
	return listOf[want.WebhookStatus](ctx, c, "/v1/detect/webhooks", "webhooks", nil)
}

// DecideDetection lets an action that waits be done, or not.
func (c *Client) DecideDetection(ctx context.Context, id string, agree bool) (e want.Detection, err error) {
	verb := "/refuse"
	if agree {
		verb = "/confirm"
	}
	_, err = c.do(ctx, "POST", "/v1/detect/events/"+escape(id)+verb, nil, &e)
	return e, err
}

// FollowDetections calls fn with what rules found and find, until fn fails, ctx ends, or the server ends it, when nil is returned.
func (c *Client) FollowDetections(ctx context.Context, rule string, fn func(want.Detection) error) error {
	path := "/v1/detect/events/stream"
	if rule != "" {
		path += "?" + url.Values{"rule": {rule}}.Encode()
	}
	err := c.follow(ctx, path, silent, func(e want.Event) error {
		var d want.Detection
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		return fn(d)
	})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
