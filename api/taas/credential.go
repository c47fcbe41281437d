package taas

import (
	"net/http"
	"strings"

	"opentap/api/httpapi"
	"opentap/fault"
)

// credential finds the caller's token: in X-Auth-Token, as a bearer, or as the password of HTTP's basic scheme. What the
// client sends when it was told auth type none is no token.
func credential(r *http.Request) (string, error) {
	if r.Header.Get("X-Auth-Token") == "notused" && r.Header.Get("Authorization") == "" {
		return "", nil
	}
	if _, password, ok := r.BasicAuth(); ok {
		if x := r.Header.Get("X-Auth-Token"); x != "" && x != password {
			return "", fault.New(fault.Unauthenticated, "Authorization and X-Auth-Token hold different tokens")
		}
		if password == "" {
			return "", fault.New(fault.Unauthenticated, "the password is empty; it is a token")
		}
		return password, nil
	}
	return httpapi.TokenOf(r)
}

// named serves what needs an identity. With HTTP's basic scheme the user must be the token's: who writes another name than
// his own is mistaken about something.
func (s *server) named(serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("X-Openstack-Request-Id", "req-"+httpapi.RequestID(r.Context()))
		if user, _, ok := r.BasicAuth(); ok && !strings.EqualFold(user, httpapi.Identity(r.Context()).Name) {
			return fault.New(fault.Unauthenticated, "the token is not that of the user %q", user)
		}
		return serve(w, r)
	}
}
