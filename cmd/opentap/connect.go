package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"opentap/client"
)

const defaultURL = "http://127.0.0.1:2020"

// connect makes the client. It connects to nothing yet.
func (a *app) connect() (*client.Client, error) {
	addr := cmp.Or(a.url, os.Getenv("OPENTAP_URL"), defaultURL)
	addr = withScheme(addr)
	token, err := a.findToken(addr)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{URL: addr, Token: token, UserAgent: "opentap/" + programVersion(), Trust: a.trust(addr)})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// findToken takes the token that was given, and for a server on this machine the one it made itself. That one never leaves
// the machine.
func (a *app) findToken(addr string) (string, error) {
	switch {
	case a.token != "" && a.tokenFile != "":
		return "", usagef("give either --token or --token-file")
	case a.token != "":
		return a.token, nil
	case a.tokenFile != "":
		return readToken(a.tokenFile)
	case os.Getenv("OPENTAP_TOKEN") != "":
		return os.Getenv("OPENTAP_TOKEN"), nil
	case !here(addr):
		return "", nil
	}
	for _, d := range dataDirs() {
		if t, err := readToken(filepath.Join(d, "admin.token")); err == nil {
			return t, nil
		}
	}
	return "", nil
}

func readToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" || len(t) > 4096 || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("read token: %s holds no single line of plain text", path)
	}
	return t, nil
}

// withScheme completes an address that has none, as servers listen: with TLS unless they are on this machine.
func withScheme(addr string) string {
	switch {
	case strings.Contains(addr, "://"):
		return addr
	case loopback("http://" + addr):
		return "http://" + addr
	}
	return "https://" + addr
}

// here reports whether the address is this machine's: what is sent there does not leave it.
func here(addr string) bool {
	u, err := url.Parse(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return loopback(addr)
	}
	own, err := net.InterfaceAddrs()
	return loopback(addr) || err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip.Unmap().AsSlice())
	})
}

func loopback(addr string) bool {
	u, err := url.Parse(addr)
	if err != nil {
		return false
	}
	host := u.Hostname()
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return host == "localhost"
}
