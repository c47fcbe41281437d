package v1

import (
	"net/http"
	"net/url"
	"slices"

	"opentap/api/httpapi"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

func parseQuery(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the query string is not well-formed")
	}
	return q, nil
}

func (s *server) points(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Points(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"points": notNil(list)})
}

func (s *server) point(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Points(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	p, err := pick(list, r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, p)
}

// pick finds the point that a name, an alias, or "node/" and either of them means.
func pick(list []point.Point, name string) (point.Point, error) {
	var found []point.Point
	for _, p := range list {
		if p.Name == name || p.Node+"/"+p.Name == name || slices.ContainsFunc(p.Aliases, func(a string) bool {
			return a == name || p.Node+"/"+a == name
		}) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return point.Point{}, &fault.Error{Kind: fault.NotFound, Msg: "no such observation point", Hint: "GET /v1/points lists them"}
	case 1:
		return found[0], nil
	}
	return point.Point{}, &fault.Error{Kind: fault.Conflict, Msg: "several nodes have a point of that name",
		Hint: "name one as node/name: " + found[0].Node + "/" + found[0].Name + ", " + found[1].Node + "/" + found[1].Name}
}

func (s *server) capabilities(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	c, err := s.ctl.Capabilities(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	c.Kinds = notNil(c.Kinds)
	if c.Formats == nil {
		c.Formats = map[want.Kind][]want.Format{}
	}
	return httpapi.WriteJSON(w, http.StatusOK, c)
}

func (s *server) nodes(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Nodes(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"nodes": notNil(list)})
}

func (s *server) checkFilter(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body FilterCheck
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	canonical, explanation, err := s.ctl.CheckFilter(r.Context(), body.Filter, body.Strict)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, FilterChecked{canonical, explanation})
}

// notNil makes an empty list [] and not null.
func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
