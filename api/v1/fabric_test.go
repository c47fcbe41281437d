package v1

import (
	"strings"
	"testing"

	"opentap/fault"
)

func TestFabric(t *testing.T) {
	b := newBench(t)
	const fabric = `{"switches": {"s1": {"dpid": 1, "table_limit": 100}}, "pairs": [["s1/1", "s1/2"]],
		"ports": {"h1": {"at": "s1/1", "role": "filter"}, "h11": {"at": "s1/3", "role": "delivery"}},
		"policies": [{"name": "web", "from": ["h1"], "to": ["h11"], "filter": "tcp port 80", "ttl": "10m"}]}`
	const policy = `{"from": ["h1"], "to": ["h11"], "truncate": 128}`
	for _, tt := range []struct {
		method, path, body string
		status             int
		has                string
	}{
		{"GET", "/v1/fabric", "", 200, `"dpid":"0000000000000001"`},
		{"GET", "/v1/fabric?fresh=true", "", 200, `"in_sync":true`},
		{"GET", "/v1/fabric?fresh=perhaps", "", 400, "neither true nor false"},
		{"GET", "/v1/fabric?stale=true", "", 400, "no such query parameter"},
		{"PUT", "/v1/fabric", fabric, 200, `"tcp port 80"`},
		{"PUT", "/v1/fabric?prune=true", fabric, 200, `"table_limit":100`},
		{"PUT", "/v1/fabric", `{"switches": {"s1": {"dpid": "zero"}}}`, 400, "datapath id"},
		{"PUT", "/v1/fabric", `{"switches": {}, "wires": []}`, 400, "wires"},
		{"POST", "/v1/fabric/plan", fabric, 200, `"verb":"add"`},
		{"GET", "/v1/fabric/verify", "", 200, `"ok":true`},
		{"GET", "/v1/fabric/drift", "", 200, `"done":"repaired"`},
		{"GET", "/v1/fabric/policies/web", "", 200, `"state":"active"`},
		{"GET", "/v1/fabric/policies/none", "", 404, "no policy"},
		{"PUT", "/v1/fabric/policies/web", policy, 200, `"truncate":128`},
		{"PUT", "/v1/fabric/policies/new", policy, 201, `"name":"new"`},
		{"DELETE", "/v1/fabric/policies/web", "", 204, ""},
		{"DELETE", "/v1/fabric/policies/none", "", 404, ""},
		{"POST", "/v1/fabric/policies/web/probe", "", 200, `"result":"delivered"`},
		{"DELETE", "/v1/fabric", "", 204, ""},
	} {
		a := b.do(tt.method, tt.path, tt.body)
		if a.StatusCode != tt.status || !strings.Contains(a.body, tt.has) {
			t.Errorf("%s %s: %d %s, want %d with %s", tt.method, tt.path, a.StatusCode, a.body, tt.status, tt.has)
		}
	}
	b.ctl.Sick = true
	if a := b.do("GET", "/v1/fabric/verify", ""); a.StatusCode != 200 || !strings.Contains(a.body, `"ok":false`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	b.ctl.Fail["VerifyFabric"] = fault.New(fault.Unsupported, "this server takes no OpenFlow switches")
	if a := b.do("GET", "/v1/fabric/verify", ""); a.StatusCode != 501 || !strings.Contains(a.body, "takes no OpenFlow switches") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
