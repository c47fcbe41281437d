package v1

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"opentap/api/httpapi"
	"opentap/fault"
	"opentap/ledger"
	"opentap/point"
	"opentap/want"
)

func TestRoutes(t *testing.T) {
	b := newBench(t)
	b.ctl.Polls = -1
	b.do("POST", "/v1/captures", `{"id":"a/b ü..","kind":"pcap","duration":"5s"}`)
	b.do("POST", "/v1/captures", `{"id":"later","kind":"netflow"}`)
	b.ctl.Set("later", func(v *want.View) { v.Status.State = want.Scheduled })
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		has                      string
	}{
		{"health needs nobody", "GET", "/healthz", "", []string{"Authorization", ""}, 200, `"ok"`},
		{"ready needs nobody", "GET", "/readyz", "", []string{"Authorization", ""}, 200, `"ready"`},
		{"document needs nobody", "GET", "/openapi.json", "", []string{"Authorization", ""}, 200, `"3.1.0"`},
		{"version needs somebody", "GET", "/v1/version", "", []string{"Authorization", ""}, 401, `"unauthenticated"`},
		{"version", "GET", "/v1/version", "", nil, 200, `"1.2.3"`},
		{"x-auth-token", "GET", "/v1/version", "", []string{"Authorization", "", "X-Auth-Token", "admin"}, 200, `"v1"`},
		{"bad token", "GET", "/v1/points", "", []string{"Authorization", "Bearer nonsense"}, 401, `not known`},
		{"basic", "GET", "/v1/points", "", []string{"Authorization", "Basic YTpi"}, 401, `Bearer`},
		{"throttled", "GET", "/v1/points", "", []string{"Authorization", "Bearer busy"}, 429, `"retry_after_seconds":7`},
		{"points", "GET", "/v1/points", "", nil, 200, `"uplink"`},
		{"point by alias", "GET", "/v1/points/uplink", "", nil, 200, `"eth0"`},
		{"point by node", "GET", "/v1/points/virgo%2Feth1", "", nil, 200, `"eth1"`},
		{"point with a slash and a space", "GET", "/v1/points/coretemp%2FCore%200", "", nil, 200, `"Cel"`},
		{"no point", "GET", "/v1/points/eth9", "", nil, 404, `"not_found"`},
		{"capabilities", "GET", "/v1/capabilities", "", nil, 200, `"capture_kinds"`},
		{"nodes", "GET", "/v1/nodes", "", nil, 200, `"virgo"`},
		{"node", "GET", "/v1/nodes/virgo", "", nil, 200, `"n1"`},
		{"no node", "GET", "/v1/nodes/libra", "", nil, 404, `"not_found"`},
		{"revoke node", "POST", "/v1/nodes/virgo/revoke", "", nil, 200, `"revoked"`},
		{"may not revoke a node", "POST", "/v1/nodes/virgo/revoke", "", []string{"Authorization", "Bearer viewer"}, 403, `"forbidden"`},
		{"forget node", "DELETE", "/v1/nodes/virgo", "", nil, 204, ``},
		{"join token", "POST", "/v1/nodes/join-tokens", `{"life":"30m","node":"libra"}`, nil, 201, `"otj_secret"`},
		{"join token without an end", "POST", "/v1/nodes/join-tokens", `{"life":"-1s"}`, nil, 400, `life`},
		{"may not make a join token", "POST", "/v1/nodes/join-tokens", `{}`, []string{"Authorization", "Bearer viewer"}, 403, `"forbidden"`},
		{"join tokens", "GET", "/v1/nodes/join-tokens", "", nil, 200, `"used_by":"virgo"`},
		{"forget join token", "DELETE", "/v1/nodes/join-tokens/aaaabbbbccccdddd", "", nil, 204, ``},
		{"forget no join token", "DELETE", "/v1/nodes/join-tokens/x", "", nil, 404, `"not_found"`},
		{"projects", "GET", "/v1/projects", "", nil, 200, `"red"`},
		{"project", "GET", "/v1/projects/red", "", nil, 200, `"points":["*/tap-red-*"]`},
		{"no project", "GET", "/v1/projects/green", "", nil, 404, `"not_found"`},
		{"set project", "PUT", "/v1/projects/red", `{"points":["left/*"],"bytes":1000,"max_retention":"24h"}`, nil, 200, `"left/*"`},
		{"new project", "PUT", "/v1/projects/blue", `{}`, nil, 201, `"blue"`},
		{"wrong project", "PUT", "/v1/projects/blue", `{"captures":-1}`, nil, 400, `captures`},
		{"may not set a project", "PUT", "/v1/projects/red", `{}`, []string{"Authorization", "Bearer viewer"}, 403, `"forbidden"`},
		{"delete project", "DELETE", "/v1/projects/red", "", nil, 204, ``},
		{"delete no project", "DELETE", "/v1/projects/green", "", nil, 404, `"not_found"`},
		{"accept store", "POST", "/v1/store/accept", "", nil, 200, `"replaces":["a"]`},
		{"captures", "GET", "/v1/captures", "", nil, 200, `"captures":[{`},
		{"capture with an odd id", "GET", "/v1/captures/a%2Fb%20%C3%BC..", "", nil, 200, `"a/b ü.."`},
		{"no such capture", "GET", "/v1/captures/none", "", nil, 404, `"not_found"`},
		{"ledger", "GET", "/v1/captures/later/ledger", "", nil, 200, `"kernel_ring":0`},
		{"no ledger", "GET", "/v1/captures/none/ledger", "", nil, 404, `"not_found"`},
		{"data too early", "GET", "/v1/captures/later/data", "", nil, 409, `"not_ready"`},
		{"head too early", "HEAD", "/v1/captures/later/data", "", nil, 409, ``},
		{"data of none", "GET", "/v1/captures/none/data", "", nil, 404, `"not_found"`},
		{"may not read", "GET", "/v1/captures/later/data", "", []string{"Authorization", "Bearer viewer"}, 403, `"forbidden"`},
		{"may not start", "POST", "/v1/captures", `{"kind":"pcap"}`, []string{"Authorization", "Bearer viewer"}, 403, `viewer`},
		{"wrong format", "GET", "/v1/captures/later/data?format=pcap", "", nil, 400, `"field":"format"`},
		{"unknown format", "GET", "/v1/captures/later/data?format=exe", "", nil, 400, `"field":"format"`},
		{"unknown query parameter", "GET", "/v1/captures?limt=5", "", nil, 400, `"limt"`},
		{"not acceptable", "GET", "/v1/captures/later/data", "", []string{"Accept", "image/png"}, 406, `text/csv`},
		{"stop none", "POST", "/v1/captures/none/stop", "", nil, 404, `"not_found"`},
		{"stop", "POST", "/v1/captures/later/stop", "", nil, 200, `"stopped"`},
		{"delete", "DELETE", "/v1/captures/later", "", nil, 204, ``},
		{"delete again", "DELETE", "/v1/captures/later", "", nil, 404, `"not_found"`},
		{"filter", "POST", "/v1/filter/check", `{"filter":"tcp"}`, nil, 200, `"(tcp)"`},
		{"judged filter", "POST", "/v1/filter/check", `{"filter":"tcp and bogus","judge":true}`, nil, 200, `"position":9`},
		{"judged good filter", "POST", "/v1/filter/check", `{"filter":"tcp","judge":true}`, nil, 200, `"(tcp)"`},
		{"bad filter", "POST", "/v1/filter/check", `{"filter":"tcp and bogus"}`, nil, 400, `"position":9`},
		{"tokens", "GET", "/v1/tokens", "", nil, 200, `"analyst"`},
		{"token", "POST", "/v1/tokens", `{"name":"ci","role":"analyst","life":"720h"}`, nil, 201, `"ot_abc_secret"`},
		{"token of no name", "POST", "/v1/tokens", `{"name":"","role":"analyst"}`, nil, 400, `"field":"name"`},
		{"token with a number for a life", "POST", "/v1/tokens", `{"name":"ci","role":"analyst","life":3600}`, nil, 400, `life`},
		{"may not make tokens", "POST", "/v1/tokens", `{"name":"ci","role":"admin"}`, []string{"Authorization", "Bearer viewer"}, 403, `"forbidden"`},
		{"revoke", "DELETE", "/v1/tokens/ci", "", nil, 200, `"revoked"`},
		{"revoke none", "DELETE", "/v1/tokens/none", "", nil, 404, `"not_found"`},
		{"recorders", "GET", "/v1/recorders", "", nil, 200, `"configuration"`},
		{"recorder", "GET", "/v1/recorders/eth0", "", nil, 200, `"read_by"`},
		{"recorder of none", "GET", "/v1/recorders/eth9", "", nil, 404, `"not_found"`},
		{"set recorder", "PUT", "/v1/recorders/eth1", `{"bytes":1073741824,"age":"6h","filter":"tcp","snap":128,"compress":"zstd"}`, nil, 201, `"compress":"zstd"`},
		{"recorder without a budget", "PUT", "/v1/recorders/eth1", `{}`, nil, 400, `"field":"bytes"`},
		{"recorder of the configuration", "PUT", "/v1/recorders/eth0", `{"bytes":1073741824}`, nil, 409, `"conflict"`},
		{"recorder with a field that is none", "PUT", "/v1/recorders/eth1", `{"bytes":1073741824,"fanouts":2}`, nil, 400, `fanouts`},
		{"recorder with a fanout", "PUT", "/v1/recorders/eth1", `{"bytes":1073741824,"fanout":2}`, nil, 201, `"fanout":2`},
		{"may not set recorders", "PUT", "/v1/recorders/eth1", `{"bytes":1073741824}`, []string{"Authorization", "Bearer viewer"}, 403, `"forbidden"`},
		{"delete recorder", "DELETE", "/v1/recorders/eth1", "", nil, 204, ``},
		{"delete no recorder", "DELETE", "/v1/recorders/eth9", "", nil, 404, `"not_found"`},
		{"wrong method", "PUT", "/v1/captures", "", nil, 405, `GET, HEAD, POST`},
		{"no path", "GET", "/v1/nowhere", "", nil, 404, `"request_id"`},
		{"dots are no path", "GET", "/v1/captures/%2E%2E/data", "", nil, 404, `"not_found"`},
		{"empty id", "GET", "/v1/captures//data", "", nil, 404, `"not_found"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			a := b.do(c.method, c.path, c.body, c.header...)
			if a.StatusCode != c.status || !strings.Contains(a.body, c.has) {
				t.Errorf("got %d %s; want %d with %s", a.StatusCode, a.body, c.status, c.has)
			}
			if a.Header.Get("X-Request-Id") == "" {
				t.Error("no request id")
			}
			switch {
			case a.StatusCode == 401 && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer"),
				(a.StatusCode == 429 || a.StatusCode == 503) && a.Header.Get("Retry-After") == "":
				t.Errorf("%d without its header", a.StatusCode)
			}
		})
	}
}

func TestCreate(t *testing.T) {
	b := newBench(t)
	a := b.do("POST", "/v1/captures", `{"id":"..","kind":"pcap","points":["eth1"],"from":"2026-01-02T04:00:00Z","to":"2026-01-02T05:00:00Z","filter":"tcp","limits":{"packets":5},"snap":96,"retain":"2h"}`)
	if a.StatusCode != 201 || a.Header.Get("Location") != "/v1/captures/%2E%2E" {
		t.Fatalf("%d, Location %q: %s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	got := b.ctl.Requests()[0]
	if got.Snap != 96 || got.Limits.Packets != 5 || got.Retain != want.Duration(2*time.Hour) || got.MovePast {
		t.Errorf("controller got %+v", got)
	}
	if a := b.do("GET", a.Header.Get("Location"), ""); a.StatusCode != 200 {
		t.Errorf("its Location answers %d", a.StatusCode)
	}
	same := `{"id":"x","kind":"pcap"}`
	if a := b.do("POST", "/v1/captures", same); a.StatusCode != 201 {
		t.Error(a.StatusCode)
	}
	if a := b.do("POST", "/v1/captures", same); a.StatusCode != 200 {
		t.Error(a.StatusCode)
	}
	if a := b.do("POST", "/v1/captures", `{"id":"x","kind":"netflow"}`); a.StatusCode != 409 {
		t.Error(a.StatusCode)
	}
}

func TestCreateRefuses(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ body, field, text string }{
		{`{"kind":"pcap","pionts":["eth0"]}`, "pionts", "no such field"},
		{`{"kind":"pcap","limits":{"packet":1}}`, "limits.packet", "no such field"},
		{`{"Kind":"pcap"}`, "Kind", "no such field"},
		{`{"kind":"pcap","kind":"netflow"}`, "kind", "twice"},
		{`{"kind":7}`, "kind", "text"},
		{`{"kind":"pcap","duration":5}`, "duration", "number"},
		{`{"kind":"pcap","duration":"5"}`, "duration", "not a duration"},
		{`{"kind":"pcap","from":"yesterday"}`, "from", "RFC 3339"},
		{`{"kind":"pcap","limits":{"packets":-1}}`, "limits.packets", "0 or more"},
		{`{"kind":"pcap","points":"eth0"}`, "points", "list"},
		{`{"kind":"pcap","MovePast":true}`, "MovePast", "no such field"},
		{`{"kind":"pcap","duration":"5s","to":"2027-01-01T00:00:00Z"}`, "duration", "either"},
		{`{"kind":"pcap","snap":-1}`, "snap", "negative"},
		{`{}`, "kind", "missing"},
		{`{"kind":"pcap"} {}`, "", "goes on"},
		{`{"kind":"pcap"`, "", "too early"},
		{`null`, "", "null"},
		{`[]`, "", "object"},
		{`nonsense`, "", "not JSON"},
		{`{"kind":"pcap","filter":"bogus"}`, "filter", "bogus"},
		{strings.Repeat(`[`, 100), "", "nested"},
	} {
		a := b.do("POST", "/v1/captures", c.body)
		var e ErrorBody
		if err := json.Unmarshal([]byte(a.body), &e); err != nil {
			t.Fatal(err)
		}
		if a.StatusCode != 400 || e.Error.Kind != "invalid" || (c.field != "" && e.Error.Field != c.field) || !strings.Contains(e.Error.Message, c.text) {
			t.Errorf("%s: got %d %s", c.body, a.StatusCode, a.body)
		}
	}
	if a := b.do("POST", "/v1/captures", `{"kind":"pcap"}`, "Content-Type", "text/plain"); a.StatusCode != 415 {
		t.Error(a.StatusCode)
	}
	if a := b.do("POST", "/v1/captures", `{"id":"`+strings.Repeat("x", 2<<20)+`"}`); a.StatusCode != 413 {
		t.Error(a.StatusCode)
	}
	if n := len(b.ctl.Requests()); n != 1 { // the filter is the controller's to refuse
		t.Errorf("%d requests reached the controller", n)
	}
}

func TestData(t *testing.T) {
	b := newBench(t)
	b.ctl.Payload = []byte("0123456789")
	b.do("POST", "/v1/captures", `{"id":"c","kind":"ethernet"}`)
	b.ctl.Set("c", func(v *want.View) {
		v.Status.State = want.Done
		v.Status.Ledger.Dropped[ledger.Disk] = 3
		v.Status.Ledger.FilterUncounted = true
	})
	full := b.do("GET", "/v1/captures/c/data", "")
	etag := full.Header.Get("ETag")
	for k, v := range map[string]string{
		"Content-Type": "text/csv", "Content-Length": "10", "Accept-Ranges": "bytes", "OpenTap-Final": "true", "OpenTap-Ledger-Seen": "150",
		"OpenTap-Ledger-Dropped": "3", "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT", "Content-Disposition": "attachment; filename=capture.csv",
		"OpenTap-Ledger": "seen=150;captured=100;filtered=50;sampled-out=0;rate-limited=0;dropped=3;dropped-kernel-ring=0;dropped-disk=3;dropped-memory=0;dropped-limit=0;dropped-corrupt=0;dropped-other=0;dropped-slow-reader=0;filter-uncounted=1",
	} {
		if full.Header.Get(k) != v {
			t.Errorf("%s: %q, want %q", k, full.Header.Get(k), v)
		}
	}
	for _, c := range []struct {
		name   string
		header []string
		status int
		body   string
		rng    string
	}{
		{"tail", []string{"Range", "bytes=4-"}, 206, "456789", "bytes 4-9/10"},
		{"middle", []string{"Range", "bytes=2-3"}, 206, "23", "bytes 2-3/10"},
		{"suffix", []string{"Range", "bytes=-3"}, 206, "789", "bytes 7-9/10"},
		{"clipped", []string{"Range", "bytes=8-99"}, 206, "89", "bytes 8-9/10"},
		{"same snapshot", []string{"Range", "bytes=5-", "If-Range", etag}, 206, "56789", "bytes 5-9/10"},
		{"other snapshot", []string{"Range", "bytes=5-", "If-Range", `"other"`}, 200, "0123456789", ""},
		{"same date", []string{"Range", "bytes=5-", "If-Range", "Fri, 02 Jan 2026 03:04:05 GMT"}, 206, "56789", "bytes 5-9/10"},
		{"weak tag", []string{"Range", "bytes=5-", "If-Range", "W/" + etag}, 200, "0123456789", ""},
		{"two ranges are ignored", []string{"Range", "bytes=0-1,4-5"}, 200, "0123456789", ""},
		{"nonsense is ignored", []string{"Range", "bytes=a-b"}, 200, "0123456789", ""},
		{"backwards is ignored", []string{"Range", "bytes=5-2"}, 200, "0123456789", ""},
		{"behind the end", []string{"Range", "bytes=10-"}, 416, "", "bytes */10"},
		{"none match", []string{"If-None-Match", etag}, 304, "", ""},
		{"match fails", []string{"If-Match", `"other"`}, 412, "", ""},
		{"accept", []string{"Accept", "application/x-ndjson;q=0.9, text/csv;q=0.1"}, 200, "0123456789", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			a := b.do("GET", "/v1/captures/c/data", "", c.header...)
			if a.StatusCode != c.status || a.StatusCode < 300 && a.body != c.body || a.Header.Get("Content-Range") != c.rng {
				t.Errorf("%d %q %q", a.StatusCode, a.body, a.Header.Get("Content-Range"))
			}
			if c.name == "accept" && a.Header.Get("Content-Type") != "application/x-ndjson" {
				t.Error(a.Header.Get("Content-Type"))
			}
		})
	}
	b.t = t
	if a := b.do("HEAD", "/v1/captures/c/data?format=parquet", ""); a.StatusCode != 200 || a.ContentLength != 10 || a.Header.Get("Content-Type") != "application/vnd.apache.parquet" {
		t.Errorf("%d, length %d, %s", a.StatusCode, a.ContentLength, a.Header.Get("Content-Type"))
	}
	b.ctl.Unsized = true
	if a := b.do("GET", "/v1/captures/c/data", "", "Range", "bytes=3-"); a.StatusCode != 200 || a.body != "0123456789" || a.Header.Get("Accept-Ranges") != "none" {
		t.Errorf("unsized: %d %q", a.StatusCode, a.body)
	}
}

func TestDataNeverEndsCleanlyShort(t *testing.T) {
	b := newBench(t)
	b.do("POST", "/v1/captures", `{"id":"c","kind":"ethernet"}`)
	for _, unsized := range []bool{false, true} {
		b.ctl.Change(func() { b.ctl.Broken, b.ctl.Unsized = 500, unsized })
		req, _ := http.NewRequest("GET", b.srv.URL+"/v1/captures/c/data", nil)
		req.Header.Set("Authorization", "Bearer admin")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // cut off before the headers were out
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("unsized %v: %d octets and a clean end", unsized, len(data))
		}
	}
}

func TestInternalErrorsStayInside(t *testing.T) {
	b := newBench(t)
	b.ctl.Fail["Points"] = io.ErrUnexpectedEOF
	a := b.do("GET", "/v1/points", "", "X-Request-Id", "my-ref-1")
	if a.StatusCode != 500 || strings.Contains(a.body, "EOF") || !strings.Contains(a.body, "my-ref-1") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	b.ctl.Fail["Points"] = &fault.Error{Kind: fault.Unavailable, Msg: "the node is away", RetryAfter: 1500 * time.Millisecond}
	if a := b.do("GET", "/v1/points", ""); a.StatusCode != 503 || a.Header.Get("Retry-After") != "2" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestTheProofProves breaks an answer and expects the contract check to see it.
func TestTheProofProves(t *testing.T) {
	doc := loadDocument(t)
	schema := doc.Components.Schemas["Version"].Value
	good := map[string]any{"product": "opentap", "version": "1", "api": "v1", "go": "go1"}
	if err := schema.VisitJSON(good, openapi3.EnableJSONSchema2020()); err != nil {
		t.Fatal(err)
	}
	good["extra"] = 1
	if schema.VisitJSON(good, openapi3.EnableJSONSchema2020()) == nil {
		t.Error("a field that is not in the document passed")
	}
	delete(good, "extra")
	delete(good, "api")
	if schema.VisitJSON(good, openapi3.EnableJSONSchema2020()) == nil {
		t.Error("a missing field passed")
	}
}

func TestPointOfSeveralNodes(t *testing.T) {
	b := newBench(t)
	b.ctl.List = []point.Point{{Name: "eth0", Node: "a", Kind: point.Netdev}, {Name: "eth0", Node: "b", Kind: point.Netdev}}
	if a := b.do("GET", "/v1/points/eth0", ""); a.StatusCode != 400 || !strings.Contains(a.body, "b/eth0") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := b.do("GET", "/v1/points/b%2Feth0", ""); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func FuzzCaptureBody(f *testing.F) {
	f.Add([]byte(`{"id":"x","kind":"pcap","points":["eth0"],"from":"2026-01-02T04:00:00Z","duration":"5s","limits":{"packets":5}}`))
	f.Add([]byte(`{"kind":null,"limits":[{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var q, again want.Request
		if httpapi.ParseJSON(body, &q) != nil || checkRequest(&q) != nil {
			return
		}
		out, err := json.Marshal(q)
		if err != nil {
			return // years beyond 9999 cannot be written
		}
		if err := httpapi.ParseJSON(out, &again); err != nil {
			t.Fatalf("%s was taken, %s is not: %v", body, out, err)
		}
	})
}

func FuzzFilterBody(f *testing.F) {
	f.Add([]byte(`{"filter":"tcp port 80","strict":true}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var q FilterCheck
		_ = httpapi.ParseJSON(body, &q)
	})
}

func FuzzEscapeID(f *testing.F) {
	f.Add("..")
	f.Add("a/b")
	f.Fuzz(func(t *testing.T, id string) {
		if id == "" {
			return
		}
		req, err := http.NewRequest("GET", "http://localhost/v1/captures/"+EscapeID(id), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := req.URL.Path; got != "/v1/captures/"+id {
			t.Fatalf("%q became %q", id, got)
		}
	})
}
