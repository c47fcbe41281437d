package v1

import (
	"strings"
	"testing"

	"opentap/api/doortest"
)

// TestTaps asks each route below /v1/taps and /v1/ports; the bench holds every answer against the document.
func TestTaps(t *testing.T) {
	b := newBench(t)
	for _, tt := range []struct {
		method, path, body string
		status             int
		part               string
	}{
		{"GET", "/v1/taps", "", 200, `"mirrors":[`},
		{"GET", "/v1/taps/services", "", 200, `"tunnel_id":7`},
		{"GET", "/v1/taps/flows", "", 200, `"filtering":"TCP"`},
		{"GET", "/v1/taps/mirrors", "", 200, `"directions":{"IN":1}`},
		{"GET", "/v1/taps/services/web", "", 200, doortest.ServiceID},
		{"GET", "/v1/taps/flows/" + doortest.FlowID, "", 200, `"status":"ACTIVE"`},
		{"GET", "/v1/taps/mirrors/web", "", 200, `"mirror_type":"gre"`},
		{"GET", "/v1/taps/flows/none", "", 404, `"not_found"`},
		{"GET", "/v1/taps?x=1", "", 400, `"field":"x"`},
		{"POST", "/v1/taps/services", `{"name":"n","port":"eth1","options":{"encap":"gre"}}`, 201, doortest.ServiceID},
		{"POST", "/v1/taps/services", `{"name":"n"}`, 400, `"field":"port"`},
		{"POST", "/v1/taps/services", `{"port":"eth1","options":{"snap":64}}`, 400, `"field":"options"`},
		{"POST", "/v1/taps/services", `{"port":"eth9"}`, 404, `"not_found"`},
		{"POST", "/v1/taps/services", `{"port":"eth1","x":1}`, 400, `"field":"x"`},
		{"POST", "/v1/taps/flows", `{"port":"virgo/eth1","service":"web","options":{"filter":"tcp","sample_n":3}}`, 201, doortest.FlowID},
		{"POST", "/v1/taps/flows", `{"port":"eth1","service":"web","direction":"UP"}`, 400, `"field":"direction"`},
		{"POST", "/v1/taps/flows", `{"port":"eth1"}`, 400, `"field":"service"`},
		{"POST", "/v1/taps/flows", `{"port":"eth1","service":"none"}`, 404, `"not_found"`},
		{"POST", "/v1/taps/flows/estimate", `{"port":"eth1","service":"web"}`, 200, `"mtu_short":50`},
		{"POST", "/v1/taps/mirrors", `{"port":"eth1","directions":{"OUT":5},"remote_ip":"2001:db8::1","mirror_type":"vxlan"}`, 201, doortest.MirrorID},
		{"POST", "/v1/taps/mirrors", `{"port":"eth1","directions":{"OUT":5},"remote_ip":"x","mirror_type":"vxlan"}`, 400, `"field":"remote_ip"`},
		{"POST", "/v1/taps/mirrors/estimate", `{"port":"eth1","directions":{"OUT":5},"remote_ip":"192.0.2.1","mirror_type":"gre"}`, 200, `"mirror_bps"`},
		{"PATCH", "/v1/taps/services/web", `{"description":"new"}`, 200, `"description":"new"`},
		{"PATCH", "/v1/taps/flows/web", `{"options":{"snap":99}}`, 200, `"snap":99`},
		{"PATCH", "/v1/taps/mirrors/web", `{}`, 200, doortest.MirrorID},
		{"PATCH", "/v1/taps/flows/web", `{"port":"eth2"}`, 400, `"field":"port"`},
		{"DELETE", "/v1/taps/services/web", "", 204, ""},
		{"DELETE", "/v1/taps/flows/web", "", 204, ""},
		{"DELETE", "/v1/taps/mirrors/none", "", 404, `"not_found"`},
		{"GET", "/v1/ports", "", 200, `"origin":"declared"`},
		{"GET", "/v1/ports/virgo%2Feth1", "", 200, doortest.PortID},
		{"POST", "/v1/ports", `{"name":"tool0","node":"virgo"}`, 201, `"name":"tool0"`},
		{"PATCH", "/v1/ports/eth1", `{"project_id":"blue"}`, 200, `"project_id":"blue"`},
		{"DELETE", "/v1/ports/eth1", "", 204, ""},
		{"DELETE", "/v1/ports/eth9", "", 404, `"not_found"`},
	} {
		if a := b.do(tt.method, tt.path, tt.body); a.StatusCode != tt.status || !strings.Contains(a.body, tt.part) {
			t.Errorf("%s %s %s: %d %s, want %d with %s", tt.method, tt.path, tt.body, a.StatusCode, a.body, tt.status, tt.part)
		}
	}
}
