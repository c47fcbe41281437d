package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
)

type nobody struct{}

func (nobody) Authenticate(context.Context, string, netip.AddrPort) (auth.Identity, error) {
	return auth.Identity{}, fault.New(fault.Unauthenticated, "a token is needed")
}

func serve(t *testing.T, s *Site) *httptest.Server {
	t.Helper()
	gate, err := httpapi.NewGate(httpapi.Config{Auth: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	fail := func(w http.ResponseWriter, _ *http.Request, p httpapi.Problem) { w.WriteHeader(p.Status) }
	root := httpapi.Door{Prefix: "/", Fail: fail, Routes: []httpapi.Route{{Method: "GET", Path: "/{$}", Open: true, Serve: s.Page}}}
	srv := httptest.NewServer(gate.Handler(root, s.Door(fail)))
	t.Cleanup(srv.Close)
	return srv
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

var made = fstest.MapFS{
	"index.html":       {Data: []byte("<!DOCTYPE html><script src=/assets/a.js></script>")},
	"assets/a.js":      {Data: bytes.Repeat([]byte("let a;\n"), 500)},
	"assets/b.css":     {Data: []byte("a{}")},
	"assets/c.svg":     {Data: []byte("<svg/>")},
	"assets/d/e.js":    {Data: []byte("no")},
	"secret/hidden.js": {Data: []byte("no")},
}

func TestFiles(t *testing.T) {
	srv := serve(t, &Site{files: made, packed: map[string][]byte{}})
	for path, want := range map[string]struct {
		status int
		media  string
	}{
		"/":                               {200, "text/html; charset=utf-8"},
		"/assets/a.js":                    {200, "text/javascript; charset=utf-8"},
		"/assets/b.css":                   {200, "text/css; charset=utf-8"},
		"/assets/c.svg":                   {200, "image/svg+xml"},
		"/assets/none.js":                 {404, ""},
		"/assets/d":                       {404, ""},
		"/assets/d%2Fe.js":                {404, ""},
		"/assets/..%2Fsecret%2Fhidden.js": {404, ""},
		"/assets/%2E%2E":                  {404, ""},
		"/assets/":                        {404, ""},
	} {
		resp, body := get(t, srv.URL+path)
		if resp.StatusCode != want.status || want.media != "" && resp.Header.Get("Content-Type") != want.media || bytes.Equal(body, []byte("no")) {
			t.Errorf("%s: %d %s %q", path, resp.StatusCode, resp.Header.Get("Content-Type"), body)
		}
		if cached := strings.Contains(resp.Header.Get("Cache-Control"), "immutable"); cached != (want.status == 200 && path != "/") {
			t.Errorf("%s: Cache-Control %q", path, resp.Header.Get("Cache-Control"))
		}
	}
	resp, body := get(t, srv.URL+"/assets/a.js", "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" || !strings.Contains(resp.Header.Get("Vary"), "Accept-Encoding") {
		t.Fatalf("%v, %v", resp.Header, err)
	}
	if plain, err := io.ReadAll(z); err != nil || !bytes.Equal(plain, made["assets/a.js"].Data) {
		t.Errorf("%d octets, %v", len(plain), err)
	}
}

func TestPolicy(t *testing.T) {
	for name, s := range map[string]*Site{"built": {files: made, packed: map[string][]byte{}}, "not built": {}} {
		resp, body := get(t, serve(t, s).URL+"/")
		p := resp.Header.Get("Content-Security-Policy")
		for _, not := range []string{"unsafe", "*", "http:", "data:", "blob:"} {
			if strings.Contains(p, not) {
				t.Errorf("%s: the policy allows %s: %s", name, not, p)
			}
		}
		for _, must := range []string{"default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(p, must) {
				t.Errorf("%s: the policy lacks %s", name, must)
			}
		}
		if (name == "not built") != strings.Contains(string(body), "The dashboard was not built") {
			t.Errorf("%s: %s", name, body)
		}
	}
}

// TestWhatWasBuilt looks at the real site, if there is one.
func TestWhatWasBuilt(t *testing.T) {
	s := New()
	if !s.Built() {
		t.Skip("needs the dashboard, which make builds when npm is there")
	}
	page, err := fs.ReadFile(s.files, "index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, inline := range []string{"<style", "style=", "onload=", "javascript:"} {
		if bytes.Contains(page, []byte(inline)) {
			t.Errorf("the page has %s, which its policy forbids", inline)
		}
	}
	if regexp.MustCompile(`<script[^>]*>[^<]`).Match(page) {
		t.Error("the page has an inline script, which its policy forbids")
	}
	// What is loaded first: all that the page names.
	total := 0
	for _, m := range regexp.MustCompile(`/(assets/[^"]+\.js)"`).FindAllSubmatch(page, -1) {
		name := string(m[1])
		plain, err := fs.ReadFile(s.files, name)
		if err != nil {
			t.Fatal(err)
		}
		packed, err := s.pack(name, plain)
		if err != nil {
			t.Fatal(err)
		}
		total += len(packed)
	}
	if total == 0 || total > 250<<10 {
		t.Errorf("%d octets of gzipped JavaScript at first load; at most %d are to be", total, 250<<10)
	}
	t.Logf("%d octets of gzipped JavaScript at first load", total)
}
