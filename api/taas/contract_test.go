package taas_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

const nowhere = "00000000-0000-4000-8000-000000000000"

// TestResources proves the examples of the contract: attributes, defaults, and what POST, GET and PUT answer.
func TestResources(t *testing.T) {
	b := newBench(t)
	made := b.make("alice", services, `{"tap_service":{"name":"ts1","description":"d","port_id":"PORT:r1"}}`)
	sid := made.id("tap_service")
	want := map[string]any{
		"id": sid, "tenant_id": "red", "project_id": "red", "name": "ts1", "description": "d", "port_id": b.ports["r1"], "status": "DOWN",
	}
	if got := made.at("tap_service"); !reflect.DeepEqual(got, want) {
		t.Errorf("POST tap_service = %v, want %v", got, want)
	}
	made = b.make("alice", flows, `{"tap_flow":{"name":"tf1","source_port":"PORT:r2","tap_service_id":"`+sid+`","direction":"BOTH","vlan_filter":"1-5,9"}}`)
	fid := made.id("tap_flow")
	want = map[string]any{
		"id": fid, "tenant_id": "red", "project_id": "red", "tap_service_id": sid, "name": "tf1", "description": "", "source_port": b.ports["r2"],
		"direction": "BOTH", "status": "DOWN", "vlan_filter": "1-5,9",
	}
	if got := made.at("tap_flow"); !reflect.DeepEqual(got, want) {
		t.Errorf("POST tap_flow = %v, want %v", got, want)
	}
	made = b.make("alice", mirrors, `{"tap_mirror":{"name":"m","port_id":"PORT:r2","directions":{"IN":99,"OUT":"100"},"remote_ip":"100.109.0.142","mirror_type":"erspanv1"}}`)
	want = map[string]any{
		"id": made.id("tap_mirror"), "tenant_id": "red", "project_id": "red", "name": "m", "description": "", "port_id": b.ports["r2"],
		"directions": map[string]any{"IN": 99.0, "OUT": "100"}, "remote_ip": "100.109.0.142", "mirror_type": "erspanv1",
	}
	if got := made.at("tap_mirror"); !reflect.DeepEqual(got, want) {
		t.Errorf("POST tap_mirror = %v, want %v", got, want)
	}
	b.until("service, flow and mirror are active", func() bool {
		for path, kind := range map[string]string{services + "/" + sid: "tap_service", flows + "/" + fid: "tap_flow", mirrors + "/" + made.id("tap_mirror"): "tap_mirror"} {
			if b.do("alice", "GET", path, "").at(kind, "status") != "ACTIVE" {
				return false
			}
		}
		return true
	})
	a := b.do("alice", "PUT", services+"/"+sid, `{"tap_service":{"description":"x"}}`)
	if a.status != 200 || a.at("tap_service", "description") != "x" || a.at("tap_service", "name") != "ts1" || a.at("tap_service", "status") != "ACTIVE" {
		t.Errorf("PUT tap_service: %d %s", a.status, a.text)
	}
	if a := b.do("alice", "PUT", flows+"/"+fid, `{"tap_flow":{}}`); a.status != 200 || a.at("tap_flow", "vlan_filter") != "1-5,9" {
		t.Errorf("PUT of nothing: %d %s", a.status, a.text)
	}
	for _, path := range []string{"/v2.0/tap_services/", "/v2.0/taas/tap_services/", "/v2.0/v2.0/taas/tap_services/", "/v2.0/v2.0/tap_services/"} {
		if a := b.do("alice", "GET", path+sid, ""); a.id("tap_service") != sid {
			t.Errorf("GET %s: %d %s", path, a.status, a.text)
		}
	}
	if a := b.do("alice", "GET", services+"/ts1", ""); a.status != 404 {
		t.Errorf("a name in the path: %d", a.status)
	}
	if a := b.do("alice", "DELETE", services+"/"+sid, ""); a.status != 204 || a.text != "" {
		t.Errorf("DELETE: %d %q", a.status, a.text)
	}
	if a := b.do("alice", "GET", flows+"/"+fid, ""); a.status != 404 {
		t.Errorf("the flow of a deleted service: %d", a.status)
	}
	if a := b.do("alice", "DELETE", services+"/"+sid, ""); a.status != 404 {
		t.Errorf("deleting it again: %d", a.status)
	}
}

// TestErrors goes through the contract's table of errors.
func TestErrors(t *testing.T) {
	b := newBench(t)
	red := b.service("alice", "r1")
	blue := b.service("bob", "b1")
	redFlow := b.flow("alice", red, "r2")
	b.make("alice", mirrors, `{"tap_mirror":{"port_id":"PORT:r1","directions":{"IN":"7"},"remote_ip":"192.0.2.9","mirror_type":"gre"}}`)
	mirror := func(more string) string {
		m := `"port_id":"PORT:r1","directions":{"IN":1},"remote_ip":"192.0.2.9","mirror_type":"gre"`
		name, _, _ := strings.Cut(more, ":")
		var out []string
		for _, part := range []string{`"port_id":"PORT:r1"`, `"directions":{"IN":1}`, `"remote_ip":"192.0.2.9"`, `"mirror_type":"gre"`} {
			if !strings.HasPrefix(part, name+":") {
				out = append(out, part)
			}
		}
		if more != "" {
			m = strings.Join(append(out, more), ",")
		}
		return `{"tap_mirror":{` + m + `}}`
	}
	flow := func(port, service, direction, more string) string {
		return fmt.Sprintf(`{"tap_flow":{"source_port":%q,"tap_service_id":%q,"direction":%q%s}}`, port, service, direction, more)
	}
	for name, tt := range map[string]struct {
		token, method, path, body string
		status                    int
		class, message            string // a part of it
	}{
		"not JSON":                     {"alice", "POST", services, `{`, 400, "HTTPBadRequest", "Body contains invalid data"},
		"not an object":                {"alice", "POST", services, `[]`, 400, "HTTPBadRequest", "Body contains invalid data"},
		"no body":                      {"alice", "POST", services, ``, 400, "HTTPBadRequest", "Body contains invalid data"},
		"envelope missing":             {"alice", "POST", services, `{"x":{}}`, 400, "HTTPBadRequest", "Unable to find 'tap_service' in request body"},
		"envelope no object":           {"alice", "POST", services, `{"tap_service":5}`, 400, "HTTPBadRequest", "Object 'tap_service' contains invalid data"},
		"bulk of nothing":              {"alice", "POST", services, `{"tap_services":[]}`, 400, "HTTPBadRequest", "Resources required"},
		"unknown attribute":            {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","x":1}}`, 400, "HTTPBadRequest", "Unrecognized attribute(s) 'x'"},
		"id in POST":                   {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","id":"` + nowhere + `"}}`, 400, "HTTPBadRequest", "Attribute 'id' not allowed in POST"},
		"status in POST":               {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","status":"ACTIVE"}}`, 400, "HTTPBadRequest", "Attribute 'status' not allowed in POST"},
		"port_id in PUT":               {"alice", "PUT", services + "/" + red, `{"tap_service":{"port_id":"PORT:r1"}}`, 400, "HTTPBadRequest", "Cannot update read-only attribute port_id"},
		"direction in PUT":             {"alice", "PUT", flows + "/" + redFlow, `{"tap_flow":{"direction":"IN"}}`, 400, "HTTPBadRequest", "Cannot update read-only attribute direction"},
		"port_id missing":              {"alice", "POST", services, `{"tap_service":{}}`, 400, "HTTPBadRequest", "Failed to parse request. Required attribute 'port_id' not specified"},
		"direction missing":            {"alice", "POST", flows, `{"tap_flow":{"source_port":"PORT:r2","tap_service_id":"` + red + `"}}`, 400, "HTTPBadRequest", "Required attribute 'direction' not specified"},
		"port_id no UUID":              {"alice", "POST", services, `{"tap_service":{"port_id":"eth1"}}`, 400, "HTTPBadRequest", "Invalid input for port_id. Reason: 'eth1' is not a valid UUID."},
		"name no string":               {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","name":5}}`, 400, "HTTPBadRequest", "Invalid input for name. Reason: '5' is not a valid string."},
		"name with a blank":            {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","name":" x"}}`, 400, "HTTPBadRequest", "Invalid input for name"},
		"name too long":                {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","name":"` + strings.Repeat("x", 256) + `"}}`, 400, "HTTPBadRequest", "exceeds maximum length of 255"},
		"description too long":         {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","description":"` + strings.Repeat("x", 1025) + `"}}`, 400, "HTTPBadRequest", "exceeds maximum length of 1024"},
		"mirror description too long":  {"alice", "POST", mirrors, mirror(`"description":"` + strings.Repeat("x", 256) + `"`), 400, "HTTPBadRequest", "exceeds maximum length of 255"},
		"direction in lower case":      {"alice", "POST", flows, flow("PORT:r2", red, "both", ""), 400, "HTTPBadRequest", "Invalid input for direction. Reason: 'both' is not in ['IN', 'OUT', 'BOTH']."},
		"vlan_filter empty":            {"alice", "POST", flows, flow("PORT:r2", red, "IN", `,"vlan_filter":""`), 400, "HTTPBadRequest", "Invalid input for vlan_filter"},
		"vlan_filter 1,":               {"alice", "POST", flows, flow("PORT:r2", red, "IN", `,"vlan_filter":"1,"`), 400, "HTTPBadRequest", "Invalid input for vlan_filter"},
		"vlan_filter with a blank":     {"alice", "POST", flows, flow("PORT:r2", red, "IN", `,"vlan_filter":"1, 2"`), 400, "HTTPBadRequest", "Invalid input for vlan_filter"},
		"vlan_filter 1-5-7":            {"alice", "POST", flows, flow("PORT:r2", red, "IN", `,"vlan_filter":"1-5-7"`), 400, "HTTPBadRequest", "Invalid input for vlan_filter"},
		"vlan_filter -1":               {"alice", "POST", flows, flow("PORT:r2", red, "IN", `,"vlan_filter":"-1"`), 400, "HTTPBadRequest", "Invalid input for vlan_filter"},
		"vlan_filter 1-a":              {"alice", "POST", flows, flow("PORT:r2", red, "IN", `,"vlan_filter":"1-a"`), 400, "HTTPBadRequest", "Invalid input for vlan_filter"},
		"something after the body":     {"alice", "POST", services, `{"tap_service":{}}}`, 400, "HTTPBadRequest", "Body contains invalid data"},
		"projects that are none":       {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","tenant_id":[1],"project_id":[1]}}`, 400, "HTTPBadRequest", "Invalid input for project_id"},
		"projects that are none, two":  {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","tenant_id":{},"project_id":[]}}`, 400, "HTTPBadRequest", "do not match"},
		"a tunnel id of a million":     {"alice", "POST", mirrors, mirror(`"directions":{"IN":` + strings.Repeat("9", 900_000) + `}`), 400, "HTTPBadRequest", "Invalid input for directions"},
		"remote_ip of this host":       {"alice", "POST", mirrors, mirror(`"remote_ip":"127.0.0.1"`), 400, "HTTPBadRequest", "is not a valid IP address"},
		"remote_ip of the cloud's own": {"alice", "POST", mirrors, mirror(`"remote_ip":"169.254.169.254"`), 400, "HTTPBadRequest", "is not a valid IP address"},
		"projects that differ":         {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","tenant_id":"red","project_id":"blue"}}`, 400, "HTTPBadRequest", "'project_id' and 'tenant_id' do not match"},
		"another's project":            {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:r1","project_id":"blue"}}`, 400, "HTTPBadRequest", "Specifying 'project_id'"},
		"body in DELETE":               {"alice", "DELETE", services + "/" + red, `{}`, 400, "HTTPBadRequest", "Request body is not supported in DELETE."},
		"bad limit":                    {"alice", "GET", services + "?limit=-1", ``, 400, "BadRequest", "Limit must be an integer 0 or greater and not '-1'"},
		"limit no number":              {"alice", "GET", services + "?limit=x", ``, 400, "BadRequest", "Limit must be an integer"},
		"sort_key without sort_dir":    {"alice", "GET", services + "?sort_key=name", ``, 400, "HTTPBadRequest", "The number of sort_keys and sort_dirs must be same"},
		"sort_key unknown":             {"alice", "GET", services + "?sort_key=x&sort_dir=asc", ``, 400, "HTTPBadRequest", "['x'] is invalid attribute for sort_keys"},
		"sort_dir unknown":             {"alice", "GET", services + "?sort_key=name&sort_dir=up", ``, 400, "HTTPBadRequest", "is invalid value for sort_dirs"},
		"service unknown":              {"alice", "GET", services + "/" + nowhere, ``, 404, "TapServiceNotFound", "Tap Service  " + nowhere + " does not exist"},
		"service of another":           {"bob", "GET", services + "/" + red, ``, 404, "TapServiceNotFound", "Tap Service  " + red + " does not exist"},
		"service of another, PUT":      {"bob", "PUT", services + "/" + red, `{"tap_service":{"name":"x"}}`, 404, "TapServiceNotFound", ""},
		"service of another, DELETE":   {"bob", "DELETE", services + "/" + red, ``, 404, "TapServiceNotFound", ""},
		"flow unknown":                 {"alice", "GET", flows + "/" + nowhere, ``, 404, "TapFlowNotFound", "Tap Flow  " + nowhere + " does not exist"},
		"flow of another":              {"bob", "DELETE", flows + "/" + redFlow, ``, 404, "TapFlowNotFound", ""},
		"mirror unknown":               {"alice", "DELETE", mirrors + "/" + nowhere, ``, 404, "TapMirrorNotFound", "Tap Mirror " + nowhere + " does not exist"},
		"port of service unknown":      {"alice", "POST", services, `{"tap_service":{"port_id":"` + nowhere + `"}}`, 404, "PortNotFound", "Port " + nowhere + " could not be found."},
		"port of service invisible":    {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:b1"}}`, 404, "PortNotFound", ""},
		"the administrator's port":     {"alice", "POST", services, `{"tap_service":{"port_id":"PORT:eth1"}}`, 404, "PortNotFound", ""},
		"source_port unknown":          {"alice", "POST", flows, flow(nowhere, red, "IN", ""), 404, "PortNotFound", ""},
		"source_port of another":       {"alice", "POST", flows, flow("PORT:b1", red, "IN", ""), 404, "PortNotFound", ""},
		"mirror's port unknown":        {"alice", "POST", mirrors, mirror(`"port_id":"` + nowhere + `"`), 404, "PortNotFound", ""},
		"flow to an unknown service":   {"alice", "POST", flows, flow("PORT:r2", nowhere, "IN", ""), 404, "TapServiceNotFound", ""},
		"flow to another's service":    {"alice", "POST", flows, flow("PORT:r2", blue, "IN", ""), 404, "TapServiceNotFound", ""},
		"admin, port of a tenant":      {"admin", "POST", services, `{"tap_service":{"port_id":"PORT:r1"}}`, 403, "PortDoesNotBelongToTenant", "The specified port does not belong to the tenant"},
		"admin, mirror of a tenant":    {"admin", "POST", mirrors, mirror(""), 403, "PortDoesNotBelongToTenant", ""},
		"admin, source of a tenant":    {"admin", "POST", flows, flow("PORT:r2", red, "IN", `,"project_id":"blue"`), 403, "PortDoesNotBelongToTenant", ""},
		"admin, service of another":    {"admin", "POST", flows, flow("PORT:b1", red, "IN", `,"project_id":"blue"`), 403, "TapServiceNotBelongToTenant", "Specified Tap Service does not belong to the tenant"},
		"policy, POST":                 {"viewer", "POST", services, `{"tap_service":{"port_id":"PORT:r1"}}`, 403, "PolicyNotAuthorized", ""},
		"policy, PUT of what is seen":  {"viewer", "PUT", services + "/" + red, `{"tap_service":{"name":"x"}}`, 403, "PolicyNotAuthorized", ""},
		"policy, DELETE of the unseen": {"viewer", "DELETE", services + "/" + blue, ``, 404, "HTTPNotFound", "The resource could not be found."},
		"tunnel id taken":              {"alice", "POST", mirrors, mirror(`"directions":{"IN":7}`), 409, "TapMirrorTunnelConflict", "Tap Mirror with tunnel_id 7 already exists"},
		"tunnel id twice":              {"alice", "POST", mirrors, mirror(`"directions":{"IN":8,"OUT":"8"}`), 409, "TapMirrorTunnelConflict", ""},
		"direction key unknown":        {"alice", "POST", mirrors, mirror(`"directions":{"something":101}`), 400, "HTTPBadRequest", "Invalid input for directions"},
		"no directions":                {"alice", "POST", mirrors, mirror(`"directions":{}`), 400, "HTTPBadRequest", "Invalid input for directions"},
		"tunnel id a bool":             {"alice", "POST", mirrors, mirror(`"directions":{"IN":true}`), 400, "HTTPBadRequest", "Invalid input for directions"},
		"tunnel id a fraction":         {"alice", "POST", mirrors, mirror(`"directions":{"IN":1.5}`), 400, "HTTPBadRequest", "Invalid input for directions"},
		"mirror_type unknown":          {"alice", "POST", mirrors, mirror(`"mirror_type":"erspanv2"`), 400, "HTTPBadRequest", "Invalid input for mirror_type. Reason: 'erspanv2' is not in ['erspanv1', 'gre']."},
		"remote_ip wrong":              {"alice", "POST", mirrors, mirror(`"remote_ip":"192.101.0.420"`), 400, "HTTPBadRequest", "Invalid input for remote_ip. Reason: '192.101.0.420' is not a valid IP address."},
		"remote_ip with zeros":         {"alice", "POST", mirrors, mirror(`"remote_ip":"192.0.2.01"`), 400, "HTTPBadRequest", "is not a valid IP address"},
		"path unknown":                 {"alice", "GET", "/v2.0/floatingips", ``, 404, "HTTPNotFound", "The resource could not be found."},
		"sub-path":                     {"alice", "GET", services + "/" + red + "/x", ``, 404, "HTTPNotFound", ""},
		"method":                       {"alice", "PATCH", services + "/" + red, `{}`, 405, "HTTPMethodNotAllowed", ""},
		"PUT of a collection":          {"alice", "PUT", services, `{}`, 405, "HTTPMethodNotAllowed", ""},
		"port unknown":                 {"alice", "GET", "/v2.0/ports/" + nowhere, ``, 404, "PortNotFound", "Port " + nowhere + " could not be found."},
		"device deleted":               {"admin", "DELETE", "/v2.0/ports/PORT:eth1", ``, 409, "PortInUse", ""},
		"network unknown":              {"alice", "GET", "/v2.0/networks/" + nowhere, ``, 404, "NetworkNotFound", ""},
		"extension unknown":            {"alice", "GET", "/v2.0/extensions/x", ``, 404, "HTTPNotFound", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			a := b.do(tt.token, tt.method, tt.path, tt.body)
			message, _ := a.at("NeutronError", "message").(string)
			if a.status != tt.status || a.at("NeutronError", "type") != tt.class || !strings.Contains(message, tt.message) || a.at("NeutronError", "detail") != "" {
				t.Errorf("%d %s, want %d %s %q", a.status, a.text, tt.status, tt.class, tt.message)
			}
			if id := a.header.Get("X-Openstack-Request-Id"); !strings.HasPrefix(id, "req-") {
				t.Errorf("request id %q", id)
			}
		})
	}
	b.t = t
	if a := b.do("alice", "GET", services, ""); len(a.at("tap_services").([]any)) != 1 {
		t.Errorf("something was made or deleted by a request that was refused: %s", a.text)
	}
}

func TestNobodyComesIn(t *testing.T) {
	b := newBench(t)
	for _, token := range []string{"", "wrong", "notused"} {
		a := b.do(token, "GET", services, "")
		if a.status != 401 || a.at("error", "code") != 401.0 || a.at("error", "title") != "Unauthorized" {
			t.Errorf("%q: %d %s", token, a.status, a.text)
		}
		if w := a.header.Get("WWW-Authenticate"); w != `Keystone uri="`+b.url+`/identity"` {
			t.Errorf("WWW-Authenticate %q", w)
		}
	}
	for _, path := range []string{"/v2.0/", "/v2.0/extensions", "/v2.0/ports", "/v2.0/networks", "/v3/projects", "/identity/v3/projects", "/projects"} {
		if a := b.do("", "GET", path, ""); a.status != 401 {
			t.Errorf("GET %s without a token: %d", path, a.status)
		}
	}
}

// TestLists proves filters, order, pages and fields.
func TestLists(t *testing.T) {
	b := newBench(t)
	var ids []string
	for i, port := range []string{"r1", "r2", "r3", "r1"} {
		ids = append(ids, b.make("alice", services, fmt.Sprintf(`{"tap_service":{"name":"s%d","description":"d%d","port_id":"PORT:%s"}}`, i, i%2, port)).id("tap_service"))
	}
	b.service("bob", "b1")
	list := func(token, query string) []string {
		t.Helper()
		a := b.do(token, "GET", services+"?"+strings.NewReplacer("ID0", ids[0], "ID1", ids[1], "ID2", ids[2]).Replace(query), "")
		all, ok := a.at("tap_services").([]any)
		if a.status != http.StatusOK || !ok {
			t.Fatalf("%s: %d %s", query, a.status, a.text)
		}
		out := []string{}
		for _, o := range all {
			name, _ := o.(map[string]any)["name"].(string)
			out = append(out, name)
		}
		return out
	}
	for query, want := range map[string]string{
		"":                              "s0 s1 s2 s3",
		"name=s1":                       "s1",
		"name=s1&name=s3":               "s1 s3",
		"name=s1&description=d0":        "",
		"description=d0":                "s0 s2",
		"id=ID2":                        "s2",
		"name=":                         "s0 s1 s2 s3",
		"tenant_id=red":                 "s0 s1 s2 s3",
		"project_id=red&tenant_id=blue": "s0 s1 s2 s3",
		"project_id=blue":               "",
		"port_id=PORT:r1":               "s0 s3",
		"nonsense=1":                    "s0 s1 s2 s3",
		"sort_key=name&sort_dir=desc":   "s3 s2 s1 s0",
		"sort_key=description&sort_dir=desc&sort_key=name&sort_dir=asc": "s1 s3 s0 s2",
		"limit=2":                              "s0 s1",
		"limit=0":                              "s0 s1 s2 s3",
		"limit=2&marker=ID1":                   "s2 s3",
		"limit=2&marker=" + nowhere:            "",
		"limit=2&marker=ID2&page_reverse=True": "s0 s1",
	} {
		if got := strings.Join(list("alice", query), " "); got != want {
			t.Errorf("?%s = %q, want %q", query, got, want)
		}
	}
	if got := list("admin", ""); len(got) != 5 {
		t.Errorf("an administrator sees %v", got)
	}
	if got := list("admin", "tenant_id=blue"); len(got) != 1 {
		t.Errorf("an administrator sees of blue %v", got)
	}
	if got := list("bob", ""); len(got) != 1 {
		t.Errorf("bob sees %v", got)
	}
	a := b.do("alice", "GET", services+"/"+ids[0]+"?fields=name&fields=id", "")
	if got := a.at("tap_service"); !reflect.DeepEqual(got, map[string]any{"name": "s0", "id": ids[0]}) {
		t.Errorf("fields of show: %v", got)
	}
	a = b.do("alice", "GET", services+"?fields=name&limit=1", "")
	if got := a.at("tap_services"); !reflect.DeepEqual(got, []any{map[string]any{"name": "s0"}}) {
		t.Errorf("fields of a list: %v", got)
	}
	// The links lead through all of it, and end.
	var seen []string
	next := services + "?limit=3"
	for next != "" {
		a := b.do("alice", "GET", next, "")
		for _, o := range a.at("tap_services").([]any) {
			seen = append(seen, o.(map[string]any)["name"].(string))
		}
		next = ""
		links, _ := a.at("tap_services_links").([]any)
		for _, l := range links {
			if l := l.(map[string]any); l["rel"] == "next" {
				next = strings.TrimPrefix(l["href"].(string), b.url)
			}
		}
	}
	if got := strings.Join(seen, " "); got != "s0 s1 s2 s3" {
		t.Errorf("by links: %s", got)
	}
}

func TestBulkIsAllOrNothing(t *testing.T) {
	b := newBench(t)
	a := b.make("alice", services, `{"tap_services":[{"name":"a","port_id":"PORT:r1"},{"name":"b","port_id":"PORT:r2"}]}`)
	if all, _ := a.at("tap_services").([]any); len(all) != 2 {
		t.Errorf("bulk: %s", a.text)
	}
	if a := b.do("alice", "POST", services, `{"tap_services":[{"name":"c","port_id":"PORT:r1"},{"name":"d","port_id":"`+nowhere+`"}]}`); a.status != 404 {
		t.Errorf("bulk with a wrong one: %d %s", a.status, a.text)
	}
	a = b.do("alice", "GET", services, "")
	if all, _ := a.at("tap_services").([]any); len(all) != 2 {
		t.Errorf("left: %s", a.text)
	}
}

// Networks and ports too: what is wrong with the last leaves nothing of the first.
func TestBulkOfNetworksAndPorts(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ plural, good, bad string }{
		{"networks", `{"name":"a"},{"name":"b"},{"network":{"name":"c"}}`, `{"name":"d"},{"name":"` + strings.Repeat("x", 300) + `"}`},
		{"ports", `{"name":"a"},{"name":"b"},{"port":{"name":"c"}}`, `{"name":"d"},{"name":"` + strings.Repeat("x", 300) + `"}`},
	} {
		path := "/v2.0/" + c.plural
		count := func() int {
			all, _ := b.do("alice", "GET", path, "").at(c.plural).([]any)
			return len(all)
		}
		had := count()
		if a := b.do("alice", "POST", path, `{"`+c.plural+`":[`+c.bad+`]}`); a.status != 400 || count() != had {
			t.Errorf("%s with a wrong one: %d %s, left are %d", c.plural, a.status, a.text, count()-had)
		}
		a := b.do("alice", "POST", path, `{"`+c.plural+`":[`+c.good+`]}`)
		made, _ := a.at(c.plural).([]any)
		if a.status != 201 || len(made) != 3 || count() != had+3 {
			t.Fatalf("%s: %d %s, made are %d", c.plural, a.status, a.text, count()-had)
		}
		for i, name := range []string{"a", "b", "c"} {
			if o, _ := made[i].(map[string]any); o["name"] != name || o["id"] == "" || o["project_id"] != "red" {
				t.Errorf("%s: %d is %v", c.plural, i, made[i])
			}
		}
	}
	if a := b.do("alice", "POST", "/v2.0/subnets", `{"subnets":[{"name":"a"}]}`); a.status != 404 && a.status != 405 {
		t.Errorf("subnets are not kept, and one was made: %d %s", a.status, a.text)
	}
}

func TestAdministratorForATenant(t *testing.T) {
	b := newBench(t)
	sid := b.make("admin", services, `{"tap_service":{"port_id":"PORT:r1","tenant_id":"red"}}`).id("tap_service")
	if a := b.do("alice", "GET", services+"/"+sid, ""); a.at("tap_service", "project_id") != "red" {
		t.Errorf("what an administrator made for red: %s", a.text)
	}
	own := b.service("admin", "eth1") // nobody's port is the administrator's
	fid := b.flow("admin", own, "eth2")
	b.until("it is active", func() bool { return b.do("admin", "GET", flows+"/"+fid, "").at("tap_flow", "status") == "ACTIVE" })
	if a := b.do("admin", "POST", flows, `{"tap_flow":{"source_port":"PORT:eth2","tap_service_id":"`+sid+`","direction":"IN","project_id":"red"}}`); a.status != 403 {
		t.Errorf("the administrator's traffic to a tenant: %d %s", a.status, a.text)
	}
	if a := b.do("admin", "POST", flows, `{"tap_flow":{"source_port":"PORT:r2","tap_service_id":"`+own+`","direction":"IN","project_id":"default"}}`); a.status != 403 {
		t.Errorf("a tenant's traffic to the administrator: %d %s", a.status, a.text)
	}
}

func TestDocuments(t *testing.T) {
	b := newBench(t)
	a := b.do("alice", "GET", "/v2.0/extensions", "")
	have := map[string]bool{}
	for _, e := range a.at("extensions").([]any) {
		have[e.(map[string]any)["alias"].(string)] = true
	}
	for _, alias := range []string{"taas", "taas-vlan-filter", "tap-mirror", "tap-mirror-both-direction"} {
		if a := b.do("alice", "GET", "/v2.0/extensions/"+alias, ""); !have[alias] || a.at("extension", "alias") != alias || a.at("extension", "updated") == "" {
			t.Errorf("extension %s: %s", alias, a.text)
		}
	}
	if a := b.do("", "GET", "/", "", "User-Agent", "openstacksdk/0.101.0 keystoneauth1/5.0.0 python-requests/2.28.1 CPython/3.11.2"); a.status != 200 || !strings.Contains(a.text, `"id":"v2.0"`) || !strings.Contains(a.text, b.url+"/v2.0/") {
		t.Errorf("the root to an OpenStack client: %d %s", a.status, a.text)
	}
	if a := b.do("", "GET", "/", "", "User-Agent", "curl/8"); a.status != 401 {
		t.Errorf("the root to nobody: %d %s", a.status, a.text)
	}
	if a := b.do("alice", "GET", "/", "", "User-Agent", "curl/8"); a.at("classic") != "yes" {
		t.Errorf("the root to others: %s", a.text)
	}
	if a := b.do("", "GET", "/v2.0", ""); a.at("version", "id") != "v2.0" {
		t.Errorf("/v2.0: %s", a.text)
	}
	if a := b.do("alice", "GET", "/v2.0/", ""); !strings.Contains(a.text, "/v2.0/taas/tap_flows") {
		t.Errorf("/v2.0/: %s", a.text)
	}
	if a := b.do("", "GET", "/identity", ""); a.status != 300 || !strings.Contains(a.text, "v3.14") {
		t.Errorf("/identity: %d %s", a.status, a.text)
	}
	for _, path := range []string{"/identity/v3", "/identity/v3/", "/v3", "/v3/"} {
		if a := b.do("", "GET", path, ""); a.status != 200 || a.at("version", "status") != "stable" {
			t.Errorf("%s: %d %s", path, a.status, a.text)
		}
	}
	if a := b.do("alice", "GET", "/v2.0/subnets", ""); a.text != "{\"subnets\":[]}\n" {
		t.Errorf("subnets: %s", a.text)
	}
}

func TestKeystone(t *testing.T) {
	b := newBench(t)
	carol := "ot_cccccccccccccccc_" + secret
	password := func(user, word, scope string) string {
		return `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"` + user + `","password":"` + word + `","domain":{"id":"default"}}}}` + scope + `}}`
	}
	scope := func(p string) string { return `,"scope":{"project":{"name":"` + p + `","domain":{"id":"default"}}}` }
	for name, tt := range map[string]struct {
		body   string
		status int
	}{
		"password":                  {password("carol", carol, scope("red")), 201},
		"password, no scope":        {password("carol", carol, ""), 201},
		"another's name":            {password("alice", carol, scope("red")), 401},
		"wrong password":            {password("carol", "ot_cccccccccccccccc_wrong", scope("red")), 401},
		"no password":               {password("carol", "", scope("red")), 401},
		"another project":           {password("carol", carol, scope("blue")), 401},
		"application credential":    {`{"auth":{"identity":{"methods":["application_credential"],"application_credential":{"id":"cccccccccccccccc","secret":"` + secret + `"}}}}`, 201},
		"wrong secret":              {`{"auth":{"identity":{"methods":["application_credential"],"application_credential":{"id":"cccccccccccccccc","secret":"x"}}}}`, 401},
		"credential by name":        {`{"auth":{"identity":{"methods":["application_credential"],"application_credential":{"name":"carol","secret":"` + carol + `","user":{"name":"carol"}}}}}`, 201},
		"token":                     {`{"auth":{"identity":{"methods":["token"],"token":{"id":"` + carol + `"}},"scope":{"project":{"id":"red"}}}}`, 201},
		"method unknown":            {`{"auth":{"identity":{"methods":["saml2"]}}}`, 400},
		"no method":                 {`{"auth":{}}`, 400},
		"not JSON":                  {`x`, 400},
		"deep where text is wanted": {`{"auth":{"identity":{"methods":["password"],"password":{"user":[1]}}}}`, 401},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/identity/v3/auth/tokens", "/v3/auth/tokens"} {
				a := b.do("", "POST", path, tt.body)
				if a.status != tt.status {
					t.Fatalf("%d %s, want %d", a.status, a.text, tt.status)
				}
				if tt.status != 201 {
					if a.at("error", "code") != float64(tt.status) || strings.Contains(a.text, secret) {
						t.Errorf("error %s", a.text)
					}
					continue
				}
				token := a.header.Get("X-Subject-Token")
				if got := b.do(token, "GET", services, ""); got.status != 200 {
					t.Errorf("with the token: %d %s", got.status, got.text)
				}
				if a.at("token", "project", "name") != "red" || a.at("token", "user", "name") != "carol" || !strings.Contains(a.text, `"type":"network"`) || !strings.Contains(a.text, `"name":"member"`) || strings.Contains(a.text, `"name":"admin"`) {
					t.Errorf("token %s", a.text)
				}
			}
		})
	}
	if a := b.do("alice", "GET", "/identity/v3/projects/red", ""); a.at("project", "name") != "red" {
		t.Errorf("own project: %s", a.text)
	}
	if a := b.do("alice", "GET", "/projects?name=blue", ""); a.status != 200 || len(a.at("projects").([]any)) != 0 {
		t.Errorf("another's project: %s", a.text)
	}
	if a := b.do("alice", "GET", "/projects/blue", ""); a.status != 404 {
		t.Errorf("another's project: %d", a.status)
	}
	if a := b.do("admin", "GET", "/projects?name=blue", ""); len(a.at("projects").([]any)) != 1 {
		t.Errorf("administrator: %s", a.text)
	}
	basic := func(user, word string) int {
		req, _ := http.NewRequest("GET", b.url+services, nil)
		req.SetBasicAuth(user, word)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := []int{basic("carol", carol), basic("alice", carol), basic("carol", "x"), basic("carol", "")}; !reflect.DeepEqual(got, []int{200, 401, 401, 401}) {
		t.Errorf("basic: %v", got)
	}
}
