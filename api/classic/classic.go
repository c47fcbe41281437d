// Package classic is the REST interface of the first OpenTap, for its existing clients.
//
// Runs in: controller
package classic

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

// Controller is what the door asks of the controller. Rights are decided there. Errors are *fault.Error.
type Controller interface {
	Points(ctx context.Context, id auth.Identity) ([]point.Point, error)
	Capabilities(ctx context.Context, id auth.Identity) (want.Capabilities, error)
	CreateCapture(ctx context.Context, id auth.Identity, r want.Request) (v want.View, created bool, err error)
	Capture(ctx context.Context, id auth.Identity, captureID string) (want.View, error)
	OpenCapture(ctx context.Context, id auth.Identity, captureID string, o want.OpenOptions) (*want.Retrieval, error)
}

type server struct {
	ctl  Controller
	page Page
}

// Page answers a browser's GET / in place of this door's own page. It shows nothing that needs an identity.
type Page func(w http.ResponseWriter, r *http.Request) error

// New returns the door. It takes every path that no other door claims.
//
// Old clients cannot send tokens, and none is ever read from a URL: whether they come in is the administrator's choice of
// what an anonymous caller may do.
//
// page is for browsers; nil = a small page of this door's own.
func New(ctl Controller, page Page) httpapi.Door {
	s := &server{ctl, page}
	return httpapi.Door{Name: "classic", Prefix: "/", Fail: fail, Routes: []httpapi.Route{
		{Method: "GET", Path: "/{$}", Linked: true, OpenFor: s.forBrowser, Serve: s.home},
		{Method: "GET", Path: "/capabilities", Serve: s.capabilities},
		{Method: "GET", Path: "/capture/{type}", Serve: s.capture},
		{Method: "POST", Path: "/capture/{type}", Serve: s.capture},
		{Method: "GET", Path: "/retrieve", Serve: s.retrieve},
	}}
}

// failure is the body of every error.
type failure struct {
	Status string `json:"status"` // "error"
	Msg    string `json:"msg"`
}

func fail(w http.ResponseWriter, _ *http.Request, p httpapi.Problem) {
	_ = httpapi.WriteJSON(w, p.Status, failure{"error", httpapi.Text(p.Fault)})
}

// notThere is what the old server said of data that cannot be had, for whatever reason.
const notThere = "data file not found; may not be ready yet."

func (s *server) retrieve(w http.ResponseWriter, r *http.Request) error {
	p, err := parameters(w, r, "id")
	if err != nil {
		return err
	}
	captureID := p["id"]
	if captureID == "" {
		return fault.Field("id", "missing: say which capture's data is wanted")
	}
	ctx, who := r.Context(), httpapi.Identity(r.Context())
	v, err := s.ctl.Capture(ctx, who, captureID)
	if err != nil {
		return inOldWords(err)
	}
	o := want.OpenOptions{Format: want.Classic, ETag: httpapi.SnapshotAsked(r)}
	if v.Kind == want.Packets {
		o.Format = want.Pcap
	}
	rt, err := s.ctl.OpenCapture(ctx, who, captureID, o)
	if err != nil {
		return inOldWords(err)
	}
	defer rt.Close()
	return httpapi.ServeRetrieval(w, r, rt)
}

// inOldWords keeps the status and says what old clients know.
func inOldWords(err error) error {
	switch fault.KindOf(err) {
	case fault.NotFound:
		return &fault.Error{Kind: fault.NotFound, Msg: notThere, Err: err}
	case fault.NotReady:
		return &fault.Error{Kind: fault.NotReady, Msg: notThere, Err: err}
	}
	return err
}
