package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestMetricsAreForThoseWhoMaySeeMetadata(t *testing.T) {
	p := launch(t, "127.0.0.1:0", nil)
	scrape := func(p *process, path, token string) (int, string) {
		req, err := http.NewRequest("GET", "http://"+p.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, text := scrape(p, "/metrics", ""); code != 401 || strings.Contains(text, "opentap_packets") {
		t.Errorf("without a token: %d", code)
	}
	if code, _ := scrape(p, "/metrics", "ot_wrong"); code != 401 {
		t.Errorf("with a wrong token: %d", code)
	}
	if code, _ := scrape(p, "/v1/points", p.token); code != 200 {
		t.Errorf("points: %d", code)
	}
	code, text := scrape(p, "/metrics", p.token)
	if code != 200 {
		t.Fatalf("with a token: %d %s", code, text)
	}
	for _, has := range []string{
		`opentap_http_requests_total{code="200",method="GET",route="/v1/points"} 1`,
		`opentap_http_requests_total{code="401",method="GET",route="/metrics"} 2`, `opentap_node_connected{node="here"}`, "opentap_audit_entries_total ",
	} {
		if !strings.Contains(text, has) {
			t.Errorf("no %s in\n%s", has, text)
		}
	}
	p.stop()

	p = launch(t, "127.0.0.1:0", func(c *config) { c.Metrics.AnonymousRanges = []string{"127.0.0.0/8"} })
	if code, _ := scrape(p, "/metrics", ""); code != 200 {
		t.Errorf("from a listed address: %d", code)
	}
	if code, _ := scrape(p, "/metrics", "ot_wrong"); code != 401 {
		t.Errorf("a wrong token from a listed address: %d", code)
	}
	if code, _ := scrape(p, "/v1/points", ""); code != 401 {
		t.Errorf("the rest, from a listed address: %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
}
