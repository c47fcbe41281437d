package v1

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"go.uber.org/goleak"

	"opentap/api/doortest"
	"opentap/api/httpapi"
)

func TestMain(m *testing.M) {
	for _, mt := range []string{"application/x-pcapng", "application/vnd.tcpdump.pcap", "application/x-ndjson", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream", "text/csv"} {
		openapi3filter.RegisterBodyDecoder(mt, openapi3filter.FileBodyDecoder)
	}
	goleak.VerifyTestMain(m)
}

func loadDocument(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(Document())
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestDocumentIsValid(t *testing.T) {
	doc := loadDocument(t)
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", doc.OpenAPI)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestDocumentHasEveryRouteAndNoOther(t *testing.T) {
	doc := loadDocument(t)
	have := map[string]bool{}
	for _, rt := range New(doortest.New(), Config{}).Routes {
		have[rt.Method+" "+rt.Path] = true
		item := doc.Paths.Value(rt.Path)
		if item == nil || item.GetOperation(rt.Method) == nil {
			t.Errorf("%s %s is served and not in the document", rt.Method, rt.Path)
			continue
		}
		if open := item.GetOperation(rt.Method).Security != nil; open != rt.Open {
			t.Errorf("%s %s: open %v, the document says %v", rt.Method, rt.Path, rt.Open, open)
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !have[method+" "+path] {
				t.Errorf("%s %s is in the document and not served", method, path)
			}
		}
	}
}

// bench is a door with a gate whose every answer is held against the document.
type bench struct {
	t   testing.TB
	ctl *doortest.Controller
	doc *openapi3.T
	srv *httptest.Server
	// routed is the pattern and path values of the last request.
	routed atomic.Pointer[http.Request]
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, ctl: doortest.New(), doc: loadDocument(t)}
	gate, err := httpapi.NewGate(httpapi.Config{Auth: doortest.Users()})
	if err != nil {
		t.Fatal(err)
	}
	door := New(b.ctl, Config{Version: "1.2.3"})
	for i := range door.Routes {
		serve := door.Routes[i].Serve
		door.Routes[i].Serve = func(w http.ResponseWriter, r *http.Request) error {
			b.routed.Store(r)
			return serve(w, r)
		}
	}
	b.srv = httptest.NewUnstartedServer(nil)
	b.srv.Config = gate.Server(gate.Handler(door))
	b.srv.Start()
	t.Cleanup(func() {
		b.srv.Close()
		http.DefaultClient.CloseIdleConnections()
		if n := b.ctl.Held(); n != 0 {
			t.Errorf("%d retrievals were not closed", n)
		}
	})
	return b
}

type answer struct {
	*http.Response
	body string
}

// do sends a request as admin and checks the answer. header is pairs; a token given there replaces admin's.
func (b *bench) do(method, path, body string, header ...string) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, b.srv.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer admin")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	b.routed.Store(nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.check(req, resp, data)
	return answer{resp, string(data)}
}

// check holds the answer against the document.
func (b *bench) check(req *http.Request, resp *http.Response, body []byte) {
	b.t.Helper()
	routed := b.routed.Load()
	if routed == nil {
		// Refused before it reached a route: no operation tells the answer, but the shape of errors does.
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			b.t.Errorf("%s %s: %v: %s", req.Method, req.URL, err, body)
		} else if err := b.doc.Components.Schemas["Error"].Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
			b.t.Errorf("%s %s: %v: %s", req.Method, req.URL, err, body)
		}
		return
	}
	pattern := routed.Pattern[strings.IndexByte(routed.Pattern, ' ')+1:]
	item := b.doc.Paths.Value(pattern)
	if item == nil {
		b.t.Fatalf("no %s in the document", pattern)
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: req,
			Route:   &routers.Route{Spec: b.doc, Path: pattern, PathItem: item, Method: req.Method, Operation: item.GetOperation(req.Method)},
		},
		Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: req.Method == http.MethodHead},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), in); err != nil {
		b.t.Errorf("%s %s → %d does not keep the document: %v\n%s", req.Method, req.URL, resp.StatusCode, err, body)
	}
}
