package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
)

type serve = func(http.ResponseWriter, *http.Request) error

// The plain verbs: what the door does where it only passes on. None takes a query parameter; lists do, see page. param is the part of the path that
// names the thing.

// look serves what there is one of; also POST, where an act takes no body.
func look[V any](ask func(context.Context, auth.Identity) (V, error)) serve {
	return answered(http.StatusOK, func(_ http.ResponseWriter, r *http.Request) (V, error) {
		return ask(r.Context(), httpapi.Identity(r.Context()))
	})
}

// show serves the thing that the path names; also POST, where an act on a thing takes no body.
func show[V any](param string, ask func(context.Context, auth.Identity, string) (V, error)) serve {
	return answered(http.StatusOK, func(_ http.ResponseWriter, r *http.Request) (V, error) {
		return ask(r.Context(), httpapi.Identity(r.Context()), r.PathValue(param))
	})
}

// change serves PATCH.
func change[B, V any](param string, do func(context.Context, auth.Identity, string, B) (V, error)) serve {
	return answered(http.StatusOK, func(w http.ResponseWriter, r *http.Request) (v V, err error) {
		var body B
		if err := httpapi.DecodeJSON(w, r, &body); err != nil {
			return v, err
		}
		return do(r.Context(), httpapi.Identity(r.Context()), r.PathValue(param), body)
	})
}

// create serves POST of a new thing.
func create[B, V any](do func(context.Context, auth.Identity, B) (V, error)) serve {
	return answered(http.StatusCreated, func(w http.ResponseWriter, r *http.Request) (v V, err error) {
		var body B
		if err := httpapi.DecodeJSON(w, r, &body); err != nil {
			return v, err
		}
		return do(r.Context(), httpapi.Identity(r.Context()), body)
	})
}

func answered[V any](status int, ask func(http.ResponseWriter, *http.Request) (V, error)) serve {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := noQuery(r); err != nil {
			return err
		}
		v, err := ask(w, r)
		if err != nil {
			return err
		}
		return httpapi.WriteJSON(w, status, v)
	}
}

// set serves PUT: 201 when the thing is new.
func set[B, V any](param string, do func(context.Context, auth.Identity, string, B) (v V, created bool, err error)) serve {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := noQuery(r); err != nil {
			return err
		}
		var body B
		if err := httpapi.DecodeJSON(w, r, &body); err != nil {
			return err
		}
		v, created, err := do(r.Context(), httpapi.Identity(r.Context()), r.PathValue(param), body)
		if err != nil {
			return err
		}
		status := http.StatusOK
		if created {
			status = http.StatusCreated
		}
		return httpapi.WriteJSON(w, status, v)
	}
}

// remove serves DELETE.
func remove(param string, do func(context.Context, auth.Identity, string) error) serve {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := noQuery(r); err != nil {
			return err
		}
		if err := do(r.Context(), httpapi.Identity(r.Context()), r.PathValue(param)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}
