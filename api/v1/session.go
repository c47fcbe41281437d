package v1

import (
	"context"
	"errors"
	"net/http"
	"net/netip"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Visitors is what the door asks of the controller about browsers' sessions.
type Visitors interface {
	OpenSession(ctx context.Context, r want.SessionRequest, remote netip.AddrPort) (auth.Session, error)
	CloseSession(ctx context.Context, text string) error
	SessionCode(ctx context.Context, id auth.Identity, credential string, remote netip.AddrPort) (want.SessionCode, error)
}

func sessionRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "POST", Path: "/v1/session", Open: true, Serve: s.openSession},
		{Method: "GET", Path: "/v1/session", Open: true, Serve: s.session},
		{Method: "DELETE", Path: "/v1/session", Open: true, Serve: s.closeSession},
		{Method: "POST", Path: "/v1/session/code", Serve: s.sessionCode},
	}
}

// rightWords spell the rights as the API does, in the order of their bits.
var rightWords = [...]string{"see_metadata", "start", "read_payload", "delete", "administer"}

func shownSession(id auth.Identity) want.Session {
	s := want.Session{Name: id.Name, Project: id.Project, Role: id.Role, Via: id.Via, Rights: []string{}}
	for i, word := range rightWords {
		if id.May(1 << i) {
			s.Rights = append(s.Rights, word)
		}
	}
	return s
}

func (s *server) openSession(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body want.SessionRequest
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	opened, err := s.ctl.OpenSession(r.Context(), body, httpapi.Remote(r))
	if err != nil {
		httpapi.Denied(r, err)
		return err
	}
	httpapi.SetSession(w, r, opened.Text, opened.Expires)
	shown := shownSession(opened.Holder)
	shown.Expires = opened.Expires
	return httpapi.WriteJSON(w, http.StatusCreated, shown)
}

func (s *server) session(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	id, err := httpapi.Caller(r)
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.Unauthenticated && r.Header.Get("Authorization")+r.Header.Get("X-Auth-Token") == "" {
		return httpapi.WriteJSON(w, http.StatusOK, want.Session{Rights: []string{}, Via: "nobody"}) // to ask who one is, is no mistake
	}
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, shownSession(id))
}

func (s *server) closeSession(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	text, err := httpapi.PageSession(r)
	if err != nil {
		return err
	}
	if text != "" {
		if err := s.ctl.CloseSession(r.Context(), text); err != nil {
			return err
		}
	}
	httpapi.EndSession(w, r)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) sessionCode(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	c, err := s.ctl.SessionCode(r.Context(), httpapi.Identity(r.Context()), httpapi.Credential(r.Context()), httpapi.Remote(r))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, c)
}
