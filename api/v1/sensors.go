package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Sensors is what the door asks of the controller about sensors.
type Sensors interface {
	Sensors(ctx context.Context, id auth.Identity) (want.Sensors, error)
}

func (s *server) sensors(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	found, err := s.ctl.Sensors(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, found)
}
