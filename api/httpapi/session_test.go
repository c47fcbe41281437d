package httpapi

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opentap/auth"
	"opentap/fault"
)

// visits knows the session "s" until it is ended.
type visits struct{ ended atomic.Bool }

func (v *visits) UseSession(_ context.Context, text string, _ netip.AddrPort) (auth.Identity, error) {
	if text != "s" || v.ended.Load() {
		return auth.Identity{}, fault.New(fault.Unauthenticated, "the session has ended")
	}
	return auth.Identity{Name: "ann", Via: "session"}, nil
}

type nobody struct{}

func (nobody) Authenticate(context.Context, string, netip.AddrPort) (auth.Identity, error) {
	return auth.Identity{}, fault.New(fault.Unauthenticated, "a token is needed")
}

func visited(t *testing.T, v *visits, more ...Route) *httptest.Server {
	t.Helper()
	gate, err := NewGate(Config{Auth: nobody{}, Sessions: v})
	if err != nil {
		t.Fatal(err)
	}
	who := func(w http.ResponseWriter, r *http.Request) error {
		_, err := w.Write([]byte(Identity(r.Context()).Name + "/" + Credential(r.Context())))
		return err
	}
	door := Door{Prefix: "/", Fail: func(w http.ResponseWriter, _ *http.Request, p Problem) { w.WriteHeader(p.Status) }, Routes: append([]Route{
		{Method: "GET", Path: "/v1/x", Serve: who},
		{Method: "POST", Path: "/v1/x", Serve: who},
		{Method: "GET", Path: "/old", Serve: who},
		{Method: "GET", Path: "/v1/both", OpenFor: func(r *http.Request) bool { return r.Header.Get("Accept") == "text/html" }, Serve: who},
	}, more...)}
	s := httptest.NewServer(gate.Handler(door))
	t.Cleanup(s.Close)
	return s
}

func TestSessionsComeInWhereTheyMay(t *testing.T) {
	v := &visits{}
	s := visited(t, v)
	port := s.URL[strings.LastIndexByte(s.URL, ':')+1:]
	cookie := "opentap_session_" + port + "=s"
	for name, c := range map[string]struct {
		method, path string
		header       []string
		status       int
	}{
		"reading":                    {"GET", "/v1/x", []string{"Cookie", cookie}, 200},
		"no cookie":                  {"GET", "/v1/x", nil, 401},
		"another's cookie":           {"GET", "/v1/x", []string{"Cookie", cookie + "x"}, 401},
		"cookie of another port":     {"GET", "/v1/x", []string{"Cookie", "opentap_session_1=s"}, 401},
		"old clients' paths":         {"GET", "/old", []string{"Cookie", cookie}, 401},
		"another site reads":         {"GET", "/v1/x", []string{"Cookie", cookie, "Sec-Fetch-Site", "cross-site"}, 403},
		"a token goes first":         {"GET", "/v1/x", []string{"Cookie", cookie, "Authorization", "Bearer t"}, 401},
		"changing":                   {"POST", "/v1/x", []string{"Cookie", cookie, "OpenTap-Page", "1", "Origin", s.URL}, 200},
		"changing, says the browser": {"POST", "/v1/x", []string{"Cookie", cookie, "OpenTap-Page", "1", "Sec-Fetch-Site", "same-origin"}, 200},
		"changing without header":    {"POST", "/v1/x", []string{"Cookie", cookie, "Origin", s.URL}, 403},
		"changing without origin":    {"POST", "/v1/x", []string{"Cookie", cookie, "OpenTap-Page", "1"}, 403},
		"changing from elsewhere":    {"POST", "/v1/x", []string{"Cookie", cookie, "OpenTap-Page", "1", "Origin", "http://evil.example"}, 403},
		"from a sandboxed frame":     {"POST", "/v1/x", []string{"Cookie", cookie, "OpenTap-Page", "1", "Origin", "null"}, 403},
		"open for some":              {"GET", "/v1/both", []string{"Accept", "text/html"}, 200},
		"not for all":                {"GET", "/v1/both", nil, 401},
	} {
		req, _ := http.NewRequest(c.method, s.URL+c.path, nil)
		for i := 0; i < len(c.header); i += 2 {
			req.Header.Set(c.header[i], c.header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.status)
		}
	}
}

func TestCookiesOfSessions(t *testing.T) {
	for url, secure := range map[string]bool{"https://tap.example:8443/v1/session": true, "http://127.0.0.1:8443/v1/session": false} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("POST", url, nil)
		SetSession(w, r, "text", time.Now().Add(time.Hour))
		EndSession(w, r)
		set, end := w.Result().Cookies()[0], w.Result().Cookies()[1]
		for _, c := range []*http.Cookie{set, end} {
			if c.Name != "opentap_session_8443" || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/v1/" || c.Secure != secure {
				t.Errorf("%s: %+v", url, c)
			}
		}
		if set.Value != "text" || set.Expires.IsZero() || end.Value != "" || end.MaxAge >= 0 {
			t.Errorf("%s: %v, %v", url, set, end)
		}
	}
}

func TestEventsEndWithTheSession(t *testing.T) {
	v := &visits{}
	more := make(chan struct{})
	s := visited(t, v, Route{Method: "GET", Path: "/v1/events", Serve: func(w http.ResponseWriter, r *http.Request) error {
		return ServeEvents(w, r, func(ctx context.Context, who auth.Identity) ([]Event, error) {
			select {
			case <-more:
				return []Event{{"who", []byte("{\n\"name\":\"" + who.Name + "\"}")}}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	}})
	req, _ := http.NewRequest("GET", s.URL+"/v1/events", nil)
	req.Header.Set("Cookie", "opentap_session_"+s.URL[strings.LastIndexByte(s.URL, ':')+1:]+"=s")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	until := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("no %q before the end: %v", want, lines.Err())
	}
	until("retry: 1000")
	more <- struct{}{}
	until("event: who")
	until(`data: {"name":"ann"}`)
	v.ended.Store(true)
	more <- struct{}{}
	until(`data: {"reason":"signed_out"}`)
	if lines.Scan() && lines.Scan() {
		t.Errorf("goes on with %q", lines.Text())
	}
}
