package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/client"
	"opentap/fault"
	"opentap/want"
)

// buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process is opentapd inside the test.
type process struct {
	addr, token string // of the server; of the administrator
	dir         string
	out, log    *buffer
	stop        func()
}

var listening = regexp.MustCompile(`opentapd is running.* listen=\S*:(\d+) `)

// launch runs opentapd until the test ends, with every message that it has to say.
func launch(t *testing.T, listen string, change func(*config)) *process {
	t.Helper()
	p := &process{dir: t.TempDir(), out: &buffer{}, log: &buffer{}}
	cfg := defaultConfig()
	cfg.DataDir, cfg.Listen, cfg.Node, cfg.Log.Level = p.dir, listen, "here", "debug"
	if change != nil {
		change(&cfg)
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	log, err := newLogger(cfg, p.log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, cfg, p.out, log) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(p.stop)
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p.addr == "" {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("opentapd ended: %v\n%s", err, p.log)
		case <-deadline:
			t.Fatalf("opentapd does not start\n%s", p.log)
		case <-tick.C:
			if m := listening.FindStringSubmatch(p.log.String()); m != nil {
				p.addr = "127.0.0.1:" + m[1]
			}
		}
	}
	scheme := "http"
	if speaks, _ := cfg.wantsTLS(); speaks {
		scheme = "https"
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: insecureConfig()}}
	defer web.CloseIdleConnections()
	for ready := false; !ready; {
		select {
		case <-deadline:
			t.Fatalf("opentapd is not ready\n%s", p.log)
		case <-tick.C:
			resp, err := web.Get(scheme + "://" + p.addr + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			ready = resp.StatusCode == http.StatusOK
		}
	}
	b, err := os.ReadFile(filepath.Join(p.dir, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	p.token = strings.TrimSpace(string(b))
	return p
}

func (p *process) client(t *testing.T, scheme, token string, tr client.Trust) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: scheme + "://" + p.addr, Token: token, Trust: tr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Beyond loopback the doors speak TLS with a certificate of their own making; its fingerprint is printed, and a client
// that is given it comes in.
func TestBeyondLoopbackTheDoorsSpeakTLS(t *testing.T) {
	p := launch(t, "0.0.0.0:0", nil)
	ctx := context.Background()
	var shown bytes.Buffer
	cfg := defaultConfig()
	cfg.DataDir = p.dir
	if err := showFingerprint(cfg, &shown); err != nil {
		t.Fatal(err)
	}
	fp := strings.TrimSpace(shown.String())
	if !strings.Contains(p.out.String(), "\n  "+fp+"\n") {
		t.Errorf("the first start did not print %s:\n%s", fp, p.out)
	}
	var m *client.Mistrust
	if _, err := p.client(t, "https", p.token, client.Trust{}).Version(ctx); !errors.As(err, &m) || m.Reason != client.Unknown || m.Fingerprint != fp {
		t.Errorf("an unknown server: %v", err)
	}
	if _, err := p.client(t, "https", p.token, client.Trust{Fingerprint: fp}).Version(ctx); err != nil {
		t.Errorf("with its fingerprint: %v", err)
	}
	if _, err := p.client(t, "https", p.token, client.Trust{CA: filepath.Join(p.dir, "tls", "ca.pem")}).Version(ctx); err != nil {
		t.Errorf("with its authority: %v", err)
	}
	if _, err := p.client(t, "http", p.token, client.Trust{}).Version(ctx); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without TLS: %v", err)
	}
	if err := showFingerprint(config{DataDir: t.TempDir()}, io.Discard); err == nil {
		t.Error("a fingerprint where no certificate is")
	}
}

func TestLoopbackSpeaksPlainly(t *testing.T) {
	p := launch(t, "127.0.0.1:0", nil)
	if _, err := p.client(t, "http", p.token, client.Trust{}).Version(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "tls")); err == nil {
		t.Error("a certificate was made that nobody is shown")
	}
}

// What is secret, and what people send each other, is in no message, at the level that tells most.
func TestTheLogHoldsNoSecrets(t *testing.T) {
	var made string
	p := launch(t, "0.0.0.0:0", nil)
	ctx := context.Background()
	tr := client.Trust{CA: filepath.Join(p.dir, "tls", "ca.pem")}
	admin := p.client(t, "https", p.token, tr)
	tok, err := admin.CreateToken(ctx, want.TokenRequest{Name: "ci", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	made = tok.Token
	if _, err := p.client(t, "https", made, tr).Points(ctx); err != nil {
		t.Error(err)
	}
	wrong := made[:len(made)-4] + "AAAA"
	for _, bad := range []string{wrong, "ot_nobody_0123456789abcdefghijkl", "keystone-like-secret-5550001"} {
		if _, err := p.client(t, "https", bad, tr).Points(ctx); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("a wrong token: %v", err)
		}
	}
	if _, err := admin.RevokeToken(ctx, "ci"); err != nil {
		t.Error(err)
	}
	if _, err := p.client(t, "https", made, tr).Points(ctx); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a revoked token: %v", err)
	}
	_, _, err = admin.CheckFilter(ctx, "host payload-text-5550002", false)
	if err == nil {
		t.Error("an odd filter was taken")
	}
	_, _, _ = admin.Create(ctx, want.Request{Kind: want.Packets, Points: []string{"no-such-point"}, Filter: "host 192.0.2.1"})

	// Secrets where they do not belong: in the query, in cookies, in a body.
	bare := &http.Client{Transport: &http.Transport{TLSClientConfig: insecureConfig()}}
	defer bare.CloseIdleConnections()
	for _, path := range []string{"/v1/points?token=" + made, "/v1/version?api_key=query-secret-5550003", "/nowhere?t=" + p.token} {
		req, err := http.NewRequest("POST", "https://"+p.addr+path, strings.NewReader(`{"password":"body-secret-5550004"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Cookie", "session=cookie-secret-5550005")
		resp, err := bare.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	p.stop()

	log := p.log.String()
	if !strings.Contains(log, "msg=request") || !strings.Contains(log, "level=DEBUG") {
		t.Fatalf("the log tells nothing, so that this proves nothing:\n%s", log)
	}
	secret := func(tok string) string { return tok[strings.LastIndex(tok, "_")+1:] }
	for what, text := range map[string]string{
		"the administrator's token": secret(p.token), "a token": secret(made), "a wrong token": secret(wrong),
		"a foreign token": "secret-5550001", "a filter's text": "payload-text-5550002", "a query": "query-secret-5550003",
		"a body": "body-secret-5550004", "a cookie": "cookie-secret-5550005", "a private key": "PRIVATE KEY",
	} {
		for line := range strings.Lines(log) {
			if strings.Contains(line, text) {
				t.Errorf("%s is in the log: %s", what, line)
			}
		}
	}
	trail, err := filepath.Glob(filepath.Join(auditDir(config{DataDir: p.dir}), "*"))
	if err != nil || len(trail) == 0 {
		t.Fatal("no audit log", err)
	}
	for _, path := range trail {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{secret(p.token), secret(made), secret(wrong)} {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("a token is in the audit log %s", path)
			}
		}
	}
	if strings.Count(p.out.String(), secret(p.token)) != 1 {
		t.Error("the administrator's token is not printed once")
	}
}

func insecureConfig() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
