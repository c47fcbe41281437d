package v1

import (
	"context"
	"encoding/json"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Detector is what the door asks of the controller about rules and what they found.
type Detector interface {
	Rules(ctx context.Context, id auth.Identity) ([]want.Rule, error)
	Rule(ctx context.Context, id auth.Identity, name string) (want.Rule, error)
	SetRule(ctx context.Context, id auth.Identity, r want.Rule) (v want.Rule, created bool, err error)
	DeleteRule(ctx context.Context, id auth.Identity, name string) error
	TopDetect(ctx context.Context, id auth.Identity, rule string) (want.DetectTop, error)
	Detections(ctx context.Context, id auth.Identity, rule string, active bool) ([]want.Detection, error)
	FollowDetections(ctx context.Context, id auth.Identity, rule string) (next func(context.Context, auth.Identity) ([]want.Detection, error), err error)
	Webhooks(ctx context.Context, id auth.Identity) ([]want.WebhookStatus, error)
	DecideDetection(ctx context.Context, id auth.Identity, event string, agree bool) (want.Detection, error)
}

func (s *server) detectRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/detect/rules", Serve: list("rules", ruleKey, s.ctl.Rules)},
		{Method: "GET", Path: "/v1/detect/rules/{name}", Serve: show("name", s.ctl.Rule)},
		{Method: "PUT", Path: "/v1/detect/rules/{name}", Serve: set("name", s.setRule)},
		{Method: "DELETE", Path: "/v1/detect/rules/{name}", Serve: remove("name", s.ctl.DeleteRule)},
		{Method: "GET", Path: "/v1/detect/rules/{name}/top", Serve: show("name", s.ctl.TopDetect)},
		{Method: "GET", Path: "/v1/detect/webhooks", Serve: list("webhooks", webhookKey, s.ctl.Webhooks)},
		{Method: "GET", Path: "/v1/detect/events", Serve: s.detections},
		{Method: "GET", Path: "/v1/detect/events/stream", Serve: s.followDetections},
		{Method: "POST", Path: "/v1/detect/events/{id}/confirm", Serve: s.decide(true)},
		{Method: "POST", Path: "/v1/detect/events/{id}/refuse", Serve: s.decide(false)},
	}
}

// RuleBody is the body of PUT /v1/detect/rules/{name}.
type RuleBody struct {
	Flow      want.RuleFlow      `json:"flow"`
	Threshold want.RuleThreshold `json:"threshold"`
	Then      *want.RuleAction   `json:"then"`
	Disabled  bool               `json:"disabled"`
}

func (s *server) setRule(ctx context.Context, id auth.Identity, name string, b RuleBody) (want.Rule, bool, error) {
	return s.ctl.SetRule(ctx, id, want.Rule{Name: name, Flow: b.Flow, Threshold: b.Threshold, Then: b.Then, Disabled: b.Disabled})
}

func (s *server) detections(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "rule", "active", "limit", "page_token")
	rule, active, p := a.text("rule"), a.bool("active"), a.page("events")
	if a.err != nil {
		return a.err
	}
	list, err := s.ctl.Detections(r.Context(), httpapi.Identity(r.Context()), rule, active)
	if err != nil {
		return err
	}
	return writePage(w, p, "events", detectionKey, list)
}

func (s *server) followDetections(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r, "rule"); err != nil {
		return err
	}
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	next, err := s.ctl.FollowDetections(r.Context(), httpapi.Identity(r.Context()), q.Get("rule"))
	if err != nil {
		return err
	}
	return httpapi.ServeEvents(w, r, func(ctx context.Context, who auth.Identity) ([]httpapi.Event, error) {
		told, err := next(ctx, who)
		if err != nil || told == nil {
			return nil, err
		}
		out := make([]httpapi.Event, len(told))
		for i := range told {
			b, err := json.Marshal(told[i])
			if err != nil {
				return nil, err
			}
			out[i] = httpapi.Event{Name: "detection", Data: b}
		}
		return out, nil
	})
}

// decide answers an action that waits for somebody to agree.
func (s *server) decide(agree bool) serve {
	return show("id", func(ctx context.Context, id auth.Identity, event string) (want.Detection, error) {
		return s.ctl.DecideDetection(ctx, id, event, agree)
	})
}
