// Package web serves the dashboard: the files that make has built from web/app, and nothing else.
//
// All that the pages show and do goes through /v1, as any script's requests do; there is no way in here.
//
// Runs in: controller
package web

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"opentap/api/httpapi"
	"opentap/fault"
)

//go:embed all:dist
var dist embed.FS

// built is where the build leaves the site.
const built = "dist/site"

// policy lets the page load what is served here and nothing else: no inline script or style, no eval, no other origin, no
// frame. Trusted Types keep any string, whoever sent it, from becoming markup; the one policy is the framework's own.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types svelte-trusted-html"

// Site is the dashboard. It is safe for concurrent use.
type Site struct {
	files fs.FS // nil = not built

	mu     sync.Mutex
	packed map[string][]byte // by name: gzipped when first asked for
}

// New returns the dashboard that was built into this program, or a page that says that none was.
func New() *Site {
	s := &Site{packed: make(map[string][]byte)}
	if _, err := fs.Stat(dist, built+"/index.html"); err == nil {
		s.files, _ = fs.Sub(dist, built) // the path is valid
	}
	return s
}

// Built reports whether there is a dashboard.
func (s *Site) Built() bool { return s.files != nil }

// Door serves the files that the page loads. They need no identity: they are the same for everybody.
func (s *Site) Door(fail func(w http.ResponseWriter, r *http.Request, p httpapi.Problem)) httpapi.Door {
	return httpapi.Door{Name: "web", Prefix: "/assets/", Fail: fail, Routes: []httpapi.Route{
		{Method: "GET", Path: "/assets/{name}", Open: true, Serve: s.asset},
	}}
}

// Page answers GET / for a browser.
func (s *Site) Page(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	if s.files == nil {
		h.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(missing)) // the client may have gone
		return nil
	}
	h.Set("Cache-Control", "no-cache")
	return s.send(w, r, "index.html")
}

// asset serves one file. Its name holds a hash of what is in it, so that it can be kept for ever.
func (s *Site) asset(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if s.files == nil || !fs.ValidPath(name) || strings.Contains(name, "/") {
		return fault.New(fault.NotFound, "no such file")
	}
	if info, err := fs.Stat(s.files, "assets/"+name); err != nil || !info.Mode().IsRegular() {
		return fault.New(fault.NotFound, "no such file; the dashboard may be of another version: load the page anew")
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	return s.send(w, r, "assets/"+name)
}

func (s *Site) send(w http.ResponseWriter, r *http.Request, name string) error {
	plain, err := fs.ReadFile(s.files, name)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", mediaType(name))
	h.Set("Vary", strings.TrimPrefix(h.Get("Vary")+", Accept-Encoding", ", "))
	body := plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		packed, err := s.pack(name, plain)
		if err != nil {
			return err
		}
		if len(packed) < len(plain) {
			body = packed
			h.Set("Content-Encoding", "gzip")
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may have gone
	return nil
}

// pack gzips a file once.
func (s *Site) pack(name string, plain []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.packed[name]; ok {
		return b, nil
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(plain)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("compress %s: %w", name, err)
	}
	s.packed[name] = b.Bytes()
	return b.Bytes(), nil
}

// mediaType does not ask the host's own tables: a browser refuses scripts of another type.
func mediaType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json":
		return "application/json"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// missing is the page of a program that was built without the dashboard.
const missing = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>OpenTap</title></head><body>
<h1>The dashboard was not built</h1>
<p>OpenTap runs. This program was built by <code>go build</code> alone, which leaves the dashboard out.</p>
<p>To have it, build with <code>make</code>, which needs Node.js 20 or later and npm.</p>
<p>Without it: the command <code>opentap</code>, <a href="/openapi.json">the interface for programs</a>, and <code>opentap top</code> in a terminal.</p>
</body></html>
`
