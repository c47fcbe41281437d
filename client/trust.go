package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"opentap/cert"
)

// Trust says which servers' certificates are believed. Those that the machine's authorities vouch for always are, unless
// CA is given; of the others, those that are pinned: known by the public key of the authority that made them, or by their own
// when they signed themselves.
type Trust struct {
	CA          string   // PEM file: authorities that are believed, and no other; "" = the machine's
	Also        []string // PEM files of authorities that are believed too, where they can be read
	Pins        string   // file of pins; "" = nothing is remembered
	Fingerprint string   // believed, and pinned in the place of what was: "SHA256:…"; "" = none
	// Ask shows a person an unknown server's fingerprint; true = trust and pin it. nil = nobody is there to ask.
	Ask func(ctx context.Context, address, fingerprint string) (bool, error)
}

// Mistrust says why a server's certificate is not believed.
type Mistrust struct {
	Address     string // host:port
	Reason      MistrustReason
	Fingerprint string // that the server shows; "" = it has none that could be pinned
	Known       string // that was expected
	Err         error  // of the verification
}

// MistrustReason is why.
type MistrustReason int

// Reasons.
const (
	Unknown   MistrustReason = iota // self-made, and never seen
	Changed                         // it is another than the one known: somebody may be in between
	Expired                         // or not valid yet
	WrongName                       // for other names than the one it was reached by
	Invalid                         // anything else
)

// Error implements error.
func (e *Mistrust) Error() string {
	switch e.Reason {
	case Unknown:
		return fmt.Sprintf("the certificate of %s is self-made and not known here; its fingerprint is %s", e.Address, e.Fingerprint)
	case Changed:
		return fmt.Sprintf("THE CERTIFICATE OF %s HAS CHANGED: somebody may be reading along. Expected %s, and it shows %s", e.Address, e.Known, e.Fingerprint)
	}
	return fmt.Sprintf("the certificate of %s is not valid: %v", e.Address, e.Err)
}

// Unwrap returns the verification's error.
func (e *Mistrust) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Mistrust) Hint() string {
	switch e.Reason {
	case Unknown:
		return "compare it with what `opentapd --show-fingerprint` prints on the server; if they are the same, say --fingerprint " + e.Fingerprint +
			" once, or give the server's data_dir/tls/ca.pem with --ca"
	case Changed:
		return "if the server was made anew, compare with what `opentapd --show-fingerprint` prints there, and say --fingerprint once; nothing was sent"
	case Expired:
		return "look at the clocks of both machines; a certificate that opentapd made itself is renewed when it runs, others are renewed by who made them"
	case WrongName:
		return "reach the server by a name or address that the certificate is for, or add the name to auth.hosts in the server's configuration"
	}
	return "give the certificate of the authority that signed it with --ca"
}

// verifier checks the certificates of one address.
type verifier struct {
	Trust
	address string // host:port
	host    string
	roots   *x509.CertPool // nil = the machine's

	mu    sync.Mutex
	pin   string
	asked bool
}

// newVerifier reads the files. base is the server's URL.
func newVerifier(t Trust, base *url.URL) (*verifier, error) {
	v := &verifier{Trust: t, host: base.Hostname()}
	port := base.Port()
	if port == "" {
		port = "443"
	}
	v.address = net.JoinHostPort(strings.ToLower(v.host), port)
	if t.CA != "" {
		v.roots = x509.NewCertPool()
		b, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		if !v.roots.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("read authorities: %s holds no PEM certificate", t.CA)
		}
		return v, nil
	}
	for _, path := range t.Also {
		if b, err := os.ReadFile(path); err == nil {
			if v.roots == nil {
				if v.roots, err = x509.SystemCertPool(); err != nil {
					v.roots = x509.NewCertPool() // a machine without authorities
				}
			}
			v.roots.AppendCertsFromPEM(b)
		}
	}
	var err error
	v.pin, err = readPin(t.Pins, v.address)
	return v, err
}

// config is for connections to the one address.
func (v *verifier) config() *tls.Config {
	// The check is VerifyConnection's, which does all that the usual one does, and knows pins besides.
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: v.verify}
}

func (v *verifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &Mistrust{Address: v.address, Reason: Invalid, Err: errors.New("it shows none")}
	}
	leaf, root := cs.PeerCertificates[0], cs.PeerCertificates[len(cs.PeerCertificates)-1]
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: v.roots, Intermediates: between, DNSName: v.host})
	fp := ""
	if selfSigned(root) {
		fp = cert.Fingerprint(root)
	}
	if err == nil && (v.Fingerprint == "" || v.Fingerprint == fp) {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	no := func(r MistrustReason, err error) error {
		return &Mistrust{Address: v.address, Reason: r, Fingerprint: fp, Known: v.pin, Err: err}
	}
	switch {
	case v.Fingerprint != "" && v.Fingerprint != fp:
		if fp == "" {
			return no(Invalid, errors.New("--fingerprint is for self-made certificates, and this is none"))
		}
		return &Mistrust{Address: v.address, Reason: Changed, Fingerprint: fp, Known: v.Fingerprint}
	case v.CA != "" && v.Fingerprint == "" || fp == "":
		return no(reasonOf(err), err)
	case v.Fingerprint == "" && v.pin != "" && v.pin != fp:
		return no(Changed, nil)
	}
	// It is to be believed by its key alone. That does not make it valid for another name, or for ever.
	self := x509.NewCertPool()
	self.AddCert(root)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: self, Intermediates: between, DNSName: v.host}); err != nil {
		return no(reasonOf(err), err)
	}
	if v.pin == fp {
		return nil
	}
	if v.Fingerprint == fp {
		return v.keep(fp)
	}
	return no(Unknown, err)
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func reasonOf(err error) MistrustReason {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Expired
	case errors.As(err, &name):
		return WrongName
	}
	return Invalid
}

// keep pins. v.mu is held.
func (v *verifier) keep(fp string) error {
	v.pin = fp
	if v.Pins == "" {
		return nil
	}
	return writePin(v.Pins, v.address, fp)
}

// askingTransport lets a person decide about an unknown server, with no connection waiting meanwhile.
type askingTransport struct {
	*http.Transport
	v *verifier
}

// RoundTrip implements http.RoundTripper.
func (t *askingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(req)
	var m *Mistrust
	if err == nil || !errors.As(err, &m) || m.Reason != Unknown || t.v.Ask == nil {
		return resp, err
	}
	if yes, aerr := t.v.ask(req.Context(), m.Fingerprint); aerr != nil || !yes {
		return nil, errors.Join(err, aerr)
	}
	again := req.Clone(req.Context()) // nothing of it was sent: the handshake failed
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	} else if req.Body != nil && req.Body != http.NoBody {
		return nil, err
	}
	return t.Transport.RoundTrip(again)
}

// ask asks once.
func (v *verifier) ask(ctx context.Context, fp string) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pin == fp {
		return true, nil
	}
	if v.asked {
		return false, nil
	}
	v.asked = true
	yes, err := v.Ask(ctx, v.address, fp)
	if err != nil || !yes {
		return false, err
	}
	return true, v.keep(fp)
}

// maxPins bounds the file of pins, octets.
const maxPins = 1 << 20

// readPin looks an address up. Lines are "host:port fingerprint"; the last of an address counts.
func readPin(path, address string) (pin string, err error) {
	if path == "" {
		return "", nil
	}
	lines, err := pinLines(path)
	for _, l := range lines {
		if f := strings.Fields(l); len(f) == 2 && f[0] == address {
			pin = f[1]
		}
	}
	return pin, err
}

func pinLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the known servers: %w", err)
	case len(b) > maxPins:
		return nil, fmt.Errorf("read the known servers: %s is longer than %d octets", path, maxPins)
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	for i, l := range lines {
		f := strings.Fields(l)
		if len(f) > 0 && !strings.HasPrefix(f[0], "#") && (len(f) != 2 || !strings.HasPrefix(f[1], "SHA256:")) {
			return nil, fmt.Errorf("read the known servers: %s:%d is not HOST:PORT SHA256:…", path, i+1)
		}
	}
	return lines, nil
}

// writePin replaces an address's line.
func writePin(path, address, fp string) error {
	lines, err := pinLines(path)
	if err != nil {
		return err
	}
	var out strings.Builder
	for _, l := range lines {
		if f := strings.Fields(l); len(f) != 0 && f[0] != address {
			out.WriteString(l + "\n")
		}
	}
	fmt.Fprintf(&out, "%s %s\n", address, fp)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("remember the server: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".known-*")
	if err != nil {
		return fmt.Errorf("remember the server: %w", err)
	}
	_, err = f.WriteString(out.String())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("remember the server: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
