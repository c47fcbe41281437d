package v1

import (
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	b := newBench(t)
	if a := b.do("GET", "/v1/doctor", ""); a.StatusCode != 200 || !strings.Contains(a.body, `"severity":"warn"`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := b.do("GET", "/v1/doctor?node=here", ""); a.StatusCode != 200 || !strings.Contains(a.body, `"node":"here"`) || strings.Contains(a.body, `"there"`) {
		t.Errorf("one node: %d %s", a.StatusCode, a.body)
	}
	if a := b.do("GET", "/v1/doctor?node=nowhere", ""); a.StatusCode != 404 {
		t.Errorf("no node: %d", a.StatusCode)
	}
	if a := b.do("GET", "/v1/doctor?deep=1", ""); a.StatusCode != 400 {
		t.Errorf("an unknown parameter: %d", a.StatusCode)
	}
	if a := b.do("GET", "/v1/doctor", "", "Authorization", "Bearer viewer"); a.StatusCode != 403 {
		t.Errorf("a viewer: %d", a.StatusCode)
	}
}
