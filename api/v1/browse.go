package v1

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/packet"
	"opentap/want"
)

// Browser is what the door asks of the controller about looking into captures without downloading them.
type Browser interface {
	Packets(ctx context.Context, id auth.Identity, captureID string, l want.PacketsLook) (want.PacketRows, error)
	Packet(ctx context.Context, id auth.Identity, captureID string, l want.PacketLook) (want.PacketDetail, error)
	Timeline(ctx context.Context, id auth.Identity, captureID string, l want.TimelineLook) (want.Timeline, error)
	CaptureTop(ctx context.Context, id auth.Identity, captureID string, l want.RecordsLook) (want.FlowTop, error)
	CaptureSeries(ctx context.Context, id auth.Identity, captureID string, l want.RecordsLook) (want.FlowSeries, error)
}

func browseRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/captures/{id}/packets", Serve: s.packets},
		{Method: "GET", Path: "/v1/captures/{id}/packets/{number}", Serve: s.packet},
		{Method: "GET", Path: "/v1/captures/{id}/timeline", Serve: s.timeline},
		{Method: "GET", Path: "/v1/captures/{id}/flows/top", Serve: s.captureTop},
		{Method: "GET", Path: "/v1/captures/{id}/flows/series", Serve: s.captureSeries},
	}
}

// asked reads query parameters and keeps the first mistake.
type asked struct {
	q   url.Values
	err error
}

func ask(r *http.Request, known ...string) *asked {
	a := &asked{err: noQuery(r, known...)}
	if a.err == nil {
		a.q, a.err = parseQuery(r)
	}
	return a
}

func (a *asked) wrong(name string, err error) {
	if err != nil && a.err == nil {
		a.err = fault.Field(name, "%q is not understood", a.q.Get(name))
	}
}

func (a *asked) text(name string) string { return a.q.Get(name) }

func (a *asked) uint(name string) (n uint64) {
	if v := a.q.Get(name); v != "" {
		var err error
		n, err = strconv.ParseUint(v, 10, 63)
		a.wrong(name, err)
	}
	return n
}

func (a *asked) int(name string, otherwise, most int) int {
	n := a.uint(name)
	if a.q.Get(name) == "" {
		return otherwise
	}
	if n > uint64(most) && a.err == nil {
		a.err = fault.Field(name, "is %d; it can be up to %d", n, most)
	}
	return int(min(n, uint64(most)))
}

func (a *asked) bool(name string) (b bool) {
	if v := a.q.Get(name); v != "" {
		var err error
		b, err = strconv.ParseBool(v)
		a.wrong(name, err)
	}
	return b
}

func (a *asked) time(name string) (t time.Time) {
	if v := a.q.Get(name); v != "" {
		var err error
		t, err = time.Parse(time.RFC3339Nano, v)
		a.wrong(name, err)
	}
	return t
}

func (a *asked) duration(name string) (d want.Duration) {
	if v := a.q.Get(name); v != "" {
		a.wrong(name, d.UnmarshalText([]byte(v)))
	}
	return d
}

func (s *server) packets(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "from", "at", "limit", "filter", "strict")
	l := want.PacketsLook{From: a.uint("from"), At: a.time("at"), Limit: a.int("limit", 100, 500), Filter: a.text("filter"), Strict: a.bool("strict")}
	if a.err != nil {
		return a.err
	}
	out, err := s.ctl.Packets(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"), l)
	if err != nil {
		return err
	}
	out.Packets = notNil(out.Packets)
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *server) packet(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "filter", "strict")
	l := want.PacketLook{Filter: a.text("filter"), Strict: a.bool("strict")}
	if a.err != nil {
		return a.err
	}
	var err error
	if l.Number, err = strconv.ParseUint(r.PathValue("number"), 10, 63); err != nil {
		return fault.New(fault.NotFound, "a packet is named by its number, from 0")
	}
	out, err := s.ctl.Packet(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"), l)
	if err != nil {
		return err
	}
	out.Layers = notNil(out.Layers)
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *server) timeline(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "filter", "strict", "from", "to", "steps")
	l := want.TimelineLook{Filter: a.text("filter"), Strict: a.bool("strict"), From: a.time("from"), To: a.time("to"), Steps: a.int("steps", 200, 4000)}
	if a.err != nil {
		return a.err
	}
	out, err := s.ctl.Timeline(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"), l)
	if err != nil {
		return err
	}
	out.Packets, out.Octets = notNil(out.Packets), notNil(out.Octets)
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

// recordsLook reads what the questions for flow records have in common.
func (a *asked) recordsLook(otherwise string) want.RecordsLook {
	l := want.RecordsLook{Metric: a.text("metric"), Top: a.int("top", 10, 1000), Filter: a.text("filter")}
	by := otherwise
	if a.q.Has("by") {
		by = a.text("by")
	}
	if by != "" {
		l.By = strings.Split(by, ",")
	}
	if t := a.time("from"); !t.IsZero() {
		l.From = packet.TimestampOf(t)
	}
	if t := a.time("to"); !t.IsZero() {
		l.To = packet.TimestampOf(t)
	}
	return l
}

func (s *server) captureTop(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "by", "metric", "top", "filter", "from", "to")
	l := a.recordsLook("src,dst")
	if a.err != nil {
		return a.err
	}
	out, err := s.ctl.CaptureTop(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"), l)
	if err != nil {
		return err
	}
	out.By, out.Groups, out.Points = notNil(out.By), notNil(out.Groups), notNil(out.Points)
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *server) captureSeries(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "by", "metric", "top", "filter", "from", "to", "step")
	l := a.recordsLook("")
	if l.Step = a.duration("step"); l.Step == 0 {
		l.Step = want.Duration(10 * time.Second)
	}
	if a.err != nil {
		return a.err
	}
	out, err := s.ctl.CaptureSeries(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"), l)
	if err != nil {
		return err
	}
	out.By, out.Points = notNil(out.By), notNil(out.Points)
	return httpapi.WriteJSON(w, http.StatusOK, out)
}
