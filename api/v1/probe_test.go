package v1

import (
	"net/http"
	"strings"
	"testing"
)

func TestProbe(t *testing.T) {
	b := newBench(t)
	if a := b.do("POST", "/v1/probes", `{"kind":"ping","target":"192.0.2.2","count":2,"interval":"10ms"}`); a.StatusCode != http.StatusOK || !strings.Contains(a.body, `"median":80.5`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for body, says := range map[string]string{
		`{"kind":"udp","target":"192.0.2.2"}`:                 `"field":"port"`,
		`{"kind":"ping","target":"192.0.2.2","speed":"fast"}`: "speed",
		`{"kind":"ping","target":"nowhere"}`:                  "nowhere",
	} {
		if a := b.do("POST", "/v1/probes", body); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, says) {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.body)
		}
	}
	if a := b.do("POST", "/v1/probes", `{"kind":"ping","target":"192.0.2.2"}`, "Authorization", "Bearer viewer"); a.StatusCode != http.StatusForbidden {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
