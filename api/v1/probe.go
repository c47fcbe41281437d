package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Prober is what the door asks of the controller about probes.
type Prober interface {
	Probe(ctx context.Context, id auth.Identity, p want.Probe) (want.ProbeReport, error)
}

// probe answers when the probe is over.
func (s *server) probe(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var p want.Probe
	if err := httpapi.DecodeJSON(w, r, &p); err != nil {
		return err
	}
	report, err := s.ctl.Probe(r.Context(), httpapi.Identity(r.Context()), p)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, report)
}
