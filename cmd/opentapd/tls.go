package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"opentap/cert"
)

// certificate is what a server shows.
type certificate interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Expires() time.Time
}

func (c *config) tlsDir() string { return filepath.Join(c.DataDir, "tls") }

// wantsTLS reports whether the doors speak TLS, and whether with a self-made certificate. check has seen c.Listen.
func (c *config) wantsTLS() (tls, selfMade bool) {
	if c.TLS.Cert != "" {
		return true, false
	}
	addr, err := netip.ParseAddrPort(c.Listen)
	selfMade = err == nil && !addr.Addr().IsLoopback() && !c.TLS.Insecure
	return selfMade, selfMade
}

// openCertificate returns what the server shows; nil = it speaks plain HTTP.
func openCertificate(cfg config, stdout io.Writer, log *slog.Logger) (certificate, error) {
	speaks, selfMade := cfg.wantsTLS()
	switch {
	case !speaks:
		return nil, nil
	case !selfMade:
		return cert.OpenFiles(cfg.TLS.Cert, cfg.TLS.Key, log)
	}
	k, fresh, err := cert.Open(cert.Config{Dir: cfg.tlsDir(), Names: serverNames(cfg)}, log)
	if err != nil {
		return nil, err
	}
	if fresh {
		fmt.Fprintf(stdout, "A certificate authority for this server was made in %s. Clients are shown this fingerprint when they first come; opentapd --show-fingerprint prints it again:\n\n  %s\n\n",
			cfg.tlsDir(), k.Fingerprint())
	}
	return k, nil
}

// serverNames are the names and addresses that this host is reached by, as far as it knows. Addresses that it gets later are
// learnt when somebody comes by them.
func serverNames(cfg config) []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, cfg.Auth.Hosts...)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	if addr, err := netip.ParseAddrPort(cfg.Listen); err == nil && !addr.Addr().IsUnspecified() {
		return append(names, addr.Addr().WithZone("").String())
	}
	list, _ := net.InterfaceAddrs() // without them they are learnt
	for _, a := range list {
		if p, ok := a.(*net.IPNet); ok && !p.IP.IsLinkLocalUnicast() {
			names = append(names, p.IP.String())
		}
	}
	return names
}

// tlsConfig is for the doors.
func tlsConfig(c certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.GetCertificate}
}

// showFingerprint prints the fingerprint of the self-made authority.
func showFingerprint(cfg config, stdout io.Writer) error {
	fp, err := cert.FileFingerprint(filepath.Join(cfg.tlsDir(), cert.AuthorityFile))
	if err != nil {
		return fmt.Errorf("no certificate was made here yet; it is made at the first start beyond loopback: %w", err)
	}
	_, err = fmt.Fprintln(stdout, fp)
	return err
}
