package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/api/doortest"
	"opentap/api/httpapi"
	"opentap/fault"
	"opentap/want"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, cfg httpapi.Config, routes ...httpapi.Route) (string, *lockedBuffer) {
	t.Helper()
	log := &lockedBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	if cfg.Auth == nil {
		cfg.Auth = doortest.Users()
	}
	gate, err := httpapi.NewGate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	door := httpapi.Door{Name: "test", Prefix: "/", Routes: routes, Fail: func(w http.ResponseWriter, r *http.Request, p httpapi.Problem) {
		http.Error(w, httpapi.Text(p.Fault), p.Status)
	}}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = gate.Server(gate.Handler(door))
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return srv.URL, log
}

func get(t *testing.T, url string, header ...string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer admin")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func TestPanicsAreContained(t *testing.T) {
	url, log := serve(t, httpapi.Config{},
		httpapi.Route{Method: "GET", Path: "/early", Serve: func(http.ResponseWriter, *http.Request) error { panic("secret detail") }},
		httpapi.Route{Method: "GET", Path: "/late", Serve: func(w http.ResponseWriter, r *http.Request) error {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<16))
			panic("late")
		}})
	resp, body, err := get(t, url+"/early")
	if err != nil || resp.StatusCode != 500 || strings.Contains(body, "secret") {
		t.Error(resp, body, err)
	}
	if _, _, err := get(t, url+"/late"); err == nil {
		t.Error("a response that broke ended cleanly")
	}
	if s := log.String(); !strings.Contains(s, "secret detail") || !strings.Contains(s, "httpapi_test.go") {
		t.Error("the log has no panic with its stack:", s)
	}
}

func TestAccessLogHoldsNoSecrets(t *testing.T) {
	url, log := serve(t, httpapi.Config{}, httpapi.Route{Method: "GET", Path: "/x", Serve: func(w http.ResponseWriter, r *http.Request) error {
		if id := httpapi.Identity(r.Context()); id.Name != "root" || httpapi.RequestID(r.Context()) != "ref.1" {
			t.Errorf("%+v %s", id, httpapi.RequestID(r.Context()))
		}
		return httpapi.WriteJSON(w, 200, 1)
	}})
	for _, ref := range []string{"ref.1", "ref.1"} {
		if resp, _, err := get(t, url+"/x?token=hunter2", "X-Request-Id", ref); err != nil || resp.Header.Get("X-Request-Id") != "ref.1" {
			t.Error(err)
		}
	}
	resp, _, _ := get(t, url+"/none", "X-Request-Id", "bad\tref", "Authorization", "Bearer topsecret")
	if id := resp.Header.Get("X-Request-Id"); id == "" || strings.Contains(id, "bad") {
		t.Errorf("request id %q", id)
	}
	http.DefaultClient.CloseIdleConnections()
	s := log.String()
	for _, bad := range []string{"hunter2", "topsecret", "Bearer"} {
		if strings.Contains(s, bad) {
			t.Errorf("the log holds %s: %s", bad, s)
		}
	}
}

func TestOriginsAndHosts(t *testing.T) {
	url, _ := serve(t, httpapi.Config{Auth: doortest.Tokens{"": doortest.Everything}, Hosts: []string{"tap.example"}, Origins: []string{"https://wall.example"}},
		httpapi.Route{Method: "GET", Path: "/x", Serve: func(w http.ResponseWriter, r *http.Request) error { return httpapi.WriteJSON(w, 200, 1) }})
	for _, c := range []struct {
		host, origin, site string
		status             int
	}{
		{"", "", "", 200},
		{"tap.example:2020", "", "", 200},
		{"TAP.example.", "", "", 200},
		{"[::1]:80", "", "", 200},
		{"a.localhost", "", "", 200},
		{"other.example", "", "", 421},
		{"10.0.0.1", "", "", 421},
		{"", "https://wall.example", "cross-site", 200},
		{"tap.example", "http://tap.example", "", 200},
		{"tap.example", "http://other.example", "", 403},
		{"", "", "none", 200},
		{"", "", "future-word", 403},
	} {
		req, _ := http.NewRequest("GET", url+"/x", nil)
		req.Host = c.host
		for k, v := range map[string]string{"Origin": c.origin, "Sec-Fetch-Site": c.site} {
			if v != "" {
				req.Header.Set(k, v)
			}
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%+v: %d", c, resp.StatusCode)
		}
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	url, _ := serve(t, httpapi.Config{BodyTimeout: 50 * time.Millisecond}, httpapi.Route{Method: "POST", Path: "/x", Serve: func(w http.ResponseWriter, r *http.Request) error {
		return httpapi.DecodeJSON(w, r, &struct{}{})
	}})
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "POST /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 64)
	n, err := io.ReadAtLeast(c, b, 12)
	if err != nil || !strings.Contains(string(b[:n]), " 408 ") {
		t.Errorf("%q %v", b[:n], err)
	}
}

// big streams many octets and reports how that ended.
func big(size int64, done chan<- error) httpapi.Route {
	return httpapi.Route{Method: "GET", Path: "/big", Serve: func(w http.ResponseWriter, r *http.Request) error {
		err := httpapi.ServeRetrieval(w, r, &want.Retrieval{Format: want.Pcap, Size: size, Write: func(ctx context.Context, w io.Writer, off, n int64) error {
			_, err := io.CopyN(w, zeros{}, n)
			return err
		}})
		done <- err
		return err
	}}
}

// TestStalledClientIsCutOff has a client that reads nothing.
func TestStalledClientIsCutOff(t *testing.T) {
	done := make(chan error, 1)
	url, _ := serve(t, httpapi.Config{StallTimeout: 100 * time.Millisecond}, big(64<<20, done))
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /big HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin\r\n\r\n")
	select {
	case err := <-done:
		if !errors.Is(err, httpapi.ErrAborted) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the stalled client still holds the server")
	}
}

// TestStreamOutlivesTheAnswerTimeout has a stream that takes longer than an answer may.
func TestStreamOutlivesTheAnswerTimeout(t *testing.T) {
	const size = 8 << 20
	done := make(chan error, 1)
	url, _ := serve(t, httpapi.Config{AnswerTimeout: time.Nanosecond}, big(size, done))
	resp, body, err := get(t, url+"/big")
	if err != nil || len(body) != size || resp.ContentLength != size {
		t.Error(len(body), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestShortAndLongStreamsBreak(t *testing.T) {
	var n atomic.Int64
	url, _ := serve(t, httpapi.Config{}, httpapi.Route{Method: "GET", Path: "/x", Serve: func(w http.ResponseWriter, r *http.Request) error {
		return httpapi.ServeRetrieval(w, r, &want.Retrieval{Size: 10, Write: func(ctx context.Context, w io.Writer, off, l int64) error {
			_, err := w.Write(make([]byte, n.Load()))
			return err
		}})
	}})
	for _, k := range []int64{0, 9, 11} {
		n.Store(k)
		if resp, body, err := get(t, url+"/x"); err == nil && resp.StatusCode == 200 {
			t.Errorf("%d octets of 10: %d octets and a clean end", k, len(body))
		}
	}
	n.Store(10)
	if _, body, err := get(t, url+"/x"); err != nil || len(body) != 10 {
		t.Error(len(body), err)
	}
}

func TestEarlyStreamErrorIsTold(t *testing.T) {
	url, _ := serve(t, httpapi.Config{}, httpapi.Route{Method: "GET", Path: "/x", Serve: func(w http.ResponseWriter, r *http.Request) error {
		return httpapi.ServeRetrieval(w, r, &want.Retrieval{Size: 10, ETag: "t", FileName: "../../a\"b\x00ü;.pcap", Write: func(ctx context.Context, w io.Writer, off, l int64) error {
			if r.Header.Get("X-Fine") != "" {
				_, err := w.Write(make([]byte, l))
				return err
			}
			return fault.New(fault.Unavailable, "the node is away")
		}})
	}})
	resp, body, err := get(t, url+"/x")
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("ETag") != "" || !strings.Contains(body, "away") {
		t.Errorf("%v %s %v", resp, body, err)
	}
	resp, _, _ = get(t, url+"/x", "X-Fine", "1")
	if d := resp.Header.Get("Content-Disposition"); d != `attachment; filename=_.._a_b___.pcap; filename*=UTF-8''_.._a_b_%C3%BC%3B.pcap` {
		t.Errorf("%s", d)
	}
}

func TestStatusOf(t *testing.T) {
	for k, status := range map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Unauthenticated: 401, fault.Forbidden: 403, fault.NotFound: 404,
		fault.Conflict: 409, fault.Unsupported: 501, fault.Exhausted: 507, fault.Unavailable: 503, fault.NotReady: 409, 200: 500,
	} {
		if got := httpapi.StatusOf(fault.New(k, "x")); got != status {
			t.Errorf("%v: %d, want %d", k, got, status)
		}
	}
	if got := httpapi.StatusOf(io.EOF); got != 500 {
		t.Error(got)
	}
}

func FuzzRange(f *testing.F) {
	f.Add("bytes=0-", `"t"`)
	f.Add("bytes=-0", "W/\"t\"")
	f.Fuzz(func(t *testing.T, rg, ifRange string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", rg)
		r.Header.Set("If-Range", ifRange)
		_ = httpapi.SnapshotAsked(r)
		w := httptest.NewRecorder()
		data := []byte("0123456789")
		_ = httpapi.ServeRetrieval(w, r, &want.Retrieval{Size: 10, ETag: "t", Write: func(ctx context.Context, w io.Writer, off, n int64) error {
			_, err := w.Write(data[off : off+n])
			return err
		}})
	})
}
