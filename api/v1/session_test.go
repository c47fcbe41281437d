package v1

import (
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3filter"
)

func init() {
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.FileBodyDecoder)
}

func TestSessionRoutes(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		has                      string
	}{
		{"who am I", "GET", "/v1/session", "", nil, 200, `"administer"`},
		{"nobody", "GET", "/v1/session", "", []string{"Authorization", ""}, 200, `"via":"nobody"`},
		{"a wrong token", "GET", "/v1/session", "", []string{"Authorization", "Bearer wrong"}, 401, `"unauthenticated"`},
		{"open", "POST", "/v1/session", `{"token":"ci"}`, []string{"Authorization", ""}, 201, `"read_payload"`},
		{"open with a code", "POST", "/v1/session", `{"code":"once"}`, []string{"Authorization", ""}, 201, `"expires"`},
		{"open with a wrong token", "POST", "/v1/session", `{"token":"x"}`, []string{"Authorization", ""}, 401, `"unauthenticated"`},
		{"open by a form", "POST", "/v1/session", `token=ci`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, ``},
		{"open from another site", "POST", "/v1/session", `{"token":"ci"}`, []string{"Origin", "http://evil.example"}, 403, `forbidden`},
		{"close", "DELETE", "/v1/session", "", nil, 204, ""},
		{"code", "POST", "/v1/session/code", "", nil, 201, `"oc_code"`},
		{"events", "GET", "/v1/events", "", nil, 200, "event: begin\ndata: {\"name\":\"virgo\"}\n"},
		{"events of nobody", "GET", "/v1/events", "", []string{"Authorization", ""}, 401, ""},
		{"events with a query", "GET", "/v1/events?x=1", "", nil, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			a := b.do(c.method, c.path, c.body, c.header...)
			if a.StatusCode != c.status || !strings.Contains(a.body, c.has) {
				t.Errorf("got %d %s; want %d with %s", a.StatusCode, a.body, c.status, c.has)
			}
			for _, cookie := range a.Cookies() {
				if strings.Contains(a.body, "os_text") || cookie.Value != "os_text" && cookie.MaxAge >= 0 || !cookie.HttpOnly {
					t.Errorf("%v: %s", cookie, a.body)
				}
			}
		})
	}
}
