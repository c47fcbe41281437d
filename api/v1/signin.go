package v1

import (
	"context"
	"net/http"
	"net/netip"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
)

// SignIn is what the door asks of the controller about people who sign in elsewhere.
type SignIn interface {
	Providers() []string
	StartSignIn(ctx context.Context, provider, redirect, project string) (to, kept string, err error)
	FinishSignIn(ctx context.Context, kept, state, code string, remote netip.AddrPort) (auth.Session, error)
}

const (
	signInPath   = "/v1/session/oidc"
	callbackPath = signInPath + "/callback"
	signInCookie = "opentap_signin"
	signInMaxAge = 10 * 60 // seconds that somebody has to sign in
)

func signInRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: signInPath, Open: true, Serve: s.providers},
		{Method: "GET", Path: signInPath + "/start", Open: true, Serve: s.startSignIn},
		// The provider sends the browser here. What it brings is worth nothing without the cookie of who began.
		{Method: "GET", Path: callbackPath, Open: true, Linked: true, Serve: s.finishSignIn},
	}
}

func (s *server) providers(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"providers": s.ctl.Providers()})
}

func (s *server) startSignIn(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r, "provider", "project"); err != nil {
		return err
	}
	q := r.URL.Query()
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	to, kept, err := s.ctl.StartSignIn(r.Context(), q.Get("provider"), scheme+"://"+r.Host+callbackPath, q.Get("project"))
	if err != nil {
		return err
	}
	// Lax: it comes back with the browser from another site.
	http.SetCookie(w, &http.Cookie{Name: signInCookie, Value: kept, Path: signInPath, MaxAge: signInMaxAge, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode})
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

func (s *server) finishSignIn(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query() // providers add parameters of their own
	var kept string
	if c, err := r.Cookie(signInCookie); err == nil {
		kept = c.Value
	}
	http.SetCookie(w, &http.Cookie{Name: signInCookie, Path: signInPath, MaxAge: -1, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode})
	if q.Get("error") != "" {
		return fault.New(fault.Unauthenticated, "the identity provider refused: %.200q", q.Get("error")+" "+q.Get("error_description"))
	}
	opened, err := s.ctl.FinishSignIn(r.Context(), kept, q.Get("state"), q.Get("code"), httpapi.Remote(r))
	if err != nil {
		httpapi.Denied(r, err)
		return err
	}
	httpapi.SetSession(w, r, opened.Text, opened.Expires)
	w.Header().Set("Location", "/")
	w.WriteHeader(http.StatusSeeOther)
	return nil
}
