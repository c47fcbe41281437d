package controller

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/audit"
	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/point"
	"opentap/store"
	"opentap/store/mem"
	"opentap/want"
)

// trail is an audit log in memory that can fail.
type trail struct {
	mu      sync.Mutex
	entries []audit.Entry
	err     error
}

func (t *trail) Append(_ context.Context, e audit.Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	t.entries = append(t.entries, e)
	return nil
}

func (t *trail) actions() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b []string
	for _, e := range t.entries {
		b = append(b, e.Action+":"+string(e.Outcome))
	}
	return strings.Join(b, " ")
}

// hub is an agent that takes what is desired at once and answers as the test wants, one thing after the other.
type hub struct {
	c     *Controller
	turn  sync.Mutex
	node  string
	state func(want.Capture) want.Status // nil = it does not report
	opens int
	live  liveFunc
}

func (h *hub) Kick(nodeID string) {
	if nodeID != h.node || h.state == nil {
		return
	}
	go func() {
		h.turn.Lock()
		defer h.turn.Unlock()
		d, err := h.c.Desired(context.Background(), nodeID)
		rev, captures := d.Revision, d.Captures
		if err != nil {
			return
		}
		var out []want.Status
		for _, c := range captures {
			out = append(out, h.state(c))
		}
		h.c.Actual(nodeID, rev, out, true)
	}()
}

func (h *hub) Open(context.Context, string, string, string, want.OpenOptions) (*want.Retrieval, error) {
	h.opens++
	return &want.Retrieval{}, nil
}

type bench struct {
	*Controller
	store store.Store
	trail *trail
	hub   *hub
}

var (
	alice = auth.Identity{Name: "alice", Project: "red", Role: "owner", Rights: auth.SeeMetadata | auth.Start | auth.ReadPayload | auth.Delete}
	bob   = auth.Identity{Name: "bob", Project: "blue", Role: "owner", Rights: alice.Rights}
	eve   = auth.Identity{Name: "eve", Project: "red", Role: "viewer", Rights: auth.SeeMetadata}
	root  = auth.Identity{Name: "root", Project: "default", Role: "admin", Rights: auth.Everything}
)

func running(c want.Capture) want.Status {
	s := want.Status{UID: c.UID, State: want.Running, Started: time.Now()}
	if !c.StopAt.IsZero() {
		s.State, s.Ended, s.Reason = want.Stopped, time.Now(), "stopped on request"
	}
	return s
}

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Aliases = []point.Alias{{Name: "uplink", Target: "eth0"}}
	if change != nil {
		change(&cfg)
	}
	b := &bench{store: mem.New(mem.Config{}), trail: &trail{}}
	b.Controller = New(cfg, b.store, b.trail, slog.New(slog.DiscardHandler))
	b.hub = &hub{c: b.Controller, node: "n1", state: running}
	b.SetHub(b.hub)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if err := b.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	b.Joined(agentapi.Identity{NodeID: "n1", NodeName: "host1", Version: "test"})
	b.Inventory("n1", []point.Point{
		{Name: "eth0", Kind: point.Netdev, Present: true, Up: true, Default: true, LinkType: 1},
		{Name: "can0", Kind: point.Netdev, Present: true, NoPcap: "CAN frames cannot be recorded"},
		{Name: "temp1", Kind: point.Sensor, Present: true, Quantity: "temperature", Unit: "Cel"},
	}, want.Node{})
	return b
}

func (b *bench) create(t *testing.T, id auth.Identity, r want.Request) want.View {
	t.Helper()
	v, _, err := b.CreateCapture(t.Context(), id, r)
	if err != nil {
		t.Fatalf("create %+v: %v", r, err)
	}
	return v
}

func TestCreateResolvesAndReports(t *testing.T) {
	b := newBench(t, nil)
	v := b.create(t, alice, want.Request{Kind: want.Packets, Points: []string{"uplink"}, Filter: "port 80", Duration: want.Duration(time.Minute)})
	if got := v.Query.Points; len(got) != 1 || got[0] != "eth0" {
		t.Errorf("points = %q, want the device eth0", got)
	}
	if v.Status.State != want.Running || v.Node != "host1" || v.Project != "red" || v.Owner != "alice" {
		t.Errorf("view = %+v", v)
	}
	if v.Filtering == "" || v.Retain != want.Duration(time.Hour) {
		t.Errorf("filtering %q, retain %v", v.Filtering, v.Retain)
	}
	if got := b.trail.actions(); got != "capture.start:allowed" {
		t.Errorf("audit = %q", got)
	}
}

func TestRefusals(t *testing.T) {
	now := time.Now()
	minute := want.Duration(time.Minute)
	for name, tt := range map[string]struct {
		r     want.Request
		kind  fault.Kind
		field string
	}{
		"unknown kind":          {want.Request{Kind: "video"}, fault.Invalid, "kind"},
		"unknown point":         {want.Request{Kind: want.Packets, Points: []string{"eth9"}}, fault.NotFound, "points"},
		"same point twice":      {want.Request{Kind: want.Packets, Points: []string{"eth0", "uplink"}}, fault.Invalid, "points"},
		"no packets there":      {want.Request{Kind: want.Packets, Points: []string{"can0"}}, fault.Unsupported, ""},
		"packets of a sensor":   {want.Request{Kind: want.Packets, Points: []string{"temp1"}}, fault.Invalid, "points"},
		"sensor of a device":    {want.Request{Kind: want.Sensor, Points: []string{"eth0"}}, fault.Invalid, "points"},
		"wrong quantity":        {want.Request{Kind: "vibration", Points: []string{"temp1"}}, fault.Invalid, "points"},
		"no such sensor":        {want.Request{Kind: "motion"}, fault.Unsupported, "points"},
		"two ends":              {want.Request{Kind: want.Packets, To: now.Add(time.Hour), Duration: minute}, fault.Invalid, "duration"},
		"end before start":      {want.Request{Kind: want.Packets, From: now.Add(time.Hour), To: now.Add(time.Minute)}, fault.Invalid, "to"},
		"unrecorded past":       {want.Request{Kind: want.Packets, From: now.Add(-time.Hour), Duration: want.Duration(2 * time.Hour)}, fault.Invalid, "from"},
		"ends in the past":      {want.Request{Kind: want.Packets, From: now.Add(-time.Hour), Duration: minute, MovePast: true}, fault.Invalid, "to"},
		"too far ahead":         {want.Request{Kind: want.Packets, From: now.Add(1000 * 24 * time.Hour)}, fault.Invalid, "from"},
		"bad filter":            {want.Request{Kind: want.Packets, Filter: "prot 80"}, fault.Invalid, "filter"},
		"filter of counters":    {want.Request{Kind: want.Counters, Filter: "port 80"}, fault.Invalid, "filter"},
		"limits of counters":    {want.Request{Kind: want.Counters, Limits: filter.Limits{Packets: 1}}, fault.Invalid, "limits"},
		"snap too short":        {want.Request{Kind: want.Packets, Snap: 3}, fault.Invalid, "snap"},
		"snap of flows":         {want.Request{Kind: want.Flows, Snap: 64}, fault.Invalid, "snap"},
		"period of packets":     {want.Request{Kind: want.Packets, Period: minute}, fault.Invalid, "period"},
		"period too short":      {want.Request{Kind: want.Counters, Period: 1}, fault.Invalid, "period"},
		"id not printable":      {want.Request{Kind: want.Packets, ID: "a\nb"}, fault.Invalid, "id"},
		"id too long":           {want.Request{Kind: want.Packets, ID: strings.Repeat("x", 201)}, fault.Invalid, "id"},
		"id not text":           {want.Request{Kind: want.Packets, ID: "\xff"}, fault.Invalid, "id"},
		"negative duration":     {want.Request{Kind: want.Packets, Duration: -1}, fault.Invalid, "duration"},
		"longer than allowed":   {want.Request{Kind: want.Packets, Duration: want.Duration(25 * time.Hour)}, fault.Invalid, "duration"},
		"retained for too long": {want.Request{Kind: want.Packets, Retain: want.Duration(49 * time.Hour)}, fault.Invalid, "retain"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *Config) { c.DurationMax, c.RetentionMax = 24*time.Hour, 48*time.Hour })
			_, _, err := b.CreateCapture(t.Context(), alice, tt.r)
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != tt.kind || f.Field != tt.field {
				t.Fatalf("error = %#v (%v), want kind %v, field %q", err, err, tt.kind, tt.field)
			}
			if f.Msg == "" || b.trail.actions() != "" {
				t.Errorf("msg %q, audit %q: a refused request is no act", f.Msg, b.trail.actions())
			}
		})
	}
}

func TestStartInThePastIsMovedWhenAsked(t *testing.T) {
	b := newBench(t, nil)
	v := b.create(t, alice, want.Request{Kind: want.Flows, From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), MovePast: true})
	if d := time.Since(v.Query.From); d > time.Minute || v.Note == "" {
		t.Errorf("from %v, note %q", v.Query.From, v.Note)
	}
}

func TestStartInThePastIsRecorded(t *testing.T) {
	b := newBench(t, nil)
	since := time.Now().Add(-10 * time.Minute)
	b.Inventory("n1", []point.Point{{Name: "eth0", Kind: point.Netdev, Present: true, Default: true}}, want.Node{Recorders: map[string]time.Time{"eth0": since}})
	from := time.Now().Add(-5 * time.Minute)
	v := b.create(t, alice, want.Request{Kind: want.Packets, From: from, To: time.Now().Add(-time.Minute)})
	if !v.Recorded || !v.Query.From.Equal(from) || v.Note == "" {
		t.Errorf("recorded %v, from %v, note %q", v.Recorded, v.Query.From, v.Note)
	}
}

func TestSameRequestTwice(t *testing.T) {
	b := newBench(t, nil)
	r := want.Request{ID: "../../etc/passwd", Kind: want.Packets, Duration: want.Duration(time.Minute)}
	first := b.create(t, alice, r)
	again, created, err := b.CreateCapture(t.Context(), alice, r)
	if err != nil || created || again.UID != first.UID {
		t.Errorf("second: created %v, uid %s want %s, err %v", created, again.UID, first.UID, err)
	}
	r.Filter = "port 1"
	if _, _, err := b.CreateCapture(t.Context(), alice, r); !fault.Is(err, fault.Conflict) {
		t.Errorf("other arguments: %v, want a conflict", err)
	}
	if v := b.create(t, bob, r); v.UID == first.UID {
		t.Error("another project's id is its own")
	}
}

func TestConcurrentCreatesOfOneID(t *testing.T) {
	b := newBench(t, nil)
	var wg sync.WaitGroup
	uids := make(chan string, 16)
	for range 16 {
		wg.Go(func() {
			v, _, err := b.CreateCapture(context.Background(), alice, want.Request{ID: "one", Kind: want.Packets, Duration: want.Duration(time.Minute)})
			if err != nil {
				t.Error(err)
				return
			}
			uids <- v.UID
		})
	}
	wg.Wait()
	close(uids)
	all := make(map[string]bool)
	for uid := range uids {
		all[uid] = true
	}
	if len(all) != 1 {
		t.Errorf("%d captures for one id", len(all))
	}
}

func TestTenantsSeeTheirsOnly(t *testing.T) {
	b := newBench(t, nil)
	v := b.create(t, alice, want.Request{ID: "mine", Kind: want.Packets})
	ctx := t.Context()
	if _, err := b.Capture(ctx, bob, "mine"); !fault.Is(err, fault.NotFound) {
		t.Errorf("show: %v", err)
	}
	if _, err := b.StopCapture(ctx, bob, "mine"); !fault.Is(err, fault.NotFound) {
		t.Errorf("stop: %v", err)
	}
	if err := b.DeleteCapture(ctx, bob, v.UID); !fault.Is(err, fault.NotFound) {
		t.Errorf("delete: %v", err)
	}
	if _, err := b.OpenCapture(ctx, bob, "mine", want.OpenOptions{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("open: %v", err)
	}
	if list, _ := b.Captures(ctx, bob); len(list) != 0 {
		t.Errorf("list: %v", list)
	}
	if list, _ := b.Captures(ctx, root); len(list) != 1 {
		t.Errorf("an administrator's list: %v", list)
	}
}

func TestRightsAreSeparate(t *testing.T) {
	b := newBench(t, nil)
	b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	ctx := t.Context()
	_, _, start := b.CreateCapture(ctx, eve, want.Request{Kind: want.Packets})
	_, stop := b.StopCapture(ctx, eve, "c")
	_, open := b.OpenCapture(ctx, eve, "c", want.OpenOptions{})
	del := b.DeleteCapture(ctx, eve, "c")
	for name, err := range map[string]error{"start": start, "stop": stop, "open": open, "delete": del} {
		if !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: %v, want forbidden", name, err)
		}
	}
	if _, err := b.Capture(ctx, eve, "c"); err != nil {
		t.Errorf("a viewer sees metadata: %v", err)
	}
	if _, err := b.Captures(ctx, auth.Identity{Role: "none"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("list without rights: %v", err)
	}
	want := "capture.start:allowed capture.start:denied capture.stop:denied capture.retrieve:denied capture.delete:denied capture.list:denied"
	if got := b.trail.actions(); got != want {
		t.Errorf("audit = %s\nwant    %s", got, want)
	}
}

func TestNoActWithoutItsAuditEntry(t *testing.T) {
	b := newBench(t, nil)
	b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	b.trail.err = errors.New("no space left on device")
	ctx := t.Context()
	_, _, start := b.CreateCapture(ctx, alice, want.Request{Kind: want.Packets})
	_, open := b.OpenCapture(ctx, alice, "c", want.OpenOptions{})
	del := b.DeleteCapture(ctx, alice, "c")
	for name, err := range map[string]error{"start": start, "open": open, "delete": del} {
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
	if b.hub.opens != 0 {
		t.Error("data was opened without an audit entry")
	}
	if list, err := b.Captures(ctx, alice); err != nil || len(list) != 1 {
		t.Errorf("captures = %v, %v: nothing may have changed", list, err)
	}
}

func TestStopIsIdempotentAndFinalIsStored(t *testing.T) {
	b := newBench(t, nil)
	v := b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	for range 2 {
		s, err := b.StopCapture(t.Context(), alice, "c")
		if err != nil || s.Status.State != want.Stopped {
			t.Fatalf("stop: %+v, %v", s.Status, err)
		}
	}
	err := b.await(t.Context(), func() bool { e := b.captures[v.UID]; return e != nil && e.Final != nil })
	if err != nil {
		t.Fatal(err)
	}
	b.Left("n1")
	s, err := b.Capture(t.Context(), alice, "c")
	if err != nil || s.Status.State != want.Stopped || s.Expires.IsZero() {
		t.Errorf("with the node away: %+v, %v", s, err)
	}
}

func TestExpiredCapturesGo(t *testing.T) {
	b := newBench(t, nil)
	b.hub.state = func(c want.Capture) want.Status {
		return want.Status{UID: c.UID, State: want.Done, Ended: time.Now().Add(-time.Minute)}
	}
	b.create(t, alice, want.Request{ID: "c", Kind: want.Packets, Retain: want.Duration(time.Second)})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.await(ctx, func() bool { return len(b.captures) == 0 }); err != nil {
		t.Fatal("an expired capture is still there")
	}
	if got := b.trail.actions(); got != "capture.start:allowed capture.expire:allowed" {
		t.Errorf("audit = %s", got)
	}
	kvs, _, err := b.store.List(ctx, "")
	kvs = slices.DeleteFunc(kvs, func(kv store.KV) bool { return kv.Key == placePrefix+"n1" }) // where the node's devices are
	if err != nil || len(kvs) != 0 {
		t.Errorf("left in the store: %v, %v", kvs, err)
	}
}

func TestAnAgentSpeaksForItsOwnCapturesAlone(t *testing.T) {
	b := newBench(t, nil)
	v := b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	b.Joined(agentapi.Identity{NodeID: "n2", NodeName: "host2"})
	b.Actual("n2", 1, []want.Status{{UID: v.UID, State: want.Failed, Reason: "a lie"}}, true)
	if got, err := b.Capture(t.Context(), alice, "c"); err != nil || got.Status.State != want.Running {
		t.Errorf("state = %+v, %v", got.Status, err)
	}
}

// A change that was on its way when all was told comes after it, and is older.
func TestWhatHasEndedDoesNotRunAgain(t *testing.T) {
	b := newBench(t, nil)
	v := b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	b.Actual("n1", 2, []want.Status{{UID: v.UID, State: want.Stopped, Reason: "stopped on request", Ended: time.Now()}}, true)
	b.Actual("n1", 2, []want.Status{{UID: v.UID, State: want.Running}}, false)
	if err := b.await(t.Context(), func() bool { return b.captures[v.UID].Final != nil }); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Capture(t.Context(), alice, "c"); err != nil || got.Status.State != want.Stopped {
		t.Errorf("state = %+v, %v", got.Status, err)
	}
}

func TestProjectQuota(t *testing.T) {
	b := newBench(t, func(c *Config) { c.CapturesMax = 1 })
	b.create(t, alice, want.Request{Kind: want.Packets})
	if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: want.Packets}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("second capture: %v", err)
	}
	b.create(t, bob, want.Request{Kind: want.Packets})
}

func TestSilentNodeIsSaid(t *testing.T) {
	b := newBench(t, func(c *Config) { c.SettleWait = 10 * time.Millisecond })
	b.hub.state = nil
	v := b.create(t, alice, want.Request{Kind: want.Packets})
	if v.Status.State != want.Scheduled || !strings.Contains(v.Status.Reason, "has not taken it yet") {
		t.Errorf("status = %+v", v.Status)
	}
	b.Left("n1")
	if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: want.Packets}); err == nil {
		t.Error("a capture was accepted for a node that is away")
	}
}

func TestCapabilitiesAreWhatIsThere(t *testing.T) {
	b := newBench(t, nil)
	c, err := b.Capabilities(t.Context(), eve)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, k := range c.Kinds {
		kinds = append(kinds, string(k))
	}
	if got := strings.Join(kinds, " "); got != "pcap netflow ethernet sensor temperature" {
		t.Errorf("kinds = %s", got)
	}
	if c.Missing["motion"] == "" || c.DefaultPoint != "eth0" {
		t.Errorf("missing %v, default %q", c.Missing, c.DefaultPoint)
	}
}
