package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Teller is what the door asks of the controller about events. next waits for the next ones; none and no error = it is over.
type Teller interface {
	Events(ctx context.Context, id auth.Identity) (next func(context.Context, auth.Identity) ([]want.Event, error), stop func(), err error)
}

func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	next, stop, err := s.ctl.Events(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	defer stop()
	return httpapi.ServeEvents(w, r, func(ctx context.Context, who auth.Identity) ([]httpapi.Event, error) {
		told, err := next(ctx, who)
		out := make([]httpapi.Event, len(told))
		for i, e := range told {
			out[i] = httpapi.Event{Name: e.Name, Data: e.Data}
		}
		if told == nil {
			out = nil
		}
		return out, err
	})
}
