package cert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, cfg Config) (*Keeper, bool) {
	t.Helper()
	k, fresh, err := Open(cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return k, fresh
}

// shake makes a connection over TCP and returns what the client saw.
func shake(t *testing.T, get func(*tls.ClientHelloInfo) (*tls.Certificate, error), client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = tls.Server(conn, &tls.Config{GetCertificate: get, MinVersion: tls.VersionTLS12}).Handshake()
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		l.Close()
		<-served
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	<-served
	return conn.ConnectionState(), nil
}

func pool(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, AuthorityFile))
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		t.Fatal("no certificate")
	}
	return p
}

func TestASelfMadeCertificateIsTrustedByItsAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	k, fresh := open(t, Config{Dir: dir, Names: []string{"tap.example", "192.0.2.7", "2001:db8::7"}})
	if !fresh || !strings.HasPrefix(k.Fingerprint(), "SHA256:") || len(k.Fingerprint()) != 7+43 {
		t.Errorf("fresh %v, fingerprint %q", fresh, k.Fingerprint())
	}
	for _, name := range []string{"tap.example", "192.0.2.7", "2001:db8::7"} {
		if _, err := shake(t, k.GetCertificate, &tls.Config{RootCAs: pool(t, dir), ServerName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := shake(t, k.GetCertificate, &tls.Config{RootCAs: pool(t, dir), ServerName: "other.example"}); err == nil {
		t.Error("a name that it is not for is trusted")
	}
	if _, err := shake(t, k.GetCertificate, &tls.Config{RootCAs: pool(t, dir), ServerName: "tap.example", MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	for name, mode := range map[string]fs.FileMode{authorityKeyFile: 0o600, serverKeyFile: 0o600, ".": 0o700} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, mode)
		}
	}
	leaf := k.current.Load().Leaf
	if life := time.Until(leaf.NotAfter); life < 364*24*time.Hour || life > 366*24*time.Hour {
		t.Errorf("it is valid for %v", life)
	}
	if life := time.Until(k.authority.NotAfter); life < 3649*24*time.Hour {
		t.Errorf("its authority is valid for %v", life)
	}
	again, fresh := open(t, Config{Dir: dir, Names: []string{"tap.example"}})
	if fresh || again.Fingerprint() != k.Fingerprint() || !bytes.Equal(again.current.Load().Certificate[0], k.current.Load().Certificate[0]) {
		t.Error("a restart made another one")
	}
}

func TestACertificateIsRenewedWhileRunning(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	k, _ := open(t, Config{Dir: dir, Names: []string{"tap.example", "127.0.0.1"}, Now: func() time.Time { return now }})
	first, fp := k.current.Load(), k.Fingerprint()
	for range 12 { // years
		now = now.Add(340 * 24 * time.Hour)
		_, err := shake(t, k.GetCertificate, &tls.Config{RootCAs: pool(t, dir), ServerName: "tap.example", Time: func() time.Time { return now }})
		if err != nil {
			t.Fatalf("at %v: %v", now, err)
		}
	}
	if k.current.Load() == first || k.Fingerprint() != fp {
		t.Error("the certificate is the same, or the authority is another")
	}
	got, err := FileFingerprint(filepath.Join(dir, AuthorityFile))
	if err != nil || got != fp {
		t.Errorf("the authority's file has %s, %v", got, err)
	}
}

func TestAnAddressOfThisHostIsLearnt(t *testing.T) {
	dir := t.TempDir()
	k, _ := open(t, Config{Dir: dir, Names: []string{"tap.example"}})
	if _, err := shake(t, k.GetCertificate, &tls.Config{RootCAs: pool(t, dir), ServerName: "127.0.0.1"}); err != nil {
		t.Error(err)
	}
}

func TestRenewalThatFailsShowsTheOldOne(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "tls"), time.Now()
	k, _ := open(t, Config{Dir: dir, Names: []string{"127.0.0.1"}, Now: func() time.Time { return now }})
	first := k.current.Load()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	now = first.Leaf.NotAfter.Add(-time.Hour)
	if c, err := k.GetCertificate(nil); err != nil || c != first {
		t.Errorf("%v, %v", c, err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	now = now.Add(retryEvery)
	if c, err := k.GetCertificate(nil); err != nil || c == first {
		t.Errorf("it was not renewed when it could be: %v", err)
	}
}

func TestWhatCannotBeOpened(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		has   string
	}{
		"no key": {func(d string) error { return os.Remove(filepath.Join(d, authorityKeyFile)) }, "is not"},
		"no PEM": {func(d string) error { return os.WriteFile(filepath.Join(d, authorityKeyFile), []byte("x"), 0o600) }, "no PEM block"},
		"another key": {func(d string) error {
			return os.Rename(filepath.Join(d, serverKeyFile), filepath.Join(d, authorityKeyFile))
		}, "is not the key"},
		"a broken CA": {func(d string) error { return os.WriteFile(filepath.Join(d, AuthorityFile), nil, 0o600) }, "no PEM block"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, Config{Dir: dir, Names: []string{"a.example"}})
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Open(Config{Dir: dir, Names: []string{"a.example"}}, quiet); err == nil || !strings.Contains(err.Error(), tt.has) {
				t.Errorf("error = %v, want one with %q", err, tt.has)
			}
		})
	}
	t.Run("a broken server certificate is replaced", func(t *testing.T) {
		dir := t.TempDir()
		open(t, Config{Dir: dir, Names: []string{"a.example"}})
		if err := os.WriteFile(filepath.Join(dir, serverFile), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, fresh := open(t, Config{Dir: dir, Names: []string{"a.example"}}); fresh {
			t.Error("with another authority")
		}
	})
}

func TestFilesAreReadAgain(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	open(t, Config{Dir: a, Names: []string{"a.example"}})
	open(t, Config{Dir: b, Names: []string{"b.example"}})
	f, err := OpenFiles(filepath.Join(a, serverFile), filepath.Join(a, serverKeyFile), quiet)
	if err != nil {
		t.Fatal(err)
	}
	show := func() string {
		c, err := f.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.DNSNames[0]
	}
	if show() != "a.example" {
		t.Error(show())
	}
	for _, n := range []string{serverFile, serverKeyFile} {
		if err := os.Rename(filepath.Join(b, n), filepath.Join(a, n)); err != nil {
			t.Fatal(err)
		}
	}
	f.looked = time.Time{}
	f.read = time.Time{}
	if show() != "b.example" {
		t.Error(show())
	}
	if err := os.WriteFile(filepath.Join(a, serverFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.looked, f.read = time.Time{}, time.Time{}
	if show() != "b.example" || f.Expires().IsZero() {
		t.Error("a broken file is shown")
	}
	if _, err := OpenFiles(filepath.Join(a, serverFile), filepath.Join(a, serverKeyFile), quiet); err == nil {
		t.Error("a broken file is opened")
	}
}
