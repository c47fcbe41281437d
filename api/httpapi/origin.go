package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"opentap/fault"
)

// checkOrigin refuses what a foreign web page makes a browser send. Classic clients may capture without a token and with a
// plain GET, so that every method counts, not only those that HTTP calls unsafe. Browsers say where a request comes from in
// Sec-Fetch-Site (W3C Fetch Metadata) or Origin (RFC 6454); other clients send neither.
func (g *Gate) checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin != "" && slices.Contains(g.cfg.Origins, origin) {
		return nil
	}
	refuse := WithStatus(http.StatusForbidden, fault.Forbidden, "a web page of another site may not send requests here")
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return nil
	case "":
	default: // cross-site, same-site and what may come
		return refuse
	}
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
		return refuse
	}
	return nil
}

// checkHost refuses names that are not ours, so that a web page cannot reach an anonymous door through a name of its own
// that resolves to our address (DNS rebinding). An address literal cannot be rebound. On loopback only loopback's names
// and configured ones pass; elsewhere configured ones, when there are any.
func (g *Gate) checkHost(r *http.Request) error {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if slices.Contains(g.cfg.Hosts, host) {
		return nil
	}
	local, loopback := localAddr(r)
	if !local || (!loopback && len(g.cfg.Hosts) == 0) {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && (!loopback || ip.Unmap().IsLoopback()) {
		return nil
	}
	if loopback && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
		return nil
	}
	return WithStatus(http.StatusMisdirectedRequest, fault.Forbidden,
		"this server does not answer to the name in the Host header; use its address, send a token, or have the name added to its configuration")
}

// localAddr says whether the request came over IP, and whether to a loopback address.
func localAddr(r *http.Request) (ip, loopback bool) {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok, ok && a.IP.IsLoopback()
}

// remoteAddr is the peer; the zero AddrPort on a unix socket.
func remoteAddr(r *http.Request) netip.AddrPort {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// TokenOf finds the caller's token. Tokens are never taken from URLs: those end in logs and histories.
func TokenOf(r *http.Request) (string, error) {
	var found string
	if h := r.Header.Values("Authorization"); len(h) > 0 {
		scheme, rest, _ := strings.Cut(h[0], " ")
		if len(h) > 1 || !strings.EqualFold(scheme, "Bearer") {
			return "", fault.New(fault.Unauthenticated, "only one Authorization header with a Bearer token is understood")
		}
		if found = strings.TrimSpace(rest); found == "" {
			return "", fault.New(fault.Unauthenticated, "the bearer token is empty")
		}
	}
	if x := r.Header.Get("X-Auth-Token"); x != "" {
		if found != "" && found != x {
			return "", fault.New(fault.Unauthenticated, "Authorization and X-Auth-Token hold different tokens")
		}
		found = x
	}
	return found, nil
}
