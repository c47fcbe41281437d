package v1

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// shown is a view without nulls where the document promises lists.
func shown(v want.View) want.View {
	v.Formats = notNil(v.Formats)
	v.Query.Points = notNil(v.Query.Points)
	return v
}

// viewed is what a view is asked by, for an answer without nulls.
func viewed(ask func(context.Context, auth.Identity, string) (want.View, error)) func(context.Context, auth.Identity, string) (want.View, error) {
	return func(ctx context.Context, id auth.Identity, captureID string) (want.View, error) {
		v, err := ask(ctx, id, captureID)
		return shown(v), err
	}
}

func (s *server) create(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body want.Request
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	if err := checkRequest(&body); err != nil {
		return err
	}
	v, created, err := s.ctl.CreateCapture(r.Context(), httpapi.Identity(r.Context()), body)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
		w.Header().Set("Location", "/v1/captures/"+EscapeID(v.ID))
	}
	return httpapi.WriteJSON(w, status, shown(v))
}

// checkRequest refuses what no controller could mean, with the field's name. All else is the controller's to decide.
func checkRequest(q *want.Request) error {
	switch {
	case q.Kind == "":
		return fault.Field("kind", "missing; pcap, netflow, ethernet or sensor")
	case q.Duration < 0:
		return fault.Field("duration", "must not be negative")
	case q.Duration != 0 && !q.To.IsZero():
		return fault.Field("duration", "give either to or duration")
	case q.Period < 0:
		return fault.Field("period", "must not be negative")
	case q.Retain < 0:
		return fault.Field("retain", "must not be negative")
	case q.Snap < 0:
		return fault.Field("snap", "must not be negative")
	case !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To):
		return fault.Field("to", "must be later than from")
	}
	return nil
}

// EscapeID writes a capture's id as one path segment. Ids are opaque text: dots alone would be taken for a directory.
func EscapeID(id string) string {
	if strings.Trim(id, ".") == "" {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

func (s *server) captures(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "limit", "page_token")
	p := a.page("captures")
	if a.err != nil {
		return a.err
	}
	list, err := s.ctl.Captures(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	for i := range list {
		list[i] = shown(list[i])
	}
	return writePage(w, p, "captures", captureKey, list)
}

func (s *server) ledger(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	v, err := s.ctl.Capture(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, LedgerView{
		ID: v.ID, UID: v.UID, State: v.Status.State, Final: v.Status.State.Final(), Ledger: v.Status.Ledger,
		Records: v.Status.Records, Bytes: v.Status.Bytes, Gaps: notNil(v.Status.Gaps),
	})
}

func (s *server) data(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r, "format"); err != nil {
		return err
	}
	ctx, who, id := r.Context(), httpapi.Identity(r.Context()), r.PathValue("id")
	o := want.OpenOptions{ETag: httpapi.SnapshotAsked(r)}
	if f := r.URL.Query().Get("format"); f != "" {
		o.Format = want.Format(f)
		if o.Format.MediaType() == "application/octet-stream" {
			return fault.Field("format", "no such format; pcapng, pcap, csv, classic, ndjson, parquet or arrow")
		}
	} else if accept := strings.Join(r.Header.Values("Accept"), ","); accept != "" && !acceptsAll(accept) {
		v, err := s.ctl.Capture(ctx, who, id)
		if err != nil {
			return err
		}
		f, ok := negotiate(accept, v.Formats)
		if !ok {
			return httpapi.WithStatus(http.StatusNotAcceptable, fault.Invalid,
				"the capture's data cannot be had in an accepted media type; it can be had as %s", mediaTypes(v.Formats))
		}
		o.Format = f
	}
	rt, err := s.ctl.OpenCapture(ctx, who, id, o)
	if err != nil {
		return err
	}
	defer rt.Close()
	return httpapi.ServeRetrieval(w, r, rt)
}
