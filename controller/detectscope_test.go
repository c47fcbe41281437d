package controller

import (
	"testing"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Rules look at the traffic of all projects: one that sees its own points alone hears nothing of what they find, from the
// moment on at which that is declared.
func TestATenantDoesNotWatchOthers(t *testing.T) {
	r := big()
	r.Then = nil
	b, d := newDetector(t, r, nil)
	d.cross(t, "n1", "10.0.0.1", false)
	next, err := b.FollowDetections(t.Context(), alice, "")
	if err != nil {
		t.Fatal(err)
	}
	declare := func(points ...string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.projects = map[string]want.Project{"red": {Name: "red", ProjectRequest: want.ProjectRequest{Points: points}}}
	}
	ask := func(id auth.Identity) map[string]error {
		_, top := b.TopDetect(t.Context(), id, "big")
		_, list := b.Detections(t.Context(), id, "", false)
		_, follow := b.FollowDetections(t.Context(), id, "")
		_, _, set := b.SetRule(t.Context(), id, r)
		return map[string]error{"top": top, "list": list, "follow": follow, "set": set}
	}
	declare("host1/eth0")
	for what, err := range ask(alice) {
		if !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := next(t.Context(), alice); !fault.Is(err, fault.Forbidden) {
		t.Errorf("what was begun before goes on: %v", err)
	}
	for what, err := range ask(root) {
		if err != nil {
			t.Errorf("an administrator: %s: %v", what, err)
		}
	}
	declare("*/*")
	if err := ask(alice)["list"]; err != nil {
		t.Errorf("a project that sees all points: %v", err)
	}
	declare("host1/eth0")
	if err := b.DeleteRule(t.Context(), alice, "big"); err != nil {
		t.Errorf("its own rule cannot be deleted: %v", err)
	}
}
