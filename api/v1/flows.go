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
	"opentap/want"
)

// Flows is what the door asks of the controller about flow records that are kept at all times.
type Flows interface {
	OpenFlows(ctx context.Context, id auth.Identity, q want.FlowQuery) (*want.Retrieval, error)
	TopFlows(ctx context.Context, id auth.Identity, q want.FlowQuery) (want.FlowTop, error)
}

func (s *server) flowRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/flows", Serve: s.flows},
		{Method: "GET", Path: "/v1/flows/top", Serve: s.topFlows},
	}
}

// flows streams records. A connection that ends without the last chunk has been cut off.
func (s *server) flows(w http.ResponseWriter, r *http.Request) error {
	q, err := flowQuery(r, false)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		return httpapi.ServeLive(w, r, nil)
	}
	rt, err := s.ctl.OpenFlows(r.Context(), httpapi.Identity(r.Context()), q)
	if err != nil {
		return err
	}
	defer rt.Close()
	return httpapi.ServeLive(w, r, rt)
}

func (s *server) topFlows(w http.ResponseWriter, r *http.Request) error {
	q, err := flowQuery(r, true)
	if err != nil {
		return err
	}
	t, err := s.ctl.TopFlows(r.Context(), httpapi.Identity(r.Context()), q)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, t)
}

// flowQuery reads the query of a question for flow records, or for groups of them.
func flowQuery(r *http.Request, groups bool) (q want.FlowQuery, err error) {
	values, err := parseQuery(r)
	if err != nil {
		return q, err
	}
	if groups {
		q.By, q.Top, q.Metric = []string{"src", "dst"}, 10, "bytes"
	}
	return q, readFlowQuery(&q, values, groups)
}

func readFlowQuery(q *want.FlowQuery, values url.Values, groups bool) (err error) {
	for name, list := range values {
		if name == "point" {
			q.Points = list
			continue
		}
		if len(list) > 1 {
			return fault.Field(name, "given twice")
		}
		v := list[0]
		switch {
		case name == "from":
			q.From, err = time.Parse(time.RFC3339Nano, v)
		case name == "to":
			q.To, err = time.Parse(time.RFC3339Nano, v)
		case name == "filter":
			q.Filter = v
		case name == "format" && !groups:
			q.Format = want.Format(v)
		case name == "by" && groups:
			if q.By = nil; v != "" {
				q.By = strings.Split(v, ",")
			}
		case name == "metric" && groups:
			q.Metric = v
		case name == "top" && groups:
			q.Top, err = strconv.Atoi(v)
		default:
			hint := "this path takes point, from, to, filter, format"
			if groups {
				hint = "this path takes point, from, to, filter, by, metric, top"
			}
			return &fault.Error{Kind: fault.Invalid, Field: name, Msg: "no such query parameter", Hint: hint}
		}
		if err != nil {
			return fault.Field(name, "%q is not understood: times are RFC 3339, top is a number", v)
		}
	}
	return nil
}
