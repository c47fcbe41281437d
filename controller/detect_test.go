package controller

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/fault"
	"opentap/internal/await"
	"opentap/point"
	"opentap/want"
)

// detector is a node that runs rules as the test says.
type detector struct {
	mu    sync.Mutex
	w     map[string]io.Writer // by node: of the stream that is open
	rules map[string][]want.Rule
	began int
}

func (d *detector) live(ctx context.Context, _ <-chan struct{}, node string, spec want.LiveSpec, w io.Writer) error {
	if spec.Look == nil || spec.Look.Detect == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	d.mu.Lock()
	d.w[node], d.rules[node] = w, spec.Look.Detect
	d.began++
	d.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// tell writes a line as a node would, cut in two.
func (d *detector) tell(t *testing.T, node string, line want.Detections) {
	t.Helper()
	b, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		if _, err := d.w[node].Write(part); err != nil {
			t.Fatal(err)
		}
	}
}

func (d *detector) cross(t *testing.T, node, src string, over bool) {
	t.Helper()
	d.tell(t, node, want.Detections{Crossing: &want.Crossing{
		Rule: "big", Keys: []string{src, "80"}, Agent: "192.0.2.1", Source: "0/0/1", Over: over, Value: 2e8, Peak: 3e8, Samples: 40, At: time.Now().UTC(),
	}})
}

func big() want.Rule {
	return want.Rule{
		Name: "big", Flow: want.RuleFlow{Keys: []string{"src", "dport"}}, Threshold: want.RuleThreshold{Above: "100Mbps"},
		Then: &want.RuleAction{Capture: &want.RuleCapture{Points: []string{"eth0"}, Filter: "host {src} and port {dport}", Past: want.Duration(10 * time.Second)}},
	}
}

// newDetector is a bench whose node collects, and has the rule run.
func newDetector(t *testing.T, r want.Rule, change func(*Config)) (*bench, *detector) {
	t.Helper()
	b := newBench(t, change)
	d := &detector{w: make(map[string]io.Writer), rules: make(map[string][]want.Rule)}
	b.hub.live = d.live
	b.Inventory("n1", []point.Point{{Name: "eth0", Kind: point.Netdev, Present: true, Up: true, Default: true, LinkType: 1}}, want.Node{Collectors: []want.Collector{{Name: "c"}}})
	if _, created, err := b.SetRule(t.Context(), alice, r); err != nil || !created {
		t.Fatal(created, err)
	}
	await.Until(t, "the node runs the rule", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.rules["n1"]) == 1
	})
	return b, d
}

func (b *bench) events(t *testing.T) []want.Detection {
	t.Helper()
	list, err := b.Detections(t.Context(), alice, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestDetectionStartsAndStopsACapture: in the name of who made the rule, filled from the flow's keys, once however often it is told.
func TestDetectionStartsAndStopsACapture(t *testing.T) {
	b, d := newDetector(t, big(), nil)
	d.cross(t, "n1", "10.0.0.1", false)
	d.cross(t, "n1", "10.0.0.1", false)
	await.Until(t, "a capture runs", func() bool { e := b.events(t); return len(e) == 1 && e[0].Action.Capture != "" })
	e := b.events(t)[0]
	v, err := b.Capture(t.Context(), alice, e.Action.Capture)
	if err != nil || v.Query.Filter != "host 10.0.0.1 and port 80" || v.Owner != "alice" || v.Project != "red" || v.Status.State != want.Running {
		t.Fatalf("%v, %+v", err, v)
	}
	if e.Keys["src"] != "10.0.0.1" || e.Keys["dport"] != "80" || e.Unit != "bit/s" || e.Threshold != 1e8 || e.Node != "host1" {
		t.Errorf("%+v", e)
	}
	if other, err := b.Detections(t.Context(), bob, "", false); err != nil || len(other) != 0 {
		t.Errorf("another project sees %v, %v", other, err)
	}
	d.cross(t, "n1", "10.0.0.1", true)
	await.Until(t, "it is over", func() bool { e := b.events(t)[0]; return !e.Ended.IsZero() && e.Action.State == "done" })
	if v, err := b.Capture(t.Context(), alice, e.Action.Capture); err != nil || !v.Status.State.Final() {
		t.Errorf("%v, %+v", err, v.Status)
	}
	if a := b.trail.actions(); !strings.Contains(a, "detect.rule.set:allowed") || !strings.Contains(a, "capture.start:allowed") || !strings.Contains(a, "capture.stop:allowed") {
		t.Error(a)
	}
}

// TestDetectionBudgets: no more acts than max_active, and none that waits for somebody to agree.
func TestDetectionBudgets(t *testing.T) {
	r := big()
	r.Then.MaxActive = 1
	b, d := newDetector(t, r, nil)
	d.cross(t, "n1", "10.0.0.1", false)
	d.cross(t, "n1", "10.0.0.2", false)
	await.Until(t, "one runs and one is refused", func() bool {
		e := b.events(t)
		return len(e) == 2 && e[1].Action.Capture != "" && e[0].Action.State == "refused" && strings.Contains(e[0].Action.Reason, "as many acts of the rule")
	})
	d.cross(t, "n1", "10.0.0.1", true)
	await.Until(t, "it is over", func() bool { return b.events(t)[1].Action.State == "done" })
	d.cross(t, "n1", "10.0.0.3", false)
	await.Until(t, "there is room again", func() bool { return b.events(t)[0].Action.Capture != "" })

	r = big()
	r.Then.Confirm = true
	b, d = newDetector(t, r, nil)
	for _, src := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		d.cross(t, "n1", src, false)
	}
	await.Until(t, "three wait", func() bool { e := b.events(t); return len(e) == 3 && e[0].Action.State == "pending" })
	e := b.events(t)
	if _, err := b.DecideDetection(t.Context(), eve, e[0].ID, true); !fault.Is(err, fault.Forbidden) {
		t.Error("a viewer agrees:", err)
	}
	if _, err := b.DecideDetection(t.Context(), bob, e[0].ID, true); !fault.Is(err, fault.NotFound) {
		t.Error("another project agrees:", err)
	}
	if _, err := b.DecideDetection(t.Context(), alice, e[0].ID, true); err != nil {
		t.Error(err)
	}
	if v, err := b.DecideDetection(t.Context(), alice, e[1].ID, false); err != nil || v.Action.State != "refused" {
		t.Error(v.Action, err)
	}
	await.Until(t, "it runs", func() bool { return b.events(t)[0].Action.Capture != "" })
	if _, err := b.DecideDetection(t.Context(), alice, e[0].ID, true); !fault.Is(err, fault.Conflict) {
		t.Error("twice:", err)
	}
	d.cross(t, "n1", "10.0.0.1", true)
	await.Until(t, "what nobody agreed to is refused", func() bool { return b.events(t)[2].Action.State == "refused" })
	if list, err := b.Captures(t.Context(), alice); err != nil || len(list) != 1 {
		t.Errorf("%d captures, %v", len(list), err)
	}
}

// TestDetectionOfSeveralNodes tells a flow once, by the node that saw it first, and ends what a node that is gone cannot end.
func TestDetectionOfSeveralNodes(t *testing.T) {
	b, d := newDetector(t, big(), nil)
	b.Joined(agentapi.Identity{NodeID: "n2", NodeName: "host2", Version: "test"})
	b.Inventory("n2", []point.Point{{Name: "eth1", Kind: point.Netdev, Present: true}}, want.Node{Collectors: []want.Collector{{Name: "c"}}})
	await.Until(t, "both run the rule", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.rules["n2"]) == 1
	})
	d.cross(t, "n1", "10.0.0.1", false)
	d.cross(t, "n2", "10.0.0.1", false)
	d.cross(t, "n2", "10.0.0.1", true) // not its to end
	d.cross(t, "n1", "10.0.0.9", false)
	await.Until(t, "all is written down", func() bool { return len(b.events(t)) == 2 })
	if e := b.events(t); !e[1].Ended.IsZero() {
		t.Fatalf("%+v", e)
	}
	d.tell(t, "n1", want.Detections{Tops: map[string][]want.Ranked{"big": {{Keys: []string{"10.0.0.1", "80"}, Value: 2e8, Active: true}, {Keys: []string{"10.0.0.9", "80"}, Value: 5}}}, Counts: &want.DetectCounts{Samples: 9}})
	d.tell(t, "n2", want.Detections{Tops: map[string][]want.Ranked{"big": {{Keys: []string{"10.0.0.1", "80"}, Value: 3e8}}}, Counts: &want.DetectCounts{Samples: 7}})
	top, err := b.TopDetect(t.Context(), alice, "big")
	if err != nil || len(top.Flows) != 2 || top.Flows[0].Value != 3e8 || !top.Flows[0].Active || top.Nodes["host1"].Samples != 9 || top.Nodes["host2"].Samples != 7 {
		t.Errorf("%v, %+v", err, top)
	}
	k := carer{c: b.Controller, away: make(map[string]time.Time), written: make(map[string]time.Time)}
	now := time.Now()
	k.look(t.Context(), now.Add(time.Minute))
	if e := b.events(t); !e[1].Ended.IsZero() {
		t.Error("what a node still sees was ended")
	}
	b.Left("n1")
	k.look(t.Context(), now)
	k.look(t.Context(), now.Add(10*time.Minute))
	if e := b.events(t); e[1].Ended.IsZero() {
		t.Error("what a node that is gone had told goes on")
	}
}

// TestRulesOfDetection: who may make them, whose they are, and what is refused.
func TestRulesOfDetection(t *testing.T) {
	b, d := newDetector(t, big(), nil)
	if _, _, err := b.SetRule(t.Context(), eve, big()); !fault.Is(err, fault.Forbidden) {
		t.Error("a viewer makes rules:", err)
	}
	if _, _, err := b.SetRule(t.Context(), bob, big()); !fault.Is(err, fault.Conflict) {
		t.Error("the rule of another project is changed:", err)
	}
	if _, err := b.Rule(t.Context(), bob, "big"); !fault.Is(err, fault.NotFound) {
		t.Error("the rule of another project is shown:", err)
	}
	if err := b.DeleteRule(t.Context(), bob, "big"); !fault.Is(err, fault.NotFound) {
		t.Error("the rule of another project is deleted:", err)
	}
	for field, change := range map[string]func(r *want.Rule){
		"flow.keys":           func(r *want.Rule) { r.Flow.Keys = nil },
		"then":                func(r *want.Rule) { r.Then.Capture.Filter = "host {dst}" },
		"then.capture.filter": func(r *want.Rule) { r.Then.Capture.Filter = "host {src} nad" },
		"then.capture.points": func(r *want.Rule) { r.Then.Capture.Points = []string{"eth9"} },
		"then.webhook":        func(r *want.Rule) { r.Then.Webhook = "http://example.com" },
		"then.max_active":     func(r *want.Rule) { r.Then.MaxActive = 1000 },
		"then.ttl":            func(r *want.Rule) { r.Then.TTL = want.Duration(100 * time.Hour) },
		"then.tap":            func(r *want.Rule) { r.Then.Tap = &want.RuleTap{Service: "x", Port: "p", Filter: "port {nothing}"} },
	} {
		r := big()
		r.Name = "other"
		change(&r)
		_, _, err := b.SetRule(t.Context(), alice, r)
		var f *fault.Error
		if !errors.As(err, &f) || f.Field != field && !(strings.HasPrefix(field, "then.tap") && strings.HasPrefix(f.Field, "then")) {
			t.Errorf("%s: %v", field, err)
		}
	}
	r := big()
	r.Then.Policy = &want.RulePolicy{From: []string{"p"}, To: []string{"t"}}
	if _, _, err := b.SetRule(t.Context(), alice, r); !fault.Is(err, fault.Forbidden) {
		t.Error("a policy is the administrator's:", err)
	}
	if _, _, err := b.SetRule(t.Context(), root, r); !fault.Is(err, fault.Unsupported) {
		t.Error("there is no fabric:", err)
	}
	d.cross(t, "n1", "10.0.0.1", false)
	await.Until(t, "it acts", func() bool { e := b.events(t); return len(e) == 1 && e[0].Action.Capture != "" })
	if err := b.DeleteRule(t.Context(), alice, "big"); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "what the rule started ends with it", func() bool { e := b.events(t)[0]; return e.Action.State == "done" && !e.Ended.IsZero() })
	if list, err := b.Rules(t.Context(), alice); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestFollowDetections tells what is, and what changes.
func TestFollowDetections(t *testing.T) {
	r := big()
	r.Then = nil
	b, d := newDetector(t, r, nil)
	d.cross(t, "n1", "10.0.0.1", false)
	await.Until(t, "it is written down", func() bool { return len(b.events(t)) == 1 })
	next, err := b.FollowDetections(t.Context(), alice, "big")
	if err != nil {
		t.Fatal(err)
	}
	first, err := next(t.Context(), alice)
	if err != nil || len(first) != 1 {
		t.Fatal(first, err)
	}
	go d.cross(t, "n1", "10.0.0.1", true)
	second, err := next(t.Context(), alice)
	if err != nil || len(second) != 1 || second[0].ID != first[0].ID || second[0].Ended.IsZero() {
		t.Fatal(second, err)
	}
	if _, err := next(t.Context(), eve); !fault.Is(err, fault.Forbidden) {
		t.Error("rights that were taken away still hold:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := next(ctx, alice); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
