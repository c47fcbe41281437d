package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opentap/cert"
	"opentap/fault"
)

// secure is a server with TLS that counts the requests it got.
type secure struct {
	*httptest.Server
	got  atomic.Int32
	dir  string
	keep *cert.Keeper
}

func serveTLS(t *testing.T, get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *secure {
	t.Helper()
	s := &secure{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.got.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"product":"opentap","version":"1","id":"x"}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	ours := &tls.Config{GetCertificate: get, MinVersion: tls.VersionTLS12}
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return ours, nil }} // httptest has a certificate of its own
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// selfMade is a server with a certificate as opentapd makes it.
func selfMade(t *testing.T, now time.Time, names ...string) *secure {
	t.Helper()
	dir := t.TempDir()
	k, _, err := cert.Open(cert.Config{Dir: dir, Names: names, Now: func() time.Time { return now }}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := serveTLS(t, k.GetCertificate)
	s.dir, s.keep = dir, k
	return s
}

func call(t *testing.T, s *secure, tr Trust) error {
	t.Helper()
	c, err := New(Config{URL: s.URL, Trust: tr, Token: "ot_secret"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Version(context.Background())
	return err
}

func wantMistrust(t *testing.T, s *secure, err error, reason MistrustReason) *Mistrust {
	t.Helper()
	var m *Mistrust
	if !errors.As(err, &m) || m.Reason != reason {
		t.Fatalf("error = %v, want reason %d", err, reason)
	}
	if m.Hint() == "" || s.got.Load() != 0 {
		t.Errorf("hint %q; the server got %d requests", m.Hint(), s.got.Load())
	}
	return m
}

func TestAnUnknownServerIsRefusedUntilItIsTrusted(t *testing.T) {
	s := selfMade(t, time.Now(), "localhost")
	pins := filepath.Join(t.TempDir(), "opentap", "known_hosts")
	m := wantMistrust(t, s, call(t, s, Trust{Pins: pins}), Unknown)
	if m.Fingerprint != s.keep.Fingerprint() {
		t.Errorf("it shows %s, and the server has %s", m.Fingerprint, s.keep.Fingerprint())
	}
	asked := 0
	no := func(context.Context, string, string) (bool, error) { asked++; return false, nil }
	wantMistrust(t, s, call(t, s, Trust{Pins: pins, Ask: no}), Unknown)
	yes := func(_ context.Context, address, fp string) (bool, error) {
		asked++
		return address == strings.TrimPrefix(s.URL, "https://") && fp == s.keep.Fingerprint(), nil
	}
	if err := call(t, s, Trust{Pins: pins, Ask: yes}); err != nil || asked != 2 {
		t.Fatalf("%v, asked %d times", err, asked)
	}
	if err := call(t, s, Trust{Pins: pins}); err != nil {
		t.Errorf("it was trusted, and is not: %v", err)
	}
	if st, err := os.Stat(pins); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestABodyIsSentAfterTheQuestion(t *testing.T) {
	s := selfMade(t, time.Now())
	c, err := New(Config{URL: s.URL, Trust: Trust{Ask: func(context.Context, string, string) (bool, error) { return true, nil }}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.CheckFilter(context.Background(), "tcp", false); err != nil {
		t.Error(err)
	}
}

func TestAChangedServerIsRefused(t *testing.T) {
	s := selfMade(t, time.Now())
	address := strings.TrimPrefix(s.URL, "https://")
	pins := filepath.Join(t.TempDir(), "known_hosts")
	old := "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	text := "# mine\nother:2020 " + old + "\n" + address + " " + old + "\n"
	if err := os.WriteFile(pins, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	never := func(context.Context, string, string) (bool, error) {
		t.Error("asked about a changed one")
		return true, nil
	}
	m := wantMistrust(t, s, call(t, s, Trust{Pins: pins, Ask: never}), Changed)
	if m.Known != old || !strings.Contains(m.Error(), "CHANGED") {
		t.Error(m)
	}
	wantMistrust(t, s, call(t, s, Trust{Pins: pins, Fingerprint: old}), Changed)
	if err := call(t, s, Trust{Pins: pins, Fingerprint: s.keep.Fingerprint()}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pins)
	if want := "# mine\nother:2020 " + old + "\n" + address + " " + s.keep.Fingerprint() + "\n"; err != nil || string(b) != want {
		t.Errorf("pins:\n%s, %v, want\n%s", b, err, want)
	}
}

func TestARenewedServerIsKnown(t *testing.T) {
	s := selfMade(t, time.Now())
	pins := filepath.Join(t.TempDir(), "known_hosts")
	if err := call(t, s, Trust{Pins: pins, Fingerprint: s.keep.Fingerprint()}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"server.pem", "server.key"} {
		if err := os.Remove(filepath.Join(s.dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	k, _, err := cert.Open(cert.Config{Dir: s.dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(s.URL, "https://"))
	if err == nil {
		l.Close()
		t.Fatal("the first server is gone")
	}
	s.Close()
	if l, err = net.Listen("tcp", strings.TrimPrefix(s.URL, "https://")); err != nil {
		t.Skip("needs the port again:", err)
	}
	web := &http.Server{Handler: s.Config.Handler, TLSConfig: &tls.Config{GetCertificate: k.GetCertificate}}
	go web.ServeTLS(l, "", "")
	defer web.Close()
	if err := call(t, s, Trust{Pins: pins}); err != nil {
		t.Error(err)
	}
}

func TestCertificatesThatAreNotValid(t *testing.T) {
	t.Run("expired", func(t *testing.T) {
		s := selfMade(t, time.Now().Add(-400*24*time.Hour))
		for _, tr := range []Trust{{}, {Fingerprint: s.keep.Fingerprint()}, {CA: filepath.Join(s.dir, "ca.pem")}} {
			m := wantMistrust(t, s, call(t, s, tr), Expired)
			if !strings.Contains(m.Error(), "expired") || !strings.Contains(m.Hint(), "clock") {
				t.Error(m, m.Hint())
			}
		}
	})
	t.Run("another name", func(t *testing.T) {
		s := selfMade(t, time.Now())
		s.URL = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
		wantMistrust(t, s, call(t, s, Trust{Fingerprint: s.keep.Fingerprint()}), WrongName)
	})
	t.Run("another authority", func(t *testing.T) {
		s, other := selfMade(t, time.Now()), selfMade(t, time.Now())
		never := func(context.Context, string, string) (bool, error) {
			t.Error("asked though --ca was given")
			return true, nil
		}
		wantMistrust(t, s, call(t, s, Trust{CA: filepath.Join(other.dir, "ca.pem"), Ask: never}), Invalid)
	})
	t.Run("a stolen name: signed by nobody it shows", func(t *testing.T) {
		s := selfMade(t, time.Now())
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		known, err := s.keep.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		tm := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mallory"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}}
		der, err := x509.CreateCertificate(rand.Reader, tm, tm, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		// Mallory shows the known authority behind a certificate that it did not sign.
		bad := serveTLS(t, func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{der, known.Certificate[1]}, PrivateKey: key}, nil
		})
		wantMistrust(t, bad, call(t, bad, Trust{Fingerprint: s.keep.Fingerprint()}), Invalid)
		// Alone, it is a self-signed certificate like any, and unknown.
		alone := serveTLS(t, func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
		})
		m := wantMistrust(t, alone, call(t, alone, Trust{}), Unknown)
		if err := call(t, alone, Trust{Fingerprint: m.Fingerprint}); err != nil {
			t.Errorf("a self-signed certificate that was confirmed: %v", err)
		}
	})
}

func TestAuthorities(t *testing.T) {
	s := selfMade(t, time.Now())
	ca := filepath.Join(s.dir, "ca.pem")
	if err := call(t, s, Trust{CA: ca}); err != nil {
		t.Error(err)
	}
	if err := call(t, s, Trust{Also: []string{"/does/not/exist", ca}}); err != nil {
		t.Error(err)
	}
	if err := call(t, s, Trust{CA: "/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "read authorities") {
		t.Error(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := call(t, s, Trust{CA: empty}); err == nil || !strings.Contains(err.Error(), "no PEM") {
		t.Error(err)
	}
	if err := os.WriteFile(empty, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := call(t, s, Trust{Pins: empty}); err == nil || !strings.Contains(err.Error(), ":1 is not") {
		t.Error(err)
	}
}

func TestPlainRequestsToTLSAreExplained(t *testing.T) {
	s := selfMade(t, time.Now())
	s.URL = strings.Replace(s.URL, "https", "http", 1)
	err := call(t, s, Trust{})
	var f *fault.Error
	if !errors.As(err, &f) || !strings.Contains(f.Hint, "https://") {
		t.Error(err)
	}
}

func FuzzPins(f *testing.F) {
	f.Add([]byte("a:1 SHA256:x\n# c\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPin(path, "b:2"); err != nil {
			return
		}
		if err := writePin(path, "b:2", "SHA256:y"); err != nil {
			t.Fatal(err)
		}
		if pin, err := readPin(path, "b:2"); err != nil || pin != "SHA256:y" {
			t.Fatalf("%q, %v", pin, err)
		}
		if after, _ := os.ReadFile(path); bytes.Count(after, []byte("b:2 SHA256:y")) < 1 {
			t.Fatal("not written")
		}
	})
}
