package v1

import (
	"errors"
	"net/http"
	"net/url"

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

func (s *server) point(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Points(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	p, err := point.NewSet(list, nil, "").Resolve(r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, p)
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

func (s *server) checkFilter(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body FilterCheck
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	canonical, explanation, err := s.ctl.CheckFilter(r.Context(), body.Filter, body.Strict)
	if f := (*fault.Error)(nil); body.Judge && errors.As(err, &f) && f.Kind == fault.Invalid {
		return httpapi.WriteJSON(w, http.StatusOK, FilterChecked{Wrong: &FilterFault{f.Msg, f.Hint, f.Pos}})
	}
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, FilterChecked{Filter: canonical, Explanation: explanation})
}

// notNil makes an empty list [] and not null.
func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
