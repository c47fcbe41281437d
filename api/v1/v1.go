// Package v1 is the REST interface /v1: the whole product in the words of package want.
//
// Runs in: controller
package v1

import (
	"context"
	_ "embed" // the OpenAPI document
	"net/http"
	"runtime"
	"slices"
	"strings"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/ledger"
	"opentap/point"
	"opentap/want"
)

// Controller is what the door asks of the controller. Rights are decided there. Errors are *fault.Error.
type Controller interface {
	Points(ctx context.Context, id auth.Identity) ([]point.Point, error)
	Capabilities(ctx context.Context, id auth.Identity) (want.Capabilities, error)
	Fleet
	Tenants
	SignIn
	Fabric
	Taps
	Doctor(ctx context.Context, id auth.Identity, node string) (want.Examination, error)
	Sensors
	CreateCapture(ctx context.Context, id auth.Identity, r want.Request) (v want.View, created bool, err error)
	Captures(ctx context.Context, id auth.Identity) ([]want.View, error)
	Capture(ctx context.Context, id auth.Identity, captureID string) (want.View, error)
	StopCapture(ctx context.Context, id auth.Identity, captureID string) (want.View, error)
	DeleteCapture(ctx context.Context, id auth.Identity, captureID string) error
	OpenCapture(ctx context.Context, id auth.Identity, captureID string, o want.OpenOptions) (*want.Retrieval, error)
	CreateToken(ctx context.Context, id auth.Identity, r want.TokenRequest) (want.Token, error)
	Tokens(ctx context.Context, id auth.Identity) ([]want.Token, error)
	RevokeToken(ctx context.Context, id auth.Identity, idOrName string) (want.Token, error)
	Recorders(ctx context.Context, id auth.Identity) ([]want.RecorderView, error)
	Recorder(ctx context.Context, id auth.Identity, point string) (want.RecorderView, error)
	SetRecorder(ctx context.Context, id auth.Identity, point string, r want.Recorder) (v want.RecorderView, created bool, err error)
	DeleteRecorder(ctx context.Context, id auth.Identity, point string) error
	CheckFilter(ctx context.Context, expr string, strict bool) (canonical, explanation string, err error)
	OpenLive(ctx context.Context, id auth.Identity, r want.LiveRequest) (*want.Retrieval, error)
	Visitors
	Teller
	Browser
	Auditing
	Flows
	Detector
	Prober
}

// Config is what the door needs besides the controller.
type Config struct {
	Version string                          // of the program
	Ready   func(ctx context.Context) error // nil = always ready; the error is not shown, only logged
}

// The wire forms that package want does not have.
type (
	// Version is the answer of GET /v1/version.
	Version struct {
		Product string `json:"product"`
		Version string `json:"version"`
		API     string `json:"api"`
		Go      string `json:"go"`
	}
	// LedgerView is the answer of GET /v1/captures/{id}/ledger.
	LedgerView struct {
		ID      string         `json:"id"`
		UID     string         `json:"uid"`
		State   want.State     `json:"state"`
		Final   bool           `json:"final"`
		Ledger  ledger.Account `json:"ledger"`
		Records uint64         `json:"records"`
		Bytes   uint64         `json:"bytes"`
		Gaps    []want.Gap     `json:"gaps"`
	}
	// FilterCheck is the body of POST /v1/filter/check.
	FilterCheck struct {
		Filter string `json:"filter"`
		Strict bool   `json:"strict"`
		Judge  bool   `json:"judge"` // a filter that is wrong is an answer, not an error: for those who check what is being typed
	}
	// FilterChecked is its answer.
	FilterChecked struct {
		Filter      string `json:"filter"`      // canonical text
		Explanation string `json:"explanation"` // in plain words

		Wrong *FilterFault `json:"wrong,omitempty"` // instead of the others, when a judgement was asked for
	}
	// FilterFault is what is wrong with a filter.
	FilterFault struct {
		Message  string `json:"message"`
		Hint     string `json:"hint,omitempty"`
		Position int    `json:"position,omitempty"` // byte in the filter, counted from 1
	}
	// ErrorBody is the answer whenever something went wrong.
	ErrorBody struct {
		Error ErrorDetail `json:"error"`
	}
	// ErrorDetail says what went wrong and what to do about it.
	ErrorDetail struct {
		Kind       string `json:"kind"` // of package fault
		Message    string `json:"message"`
		Field      string `json:"field,omitempty"`
		Hint       string `json:"hint,omitempty"`
		Position   int    `json:"position,omitempty"` // byte in the filter, counted from 1
		RetryAfter int    `json:"retry_after_seconds,omitempty"`
		RequestID  string `json:"request_id"`
	}
)

//go:embed openapi.json
var document []byte

// Document returns the OpenAPI 3.1 description of the door.
func Document() []byte { return document }

type server struct {
	ctl Controller
	cfg Config
}

// New returns the door.
func New(ctl Controller, cfg Config) httpapi.Door {
	s := &server{ctl, cfg}
	return httpapi.Door{Name: "v1", Prefix: "/v1", Fail: Fail, Routes: slices.Concat(sessionRoutes(s), browseRoutes(s), auditRoutes(s), fleetRoutes(s), tenantRoutes(s), signInRoutes(s), s.flowRoutes(), s.detectRoutes(), fabricRoutes(s), tapRoutes(s), []httpapi.Route{
		{Method: "GET", Path: "/healthz", Open: true, Serve: s.healthy},
		{Method: "GET", Path: "/readyz", Open: true, Serve: s.ready},
		{Method: "GET", Path: "/openapi.json", Open: true, Serve: s.openAPI},
		{Method: "GET", Path: "/v1/version", Serve: s.version},
		{Method: "GET", Path: "/v1/points", Serve: list("points", pointKey, ctl.Points)},
		{Method: "GET", Path: "/v1/points/{name}", Serve: s.point},
		{Method: "GET", Path: "/v1/capabilities", Serve: s.capabilities},
		{Method: "GET", Path: "/v1/doctor", Serve: s.doctor},
		{Method: "GET", Path: "/v1/sensors", Serve: look(ctl.Sensors)},
		{Method: "POST", Path: "/v1/captures", Serve: s.create},
		{Method: "GET", Path: "/v1/captures", Serve: s.captures},
		{Method: "GET", Path: "/v1/captures/{id}", Serve: show("id", viewed(ctl.Capture))},
		{Method: "DELETE", Path: "/v1/captures/{id}", Serve: remove("id", ctl.DeleteCapture)},
		{Method: "POST", Path: "/v1/captures/{id}/stop", Serve: show("id", viewed(ctl.StopCapture))},
		{Method: "GET", Path: "/v1/captures/{id}/ledger", Serve: s.ledger},
		{Method: "GET", Path: "/v1/captures/{id}/data", Serve: s.data},
		{Method: "HEAD", Path: "/v1/captures/{id}/data", Serve: s.data},
		{Method: "POST", Path: "/v1/tokens", Serve: create(ctl.CreateToken)},
		{Method: "GET", Path: "/v1/tokens", Serve: list("tokens", tokenKey, ctl.Tokens)},
		{Method: "DELETE", Path: "/v1/tokens/{id}", Serve: show("id", ctl.RevokeToken)},
		{Method: "GET", Path: "/v1/recorders", Serve: list("recorders", recorderKey, ctl.Recorders)},
		{Method: "GET", Path: "/v1/recorders/{point}", Serve: show("point", ctl.Recorder)},
		{Method: "PUT", Path: "/v1/recorders/{point}", Serve: set("point", s.setRecorder)},
		{Method: "DELETE", Path: "/v1/recorders/{point}", Serve: remove("point", ctl.DeleteRecorder)},
		{Method: "POST", Path: "/v1/filter/check", Serve: s.checkFilter},
		{Method: "POST", Path: "/v1/probes", Serve: s.probe},
		{Method: "GET", Path: "/v1/live", Serve: s.live},
		{Method: "GET", Path: "/v1/events", Serve: s.events},
	})}
}

// Fail tells an error in /v1's shape. It suits any path that has no shape of its own.
func Fail(w http.ResponseWriter, _ *http.Request, p httpapi.Problem) {
	e := p.Fault
	_ = httpapi.WriteJSON(w, p.Status, ErrorBody{ErrorDetail{
		Kind: e.Kind.String(), Message: e.Msg, Field: e.Field, Hint: e.Hint, Position: e.Pos,
		RetryAfter: httpapi.RetryAfterSeconds(e), RequestID: p.RequestID,
	}})
}

// noQuery refuses query parameters that the route does not know: a misspelt one would be ignored in silence.
func noQuery(r *http.Request, known ...string) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
next:
	for name, values := range q {
		for _, k := range known {
			if name == k {
				if len(values) > 1 {
					return fault.Field(name, "given twice")
				}
				continue next
			}
		}
		f := fault.Field(name, "no such query parameter")
		if len(known) > 0 {
			f.Hint = "this path takes " + strings.Join(known, ", ")
		}
		return f
	}
	return nil
}

func (s *server) healthy(w http.ResponseWriter, r *http.Request) error {
	return httpapi.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) error {
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(r.Context()); err != nil {
			return &fault.Error{Kind: fault.Unavailable, Msg: "not ready yet", Err: err}
		}
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (s *server) openAPI(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document)
	return nil
}

func (s *server) version(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, Version{Product: "opentap", Version: s.cfg.Version, API: "v1", Go: runtime.Version()})
}
