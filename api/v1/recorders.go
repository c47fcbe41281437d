package v1

import (
	"net/http"

	"opentap/api/httpapi"
	"opentap/want"
)

// RecorderWish is the body of PUT /v1/recorders/{point}.
type RecorderWish struct {
	Filter string        `json:"filter"`
	Snap   int           `json:"snap"`
	Bytes  int64         `json:"bytes"`
	Age    want.Duration `json:"age"`

	Compress string `json:"compress"`
}

func (s *server) recorders(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Recorders(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"recorders": notNil(list)})
}

func (s *server) recorder(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	v, err := s.ctl.Recorder(r.Context(), httpapi.Identity(r.Context()), r.PathValue("point"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

func (s *server) setRecorder(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body RecorderWish
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	v, created, err := s.ctl.SetRecorder(r.Context(), httpapi.Identity(r.Context()), r.PathValue("point"),
		want.Recorder{Filter: body.Filter, Snap: body.Snap, Bytes: body.Bytes, Age: body.Age, Compress: body.Compress})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return httpapi.WriteJSON(w, status, v)
}

func (s *server) deleteRecorder(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	if err := s.ctl.DeleteRecorder(r.Context(), httpapi.Identity(r.Context()), r.PathValue("point")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
