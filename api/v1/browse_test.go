package v1

import (
	"strings"
	"testing"
)

func TestBrowseRoutes(t *testing.T) {
	b := newBench(t)
	b.do("POST", "/v1/captures", `{"id":"c","kind":"pcap"}`)
	for path, want := range map[string]struct {
		status int
		has    string
	}{
		"/v1/audit":                      {200, `"capture.start"`},
		"/v1/audit?actor=nobody&limit=5": {200, `"entries":[]`},
		"/v1/audit?limit=5000":           {400, `"field":"limit"`},
		"/v1/audit/verify":               {200, `"whole":true`},
		"/v1/captures/c/packets":         {200, `"query A example.com"`},
		"/v1/captures/c/packets?from=5&limit=0&filter=tcp&strict=1": {200, `"packets":[]`},
		"/v1/captures/c/packets?at=2026-01-02T03:04:05.5Z":          {200, `"total":1`},
		"/v1/captures/c/packets?limit=501":                          {400, `"field":"limit"`},
		"/v1/captures/c/packets?from=-1":                            {400, `"field":"from"`},
		"/v1/captures/c/packets?at=yesterday":                       {400, `"field":"at"`},
		"/v1/captures/c/packets?strict=maybe":                       {400, `"field":"strict"`},
		"/v1/captures/c/packets?limits=5":                           {400, `"field":"limits"`},
		"/v1/captures/none/packets":                                 {404, `"not_found"`},
		"/v1/captures/c/packets/0":                                  {200, `"YWJjZA=="`},
		"/v1/captures/c/packets/7":                                  {404, `"not_found"`},
		"/v1/captures/c/packets/x":                                  {404, `from 0`},
		"/v1/captures/c/timeline?steps=10":                          {200, `"step":"1s"`},
		"/v1/captures/c/timeline?steps=5000":                        {400, `"field":"steps"`},
		"/v1/captures/c/flows/top":                                  {200, `"key":["src","dst"]`},
		"/v1/captures/c/flows/top?by=&top=3":                        {200, `"by":[]`},
		"/v1/captures/c/flows/top?top=2000":                         {400, `"field":"top"`},
		"/v1/captures/c/flows/series?by=proto&step=5s":              {200, `"step":"5s"`},
		"/v1/captures/c/flows/series?step=5":                        {400, `"field":"step"`},
	} {
		a := b.do("GET", path, "")
		if a.StatusCode != want.status || !strings.Contains(a.body, want.has) {
			t.Errorf("%s: %d %s; want %d with %s", path, a.StatusCode, a.body, want.status, want.has)
		}
	}
	if a := b.do("GET", "/v1/captures/c/packets", "", "Authorization", "Bearer viewer"); a.StatusCode != 403 {
		t.Errorf("who may not read looks: %d", a.StatusCode)
	}
}
