package v1

import (
	"net/http"

	"opentap/api/httpapi"
)

func (s *server) doctor(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r, "node"); err != nil {
		return err
	}
	x, err := s.ctl.Doctor(r.Context(), httpapi.Identity(r.Context()), r.URL.Query().Get("node"))
	if err != nil {
		return err
	}
	x.Findings, x.Settings = notNil(x.Findings), notNil(x.Settings)
	return httpapi.WriteJSON(w, http.StatusOK, x)
}
