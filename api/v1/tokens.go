package v1

import (
	"net/http"

	"opentap/api/httpapi"
	"opentap/want"
)

func (s *server) createToken(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body want.TokenRequest
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	t, err := s.ctl.CreateToken(r.Context(), httpapi.Identity(r.Context()), body)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, t)
}

func (s *server) tokens(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Tokens(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"tokens": notNil(list)})
}

func (s *server) revokeToken(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	t, err := s.ctl.RevokeToken(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, t)
}
