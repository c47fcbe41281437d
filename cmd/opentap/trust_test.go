package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/cert"
	"opentap/report"
)

// selfMade is a server of /v1/version with a certificate as opentapd makes it, at the time that now is for it.
func selfMade(t *testing.T, now time.Time) (url, dir, fingerprint string) {
	t.Helper()
	dir = t.TempDir()
	k, _, err := cert.Open(cert.Config{Dir: dir, Names: []string{"127.0.0.1"}, Now: func() time.Time { return now }}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"product":"opentap","version":"9.8.7"}`)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	ours := &tls.Config{GetCertificate: k.GetCertificate}
	srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return ours, nil }}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL, dir, k.Fingerprint()
}

// visit runs opentap version against a server, with nobody at the terminal.
func visit(url string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(append([]string{"version", "--url", url, "--token", "x"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestServersAreTrustedOnFirstUse(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("OPENTAP_DATA", "")
	t.Setenv("OPENTAP_CA", "")
	url, dir, fp := selfMade(t, time.Now())
	code, _, stderr := visit(url)
	if code != report.ExitRefused || !strings.Contains(stderr, fp) || !strings.Contains(stderr, "--fingerprint") || !strings.Contains(stderr, "--show-fingerprint") {
		t.Errorf("unknown: exit code %d: %s", code, stderr)
	}
	if code, _, stderr = visit(url, "--fingerprint", "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"); code != report.ExitRefused {
		t.Errorf("another fingerprint: exit code %d: %s", code, stderr)
	}
	if code, _, stderr = visit(url, "--ca", filepath.Join(dir, "ca.pem")); code != report.ExitOK {
		t.Errorf("--ca: exit code %d: %s", code, stderr)
	}
	if code, _, _ = visit(url); code != report.ExitRefused {
		t.Errorf("--ca was remembered: exit code %d", code)
	}
	if code, _, stderr = visit(url, "--fingerprint", fp); code != report.ExitOK {
		t.Errorf("its fingerprint: exit code %d: %s", code, stderr)
	}
	if code, stdout, stderr := visit(url); code != report.ExitOK || !strings.Contains(stdout, "9.8.7") {
		t.Errorf("known: exit code %d: %s%s", code, stdout, stderr)
	}
	// Another server at the same address, as somebody in between would be.
	pins := filepath.Join(mustConfigDir(t), "opentap", "known_hosts")
	replace(t, pins, fp, "SHA256:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB")
	if code, _, stderr = visit(url); code != report.ExitRefused || !strings.Contains(stderr, "HAS CHANGED") || !strings.Contains(stderr, fp) {
		t.Errorf("changed: exit code %d: %s", code, stderr)
	}
}

func TestExpiredServersAreRefused(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	url, _, fp := selfMade(t, time.Now().Add(-500*24*time.Hour))
	code, _, stderr := visit(url, "--fingerprint", fp)
	if code != report.ExitRefused || !strings.Contains(stderr, "expired") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestAServerOnThisMachineIsKnownByItsData(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	url, dir, _ := selfMade(t, time.Now())
	data := t.TempDir()
	if err := os.Rename(dir, filepath.Join(data, "tls")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OPENTAP_DATA", data)
	if code, _, stderr := visit(url); code != report.ExitOK {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestTheQuestion(t *testing.T) {
	for answer, want := range map[string]bool{"yes\n": true, "no\n": false, "y\nYES\n": true, "": false, "a\nb\nc\nyes\n": false} {
		var errs bytes.Buffer
		a := &app{stdin: strings.NewReader(answer), stderr: &errs}
		got, err := a.askTrust(context.Background(), "h:1", "SHA256:x")
		if err != nil || got != want || !strings.Contains(errs.String(), "SHA256:x") {
			t.Errorf("%q: %v, %v\n%s", answer, got, err, errs.String())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, w := io.Pipe()
	defer w.Close()
	if yes, err := (&app{stdin: r, stderr: io.Discard}).askTrust(ctx, "h:1", "SHA256:x"); yes || err == nil {
		t.Errorf("interrupted: %v, %v", yes, err)
	}
}

func mustConfigDir(t *testing.T) string {
	t.Helper()
	dir, err := os.UserConfigDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func replace(t *testing.T, path, old, now string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(now), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestATokenIsNotSentInTheClearByItself(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:2020": "http://127.0.0.1:2020", "localhost": "http://localhost", "[::1]:1": "http://[::1]:1",
		"tap.example:2020": "https://tap.example:2020", "192.0.2.1": "https://192.0.2.1", "http://tap.example": "http://tap.example", "%": "https://%",
	} {
		if got := withScheme(addr); got != want {
			t.Errorf("%s became %s, want %s", addr, got, want)
		}
	}
}
