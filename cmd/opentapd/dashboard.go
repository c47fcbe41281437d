package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"

	"opentap/auth"
)

// showDashboard says at the first start where the dashboard is, with a code that signs one browser in.
func showDashboard(stdout io.Writer, keys *auth.Authenticator, token string, listen net.Addr, tls bool) error {
	code, err := keys.CodeFor(token)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "The dashboard, signed in; the link works once, within ten minutes (opentap dashboard makes another):\n\n  %s/#code=%s\n\n",
		ownURL(listen, tls), code.Text)
	return nil
}

// ownURL is how somebody on this host reaches what listens there.
func ownURL(listen net.Addr, tls bool) string {
	scheme := "http"
	if tls {
		scheme = "https"
	}
	at, err := netip.ParseAddrPort(listen.String())
	if err == nil && at.Addr().IsUnspecified() {
		host := netip.IPv6Loopback()
		if at.Addr().Is4() {
			host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return scheme + "://" + netip.AddrPortFrom(host, at.Port()).String()
	}
	return scheme + "://" + listen.String()
}
