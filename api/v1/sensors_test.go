package v1

import (
	"strings"
	"testing"
)

func TestSensors(t *testing.T) {
	b := newBench(t)
	a := b.do("GET", "/v1/sensors", "")
	if a.StatusCode != 200 || !strings.Contains(a.body, `"value":21.5`) || !strings.Contains(a.body, `"missing":"the board is not attached"`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := b.do("GET", "/v1/sensors?deep=1", ""); a.StatusCode != 400 {
		t.Errorf("an unknown parameter: %d", a.StatusCode)
	}
	if a := b.do("GET", "/v1/sensors", "", "Authorization", "Bearer viewer"); a.StatusCode != 403 {
		t.Errorf("a viewer: %d", a.StatusCode)
	}
}
