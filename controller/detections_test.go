package controller

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/internal/await"
	"opentap/point"
	"opentap/want"
)

// another is a further controller over the store of a bench, or the next one after it. Its nodes are the same.
func (b *bench) another(t *testing.T, d *detector) (c *bench, stop func()) {
	t.Helper()
	c = &bench{store: b.store, trail: &trail{}}
	c.Controller = New(b.cfg, b.store, c.trail, slog.New(slog.DiscardHandler))
	c.hub = &hub{c: c.Controller, node: "n1", state: running, live: d.live}
	c.SetHub(c.hub)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(cancel)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c.Joined(agentapi.Identity{NodeID: "n1", NodeName: "host1", Version: "test"})
	c.Inventory("n1", []point.Point{{Name: "eth0", Kind: point.Netdev, Present: true, Up: true, Default: true, LinkType: 1}}, want.Node{Collectors: []want.Collector{{Name: "c"}}})
	await.Until(t, "the node runs the rules for it too", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.rules["n1"]) > 0
	})
	return c, stop
}

func newListener() *detector {
	return &detector{w: make(map[string]io.Writer), rules: make(map[string][]want.Rule)}
}

// What was found, and what was begun for it, is known to the next controller: it is not begun again, and ends when its time is up.
func TestDetectionSurvivesARestart(t *testing.T) {
	r := big()
	r.Then.TTL = want.Duration(3 * time.Second)
	r.Threshold.CoolDown = want.Duration(time.Hour)
	b, d := newDetector(t, r, nil)
	first, stop := b.another(t, newListener()) // which is killed
	_ = first
	d.cross(t, "n1", "10.0.0.1", false)
	d.cross(t, "n1", "10.0.0.2", false)
	d.cross(t, "n1", "10.0.0.2", true)
	await.Until(t, "both acted", func() bool {
		e := b.events(t)
		return len(e) == 2 && e[1].Action.Capture != "" && e[0].Action.State == "done"
	})
	before := b.events(t)
	stop()
	again := newListener()
	c, _ := b.another(t, again)
	await.Until(t, "the next one knows the same", func() bool {
		after := c.events(t)
		return len(after) == 2 && after[0].ID == before[0].ID && after[1].Action.Capture == before[1].Action.Capture
	})
	again.cross(t, "n1", "10.0.0.1", false) // the node has begun anew, and tells again what goes on
	again.cross(t, "n1", "10.0.0.2", false) // and what should cool down
	again.cross(t, "n1", "10.0.0.3", false)
	await.Until(t, "only what is new is found", func() bool { return len(c.events(t)) == 3 })
	if e := c.events(t); e[0].Keys["src"] != "10.0.0.3" || e[2].ID != before[1].ID {
		t.Errorf("%+v", e)
	}
	again.tell(t, "n1", want.Detections{Tops: map[string][]want.Ranked{"big": {{Keys: []string{"10.0.0.1", "80"}, Value: 2e8, Peak: 9e8, Active: true}}}})
	await.Until(t, "what was begun ends with its time, though its flow goes on", func() bool {
		e := c.events(t)[2]
		return e.Action.State == "done" && e.Ended.IsZero()
	})
	await.Until(t, "its peak is the newest", func() bool { return c.events(t)[2].Peak == 9e8 })
	await.Until(t, "the other one knows it too", func() bool { e := b.events(t); return len(e) == 3 && e[2].Peak == 9e8 && e[2].Action.State == "done" })
}

// Two controllers that are told of the same flow make one event of it, do one thing, and keep one budget.
func TestDetectionByTwoControllers(t *testing.T) {
	r := big()
	r.Then.MaxActive = 3
	b, d := newDetector(t, r, nil)
	other := newListener()
	c, _ := b.another(t, other)
	flows := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"}
	told := make(chan struct{})
	go func() {
		defer close(told)
		for _, src := range flows {
			other.cross(t, "n1", src, false)
		}
	}()
	for _, src := range flows {
		d.cross(t, "n1", src, false)
	}
	<-told
	await.Until(t, "both know the same five", func() bool {
		mine, its := b.events(t), c.events(t)
		if len(mine) != 5 || len(its) != 5 {
			return false
		}
		for i := range mine {
			if mine[i].ID != its[i].ID || mine[i].Action != its[i].Action || mine[i].Action.State == "running" && mine[i].Action.Capture == "" {
				return false
			}
		}
		return true
	})
	states := make(map[string]int)
	for _, e := range b.events(t) {
		states[e.Action.State]++
	}
	if states["running"] != 3 || states["refused"] != 2 {
		t.Errorf("%v", states)
	}
	if n := strings.Count(b.trail.actions()+" "+c.trail.actions(), "capture.start:allowed"); n != 3 {
		t.Errorf("%d captures were started", n)
	}
	d.cross(t, "n1", flows[0], true)
	other.cross(t, "n1", flows[0], true)
	await.Until(t, "it is over for both", func() bool {
		over := 0
		for _, e := range c.events(t) {
			if !e.Ended.IsZero() {
				over++
			}
		}
		return over == 1
	})
	await.Until(t, "the capture was stopped once", func() bool {
		return strings.Count(b.trail.actions()+" "+c.trail.actions(), "capture.stop:allowed") == 1
	})
}

// What nobody ended, because the controller that was at it is gone, another ends; and what nobody finished beginning is begun.
func TestDetectionIsTakenOver(t *testing.T) {
	b, d := newDetector(t, big(), nil)
	d.cross(t, "n1", "10.0.0.1", false)
	await.Until(t, "it acts", func() bool { e := b.events(t); return len(e) == 1 && e[0].Action.Capture != "" })
	id := b.events(t)[0].ID
	capture := b.events(t)[0].Action.Capture
	if _, _, err := b.change(t.Context(), id, func(e *storedDetection) bool { e.Action.Capture = ""; return true }); err != nil { // as if it had not been written down
		t.Fatal(err)
	}
	k := carer{c: b.Controller, away: make(map[string]time.Time), written: make(map[string]time.Time)}
	see := func() { // the node still sees it
		d.tell(t, "n1", want.Detections{Tops: map[string][]want.Ranked{"big": {{Keys: []string{"10.0.0.1", "80"}, Value: 2e8, Active: true}}}})
	}
	see()
	k.look(t.Context(), time.Now().Add(takeOver/2))
	if e := b.events(t)[0]; e.Action.Capture != "" {
		t.Error("it was taken over too soon")
	}
	k.look(t.Context(), time.Now().Add(takeOver+time.Second))
	await.Until(t, "it is begun again, and is the same capture", func() bool { return b.events(t)[0].Action.Capture == capture })
	if list, err := b.Captures(t.Context(), alice); err != nil || len(list) != 1 {
		t.Errorf("%d captures, %v", len(list), err)
	}
	if _, _, err := b.change(t.Context(), id, func(e *storedDetection) bool { e.Action.State = "ending"; return true }); err != nil {
		t.Fatal(err)
	}
	see()
	k.look(t.Context(), time.Now().Add(takeOver+time.Second))
	await.Until(t, "it is ended", func() bool { return b.events(t)[0].Action.State == "done" })
}

// Old events go, and what is not done with stays.
func TestOldDetectionsAreForgotten(t *testing.T) {
	r := big()
	r.Then = nil
	b, d := newDetector(t, r, func(c *Config) { c.EventsKept = time.Hour })
	for _, src := range []string{"10.0.0.1", "10.0.0.2"} {
		d.cross(t, "n1", src, false)
	}
	d.cross(t, "n1", "10.0.0.1", true)
	await.Until(t, "one is over", func() bool { e := b.events(t); return len(e) == 2 && !e[1].Ended.IsZero() })
	k := carer{c: b.Controller, away: make(map[string]time.Time), written: make(map[string]time.Time)}
	k.look(t.Context(), time.Now().Add(30*time.Minute))
	if e := b.events(t); len(e) != 2 {
		t.Errorf("%+v", e)
	}
	d.tell(t, "n1", want.Detections{Tops: map[string][]want.Ranked{"big": {{Keys: []string{"10.0.0.2", "80"}, Value: 2e8, Active: true}}}})
	k.look(t.Context(), time.Now().Add(2*time.Hour))
	await.Until(t, "what is over for long is forgotten", func() bool { e := b.events(t); return len(e) == 1 && e[0].Keys["src"] == "10.0.0.2" })
	kvs, _, err := b.store.List(t.Context(), foundPrefix)
	if err != nil || len(kvs) != 2 {
		t.Errorf("%v, %d keys in the store: %v", err, len(kvs), kvs)
	}
}

// What could not be begun is begun when it can be, while the flow goes on.
func TestDetectionTriesAgain(t *testing.T) {
	b, d := newDetector(t, big(), nil)
	eth0 := point.Point{Name: "eth0", Kind: point.Netdev, Default: true, LinkType: 1}
	collects := want.Node{Collectors: []want.Collector{{Name: "c"}}}
	b.Inventory("n1", []point.Point{eth0}, collects)
	d.cross(t, "n1", "10.0.0.1", false)
	await.Until(t, "it fails, and says why", func() bool {
		e := b.events(t)
		return len(e) == 1 && e[0].Action.State == "failed" && strings.Contains(e[0].Action.Reason, "not there")
	})
	eth0.Present, eth0.Up = true, true
	b.Inventory("n1", []point.Point{eth0}, collects)
	d.tell(t, "n1", want.Detections{Tops: map[string][]want.Ranked{"big": {{Keys: []string{"10.0.0.1", "80"}, Value: 2e8, Active: true}}}})
	k := carer{c: b.Controller, away: make(map[string]time.Time), written: make(map[string]time.Time)}
	k.look(t.Context(), time.Now().Add(actAgain/2))
	if e := b.events(t)[0]; e.Action.State != "failed" {
		t.Errorf("too soon: %+v", e.Action)
	}
	k.look(t.Context(), time.Now().Add(actAgain+time.Second))
	await.Until(t, "it acts", func() bool {
		e := b.events(t)[0]
		return e.Action.State == "running" && e.Action.Capture != "" && e.Action.Reason == ""
	})
}
