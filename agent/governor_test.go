package agent

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/capture"
	"opentap/internal/await"
	"opentap/ledger"
	"opentap/want"
)

func TestGovernorDegradesInOrderAndReturns(t *testing.T) {
	g := newGovernor(Budgets{CPU: 1})
	for want := 1; want < len(stages); want++ {
		for i := range riseAfter {
			if changed := g.step(usage{cpu: 1.5}); changed != (i == riseAfter-1) {
				t.Fatalf("stage %d, look %d: changed %v", want, i, changed)
			}
		}
		if g.stage != want || !strings.Contains(g.reason(), "1.50 of 1.00 cores") || !strings.Contains(g.reason(), stages[want].means) {
			t.Fatalf("stage %d: %q", g.stage, g.reason())
		}
	}
	for range 100 {
		if g.step(usage{cpu: 2}) {
			t.Fatal("beyond the last stage")
		}
	}
	for range 100 { // between well below and over: it stays
		if g.step(usage{cpu: 0.9}) {
			t.Fatal("it moved inside its band")
		}
	}
	for want := len(stages) - 2; want >= 0; want-- {
		for range fallAfter {
			g.step(usage{cpu: 0.1})
		}
		if g.stage != want {
			t.Fatalf("stage %d, want %d", g.stage, want)
		}
	}
	if g.reason() != "" {
		t.Errorf("reason %q", g.reason())
	}
}

// Load that comes back each time makes it wait longer each time.
func TestGovernorDoesNotFlap(t *testing.T) {
	g := newGovernor(Budgets{Memory: 1 << 30})
	changes := 0
	for range 3600 { // an hour of a load that is too much without restraint and little with it
		u := usage{memory: 2 << 30}
		if g.stage > 0 {
			u.memory = 1 << 20
		}
		if g.step(u) {
			changes++
		}
	}
	if changes > 40 {
		t.Errorf("%d changes in an hour", changes)
	}
	for range 2 * fallLatest {
		g.step(usage{})
	}
	if g.stage != 0 || g.patience != fallAfter {
		t.Errorf("after calm: stage %d, patience %d", g.stage, g.patience)
	}
}

// Whatever is measured, it moves one stage at a time, and with no budget not at all.
func TestGovernorStepsOneAtATime(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		g, free := newGovernor(Budgets{CPU: rnd.Float64() * 4, Memory: rnd.Int64N(1 << 32), Disk: rnd.Int64N(1e9)}), newGovernor(Budgets{})
		for range 500 {
			was := g.stage
			u := usage{cpu: rnd.Float64() * 6, memory: rnd.Int64N(1 << 33), disk: rnd.Int64N(2e9)}
			if changed := g.step(u); changed != (g.stage != was) || g.stage-was > 1 || was-g.stage > 1 || (g.reason() == "") != (g.stage == 0) {
				t.Fatalf("from %d to %d, %v", was, g.stage, changed)
			}
			if free.step(u) {
				t.Fatal("without a budget")
			}
		}
	}
}

func TestGovernorMeasuresThisProcess(t *testing.T) {
	m := &gauge{}
	if _, ok, err := m.read(time.Now()); ok || err != nil {
		t.Fatalf("first: %v, %v", ok, err)
	}
	x := 0.0
	for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); {
		x += math.Sqrt(x + 1)
	}
	u, ok, err := m.read(time.Now())
	if err != nil || !ok || u.cpu <= 0 || u.memory < 1<<20 || x == 0 {
		t.Errorf("%+v, %v, %v", u, ok, err)
	}
}

func TestBudgetsThatMakeNoSense(t *testing.T) {
	for _, b := range []Budgets{{CPU: -1}, {CPU: math.NaN()}, {CPU: math.Inf(1)}, {Memory: 1 << 20}, {Memory: -1}, {Disk: -5}} {
		if b.check() == nil {
			t.Errorf("%+v is taken", b)
		}
	}
	for _, b := range []Budgets{{}, {CPU: 0.5, Memory: 1 << 30, Disk: 1e8}} {
		if err := b.check(); err != nil {
			t.Error(err)
		}
	}
}

// A restrained engine shows in the captures, and goes on as before when it is let go.
func TestNetnsRestraintShowsInCaptures(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	h := newHost(t, nil)
	h.start()
	pk := asked(1, want.Packets, port)
	h.obey(1, pk)
	h.awaitState(pk.UID, want.Running)
	out.send(20)
	await.Until(t, "20 are taken", func() bool { return h.state(pk.UID).Ledger.Captured == 20 })
	reason := "one in 4"
	h.governed.Store(&governed{1, reason})
	h.engine.Restrain(capture.Restraint{OneIn: 4})
	if st := h.awaitState(pk.UID, want.Degraded); st.Reason != reason {
		t.Errorf("%+v", st)
	}
	out.send(40)
	await.Until(t, "10 more are taken", func() bool {
		l := h.state(pk.UID).Ledger
		return l.Captured == 30 && l.SampledOut == 30
	})
	reason2 := ""
	h.governed.Store(&governed{2, reason2})
	h.engine.Restrain(capture.Restraint{})
	h.awaitState(pk.UID, want.Running)
	out.send(5)
	await.Until(t, "5 more are taken", func() bool { l := h.state(pk.UID).Ledger; return l.Captured == 35 && l.Check() == nil })
}

func TestACaptureThatGetsNothingSaysSo(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "class/net/eth0/statistics")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	count := func(rx, tx string) {
		for name, v := range map[string]string{"rx_packets": rx, "tx_packets": tx} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(v+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	a := &Agent{cfg: Config{SysfsRoot: root}}
	var h hunger
	var acc ledger.Account
	now := time.Unix(1000, 0)
	look := func(after time.Duration) string {
		now = now.Add(after)
		return h.look(a, []string{"eth0"}, &acc, now)
	}
	count("100", "10")
	if r := look(0); r != "" {
		t.Error(r)
	}
	if r := look(time.Minute); r != "" {
		t.Errorf("on a quiet interface: %s", r)
	}
	count("150", "15")
	if r := look(time.Second); !strings.Contains(r, "55 packets") || !strings.Contains(r, "none of them came") {
		t.Errorf("nothing came: %q", r)
	}
	if r := look(time.Millisecond); r == "" {
		t.Error("forgotten between two looks")
	}
	a.cfg.Capture.Dedicated = map[string]int{"eth0": 0}
	count("110", "900")
	if r := look(time.Second); r != "" {
		t.Errorf("what the host sends does not come to a dedicated port: %s", r)
	}
	a.cfg.Capture.Dedicated = nil
	count("5", "5") // the device was there anew
	if r := look(time.Second); r != "" {
		t.Errorf("a new device: %s", r)
	}
	acc = ledger.Account{Filtered: 5000, Seen: 5000}
	if r := look(2 * time.Minute); !strings.Contains(r, "none passed the filter") {
		t.Errorf("all refused: %q", r)
	}
	acc.Captured, acc.Seen = 1, 5001
	if r := look(time.Second); r != "" {
		t.Errorf("fed: %s", r)
	}
	count("50", "50")
	if r := look(emptyAfter); !strings.Contains(r, "90 packets in 10s") {
		t.Errorf("nothing comes any more: %q", r)
	}
	h.rest()
	if r := look(time.Minute); r != "" {
		t.Errorf("after a rest: %s", r)
	}
	var other hunger
	if r := other.look(a, []string{"gone"}, &acc, now); r != "" {
		t.Errorf("no counters: %s", r)
	}
}
