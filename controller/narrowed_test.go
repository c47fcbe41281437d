package controller

import (
	"context"
	"io"
	"testing"
	"time"

	"opentap/fault"
	"opentap/internal/await"
	"opentap/tap"
	"opentap/want"
)

// declareRed has the project red see some points alone.
func (b *bench) declareRed(points ...string) {
	b.mu.Lock()
	b.projects = map[string]want.Project{"red": {Name: "red", ProjectRequest: want.ProjectRequest{Points: points}}}
	b.tell()
	b.mu.Unlock()
	b.projectsChanged()
}

// What a project began ends when it does not see the point any more; what others began there, and what it has elsewhere,
// goes on.
func TestWhatRunsEndsWithTheRightToSee(t *testing.T) {
	b := tapBench(t, nil)
	begin := func(id string, at string) string {
		return b.create(t, alice, want.Request{ID: id, Kind: want.Packets, Points: []string{at}}).UID
	}
	lost, kept := begin("lost", "eth0"), begin("kept", "eth1")
	byRoot := b.create(t, root, want.Request{ID: "root", Kind: want.Packets, Points: []string{"eth0"}}).UID
	live, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{"host1/eth0"}})
	if err != nil {
		t.Fatal(err)
	}
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, _ string, _ want.LiveSpec, _ io.Writer) error {
		<-ctx.Done()
		return ctx.Err()
	}
	ended := make(chan error, 1)
	go func() { ended <- live.Write(t.Context(), io.Discard, 0, -1) }()
	b.declareRed("host1/eth1")
	stopped := func(uid string) bool { return !b.captures[uid].Capture.StopAt.IsZero() }
	if err := b.await(t.Context(), func() bool { return stopped(lost) }); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !fault.Is(err, fault.Forbidden) {
		t.Errorf("the live stream ended with %v", err)
	}
	b.mu.Lock()
	if stopped(kept) || stopped(byRoot) {
		t.Errorf("stopped as well: %v, %v", stopped(kept), stopped(byRoot))
	}
	b.mu.Unlock()

	// A port that is given away.
	port := b.declaredPort(t, root, tap.PortWish{Name: ptr("p"), Project: ptr("red"), Node: ptr("host2"), Device: ptr("tool0")})
	mine := begin("mine", "host2/tool0")
	if _, err := b.UpdatePort(t.Context(), root, port, tap.PortWish{Project: ptr("blue")}); err != nil {
		t.Fatal(err)
	}
	if err := b.await(t.Context(), func() bool { return stopped(mine) }); err != nil {
		t.Fatal(err)
	}
}

// A rule of a project that sees some points alone finds nothing from then on, and what it found is over.
func TestRulesEndWithTheRightToSeeAll(t *testing.T) {
	r := big()
	r.Then = nil
	b, d := newDetector(t, r, nil)
	d.cross(t, "n1", "10.0.0.1", false)
	active := func() int {
		b.detection.mu.Lock()
		defer b.detection.mu.Unlock()
		return len(b.detection.active)
	}
	await.Until(t, "one is active", func() bool { return active() == 1 })
	b.declareRed("host1/eth0")
	if blind := b.blindRules(); !blind["big"] {
		t.Fatalf("blind rules: %v", blind)
	}
	for end := time.Now().Add(20 * time.Second); active() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what it found goes on")
		}
	}
	b.declareRed("*/*")
	if blind := b.blindRules(); len(blind) != 0 {
		t.Errorf("blind rules: %v", blind)
	}
}
