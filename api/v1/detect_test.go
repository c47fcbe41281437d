package v1

import (
	"strings"
	"testing"

	"opentap/api/doortest"
	"opentap/fault"
)

const ruleBody = `{"flow":{"keys":["src","dport"],"value":"packets","window":"2s"},"threshold":{"above":"20kpps","hold":"5s"},` +
	`"then":{"capture":{"points":["eth0"],"filter":"host {src}","past":"10s"},"max_active":2,"confirm":true,"ttl":"5m"}}`

func TestDetect(t *testing.T) {
	b := newBench(t)
	event := "/v1/detect/events/" + doortest.Found().ID
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/detect/rules", "", 200},
		{"GET", "/v1/detect/rules/big", "", 404},
		{"PUT", "/v1/detect/rules/big", ruleBody, 201},
		{"PUT", "/v1/detect/rules/big", ruleBody, 200},
		{"PUT", "/v1/detect/rules/big", `{"flow":{"keys":["src"]},"threshold":{"above":"1Mbps"},"than":1}`, 400},
		{"PUT", "/v1/detect/rules/big", `{"flow":{"keys":[]},"threshold":{"above":"1Mbps"}}`, 400},
		{"GET", "/v1/detect/rules/big", "", 200},
		{"GET", "/v1/detect/rules", "", 200},
		{"GET", "/v1/detect/rules/big/top", "", 200},
		{"GET", "/v1/detect/events", "", 200},
		{"GET", "/v1/detect/events?rule=big&active=true", "", 200},
		{"POST", event + "/confirm", "", 200},
		{"POST", event + "/refuse", "", 200},
		{"POST", "/v1/detect/events/none/confirm", "", 404},
		{"DELETE", "/v1/detect/rules/big", "", 204},
		{"DELETE", "/v1/detect/rules/big", "", 404},
	} {
		if a := b.do(c.method, c.path, c.body); a.StatusCode != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.StatusCode, a.body)
		}
	}
	if a := b.do("GET", "/v1/detect/events/stream", ""); a.StatusCode != 200 || !strings.Contains(a.body, "event: detection\n") || !strings.Contains(a.body, doortest.Found().ID) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for path, method := range map[string]string{"/v1/detect/events": "GET", event + "/confirm": "POST"} {
		if a := b.do(method, path, "", "Authorization", "Bearer viewer"); a.StatusCode != 403 {
			t.Errorf("%s as a viewer: %d", path, a.StatusCode)
		}
	}
	b.ctl.Fail["Detections"] = fault.New(fault.Unavailable, "not now")
	if a := b.do("GET", "/v1/detect/events", ""); a.StatusCode != 503 {
		t.Errorf("%d", a.StatusCode)
	}
}

func TestFlows(t *testing.T) {
	b := newBench(t)
	for path, status := range map[string]int{
		"/v1/flows/top": 200,
		"/v1/flows/top?by=src,dport&metric=packets":                                                       200,
		"/v1/flows/top?by=&point=eth0&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z&filter=tcp&top=3": 200,
		"/v1/flows":               200,
		"/v1/flows?format=ndjson": 200,
	} {
		if a := b.do("GET", path, ""); a.StatusCode != status {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	if a := b.do("GET", "/v1/flows/top", "", "Authorization", "Bearer viewer"); a.StatusCode != 403 {
		t.Errorf("viewer: %d", a.StatusCode)
	}
	if a := b.do("HEAD", "/v1/flows", ""); a.StatusCode != 405 {
		t.Errorf("HEAD: %d", a.StatusCode)
	}
}
