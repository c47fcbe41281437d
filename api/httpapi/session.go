package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
)

// Sessions says who the holder of a browser's session is. An error is a *fault.Error of kind Unauthenticated.
type Sessions interface {
	UseSession(ctx context.Context, text string, remote netip.AddrPort) (auth.Identity, error)
}

// PageHeader must be on every request that changes something and whose sender is known by a cookie alone. A form of a
// foreign page cannot set it, and a foreign script may not without our leave, which is never given.
const PageHeader = "OpenTap-Page"

// cookieName has the port in it: cookies do not know ports, and several servers may be reached through one host name.
func cookieName(r *http.Request) string {
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil || strings.Trim(port, "0123456789") != "" {
		port = "0"
	}
	return "opentap_session_" + port
}

// sessionOf returns the session's text of a request that has no other credentials; "" = none. Only /v1 takes sessions: old
// clients' paths, where reading a link begins a capture, do not.
func sessionOf(r *http.Request) string {
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		return ""
	}
	c, err := r.Cookie(cookieName(r))
	if err != nil {
		return ""
	}
	return c.Value
}

// checkPage refuses what a foreign page may have had a browser send together with our cookie. The cookie is SameSite=Strict
// and every request's origin is checked before this; here is what a browser of today always sends and an attacker cannot.
func checkPage(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if r.Header.Get(PageHeader) == "" {
		return fault.New(fault.Forbidden, "a request with a session needs the header %s", PageHeader)
	}
	if r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "" {
		return fault.New(fault.Forbidden, "a request with a session must say which page sends it")
	}
	return nil
}

// SetSession gives the browser its session. The text is in no log and no page can read it.
func SetSession(w http.ResponseWriter, r *http.Request, text string, expires time.Time) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Value: text, Path: "/v1/", Expires: expires, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
}

// EndSession has the browser forget it.
func EndSession(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: cookieName(r), Path: "/v1/", MaxAge: -1, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
}

// Credential is what the caller presented: a token, a session's text, or "".
func Credential(ctx context.Context) string {
	if q, ok := ctx.Value(requestKey).(*request); ok {
		if q.session != "" {
			return q.session
		}
		return q.token
	}
	return ""
}

// Denied has a refusal written down that the gate did not decide itself.
func Denied(r *http.Request, err error) {
	q, ok := r.Context().Value(requestKey).(*request)
	if ok && fault.Is(err, fault.Unauthenticated) && q.gate.cfg.Denied != nil {
		q.gate.cfg.Denied(r.Context(), Remote(r), err)
	}
}

// Remote is the peer; the zero AddrPort on a unix socket.
func Remote(r *http.Request) netip.AddrPort { return remoteAddr(r) }

// Recheck returns who the caller is now: streams that go on ask it, since tokens are revoked and rights change.
func Recheck(r *http.Request) (auth.Identity, error) {
	q, ok := r.Context().Value(requestKey).(*request)
	if !ok {
		return Identity(r.Context()), nil
	}
	if q.session != "" {
		return q.gate.cfg.Sessions.UseSession(r.Context(), q.session, remoteAddr(r))
	}
	return q.gate.cfg.Auth.Authenticate(inProject(r), q.token, remoteAddr(r))
}

// PageSession is the session of a request to an open route, "" = none, after the same checks that the gate makes.
func PageSession(r *http.Request) (string, error) {
	text := sessionOf(r)
	if text == "" {
		return "", nil
	}
	return text, checkPage(r)
}

// Caller says on an open route who the caller is, by the same checks that the gate makes elsewhere.
func Caller(r *http.Request) (auth.Identity, error) {
	q, ok := r.Context().Value(requestKey).(*request)
	if !ok {
		return auth.Identity{}, fault.New(fault.Unauthenticated, "a token is needed")
	}
	if text := sessionOf(r); q.token == "" && text != "" && q.gate.cfg.Sessions != nil {
		return q.gate.cfg.Sessions.UseSession(r.Context(), text, remoteAddr(r))
	}
	return q.gate.cfg.Auth.Authenticate(inProject(r), q.token, remoteAddr(r))
}

// projectHeader names the project that a caller wants to act in who has several.
const projectHeader = "OpenTap-Project"

// inProject is the request's context, with the project that the caller wants to act in.
func inProject(r *http.Request) context.Context {
	return auth.WithProject(r.Context(), r.Header.Get(projectHeader))
}
