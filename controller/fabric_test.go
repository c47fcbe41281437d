package controller

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/store/mem"
	"opentap/want"
)

var (
	boss   = auth.Identity{Name: "boss", Role: "admin", Rights: auth.SeeMetadata | auth.Administer, Project: "p"}
	viewer = auth.Identity{Name: "viewer", Role: "viewer", Rights: auth.SeeMetadata, Project: "p"}
	nobody = auth.Identity{Name: "nobody", Role: "none"}
)

// weave is a controller that takes switches, with nothing else.
func weave(t *testing.T, st store.Store) (*Controller, *trail) {
	t.Helper()
	tr := &trail{}
	cfg := DefaultConfig()
	cfg.SettleWait = 300 * time.Millisecond
	c := New(cfg, st, tr, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.SetHub(&hub{c: c})
	c.ServeFabric(l, time.Hour, 0, "one")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.runFabric(ctx) })
	wg.Go(func() { _ = c.follow(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, _, _, err := c.theFabric(); err == nil {
			return c, tr
		}
		if time.Now().After(deadline) {
			t.Fatal("the fabric is not known")
		}
	}
}

func aFabric() want.Fabric {
	return want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}},
		Ports:    map[string]want.FabricPort{"in": {At: "s1/1", Role: want.RoleFilter}, "out": {At: "s1/2", Role: want.RoleDelivery}},
		Policies: []want.FabricPolicy{{Name: "a", From: []string{"in"}, To: []string{"out"}}},
	}
}

func names(v want.FabricView) string {
	var out []string
	for _, p := range v.Policies {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func TestFabricIsKeptAndMerged(t *testing.T) {
	st := mem.New(mem.Config{})
	c, tr := weave(t, st)
	ctx := context.Background()
	v, err := c.SetFabric(ctx, boss, aFabric(), false)
	if err != nil || names(v) != "a" || v.Policies[0].Owner != "boss" || v.Policies[0].State != want.PolicyPending {
		t.Fatalf("%v %+v", err, v)
	}
	first := v.Policies[0].Changed
	if p, created, err := c.SetFabricPolicy(ctx, boss, "b", want.FabricPolicy{From: []string{"in"}, To: []string{"out"}, Filter: "tcp"}); err != nil || !created || p.Name != "b" {
		t.Fatalf("%v %v %+v", err, created, p)
	}
	if _, created, err := c.SetFabricPolicy(ctx, boss, "b", want.FabricPolicy{From: []string{"in"}, To: []string{"out"}, Filter: "udp"}); err != nil || created {
		t.Fatal(err, created)
	}
	// Applied again, what is the same stays untouched, and what is not named stays.
	if v, err = c.SetFabric(ctx, boss, aFabric(), false); err != nil || names(v) != "a b" || !v.Policies[0].Changed.Equal(first) {
		t.Errorf("%v %s, changed %s, was %s", err, names(v), v.Policies[0].Changed, first)
	}
	if v, err = c.SetFabric(ctx, boss, aFabric(), true); err != nil || names(v) != "a" {
		t.Errorf("%v %s", err, names(v))
	}
	bad := aFabric()
	bad.Policies[0].To = []string{"in"}
	if _, err := c.SetFabric(ctx, boss, bad, false); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	// A policy that stays and does not fit any more is told about, and nothing changes.
	small := aFabric()
	delete(small.Ports, "out")
	small.Policies = nil
	if _, err := c.SetFabric(ctx, boss, small, false); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "out") {
		t.Error(err)
	}
	if err := c.DeleteFabricPolicy(ctx, boss, "a"); err != nil {
		t.Error(err)
	}
	if err := c.DeleteFabricPolicy(ctx, boss, "a"); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if err := c.DeleteFabric(ctx, boss); err != nil {
		t.Error(err)
	}
	if err := c.DeleteFabric(ctx, boss); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if a := tr.actions(); !strings.Contains(a, "fabric.set:allowed fabric.policy.set:allowed") || !strings.Contains(a, "fabric.policy.delete:allowed") || !strings.HasSuffix(a, "fabric.delete:allowed") {
		t.Error(a)
	}
}

func TestFabricRights(t *testing.T) {
	c, tr := weave(t, mem.New(mem.Config{}))
	ctx := context.Background()
	if _, err := c.SetFabric(ctx, boss, aFabric(), false); err != nil {
		t.Fatal(err)
	}
	for name, act := range map[string]func(id auth.Identity) error{
		"fabric.set":    func(id auth.Identity) error { _, err := c.SetFabric(ctx, id, aFabric(), false); return err },
		"fabric.delete": func(id auth.Identity) error { return c.DeleteFabric(ctx, id) },
		"fabric.policy.set": func(id auth.Identity) error {
			_, _, err := c.SetFabricPolicy(ctx, id, "x", aFabric().Policies[0])
			return err
		},
		"fabric.policy.delete": func(id auth.Identity) error { return c.DeleteFabricPolicy(ctx, id, "a") },
		"fabric.probe":         func(id auth.Identity) error { _, err := c.ProbeFabric(ctx, id, "a"); return err },
	} {
		if err := act(viewer); !fault.Is(err, fault.Forbidden) || !strings.Contains(tr.actions(), name+":denied") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, act := range map[string]func(id auth.Identity) error{
		"fabric.show":   func(id auth.Identity) error { _, err := c.Fabric(ctx, id, true); return err },
		"fabric.verify": func(id auth.Identity) error { _, err := c.VerifyFabric(ctx, id); return err },
		"fabric.drift":  func(id auth.Identity) error { _, err := c.FabricDrift(ctx, id); return err },
		"fabric.plan":   func(id auth.Identity) error { _, err := c.PlanFabric(ctx, id, aFabric(), false); return err },
		"policy":        func(id auth.Identity) error { _, err := c.FabricPolicy(ctx, id, "a"); return err },
	} {
		if err := act(viewer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := act(nobody); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nothing is changed that cannot be written down.
	tr.mu.Lock()
	tr.err = errors.New("the disk is full")
	tr.mu.Unlock()
	if _, err := c.SetFabric(ctx, boss, want.Fabric{Switches: map[string]want.FabricSwitch{}}, true); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
	if v, _ := c.Fabric(ctx, boss, false); names(v) != "a" {
		t.Error("it was changed all the same")
	}
}

func TestFabricPoliciesEnd(t *testing.T) {
	st := mem.New(mem.Config{})
	c, tr := weave(t, st)
	f := aFabric()
	f.Policies[0].TTL = want.Duration(50 * time.Millisecond)
	v, err := c.SetFabric(context.Background(), boss, f, false)
	if err != nil || v.Policies[0].Expires.IsZero() {
		t.Fatal(err, v)
	}
	for deadline := time.Now().Add(20 * time.Second); names(v) != ""; time.Sleep(10 * time.Millisecond) {
		if v, _ = c.Fabric(context.Background(), boss, false); time.Now().After(deadline) {
			t.Fatal("the policy stays")
		}
	}
	if !strings.Contains(tr.actions(), "fabric.policy.expire:allowed") {
		t.Error(tr.actions())
	}
}

func TestWithoutListenerThereIsNoFabric(t *testing.T) {
	c := New(DefaultConfig(), mem.New(mem.Config{}), &trail{}, slog.New(slog.DiscardHandler))
	if _, err := c.Fabric(context.Background(), boss, false); !fault.Is(err, fault.Unsupported) || !strings.Contains(err.(*fault.Error).Hint, "--openflow") {
		t.Error(err)
	}
}

// leader takes note of its terms.
type leader struct {
	mu   sync.Mutex
	term uint64
}

func (l *leader) Lead(term uint64) { l.mu.Lock(); l.term = term; l.mu.Unlock() }
func (l *leader) now() uint64      { l.mu.Lock(); defer l.mu.Unlock(); return l.term }

func TestOneControllerLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := mem.New(mem.Config{})
		start := func(id string) (*leader, *elector, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			e := &leader{}
			v := &elector{store: st, id: id, engine: e, seen: make(chan uint64, 1)}
			go v.run(ctx)
			synctest.Wait()
			return e, v, cancel
		}
		a, va, stopA := start("a")
		b, _, stopB := start("b")
		defer stopB()
		time.Sleep(time.Minute)
		if a.now() != 1 || b.now() != 0 {
			t.Fatalf("%d and %d", a.now(), b.now())
		}
		// A switch knows a later election: the next term is above it.
		va.overtaken(40)
		time.Sleep(3 * leadRenew)
		if a.now() != 41 || b.now() != 0 {
			t.Errorf("%d and %d", a.now(), b.now())
		}
		// One that goes in good order is followed at once, by a later term.
		stopA()
		time.Sleep(2 * leadRenew)
		if a.now() != 0 || b.now() <= 41 {
			t.Errorf("%d and %d", a.now(), b.now())
		}
		// It comes back, and waits.
		a, _, stopA = start("a")
		time.Sleep(time.Minute)
		if a.now() != 0 || b.now() == 0 {
			t.Errorf("%d and %d", a.now(), b.now())
		}
		// Somebody else writes itself down, as after a partition: the one who led stops at once.
		was := b.now()
		if _, err := st.Txn(t.Context(), nil, []store.Op{store.Put(fabricLeader, []byte(`{"id":"c","term":90}`))}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(leadRenew + time.Millisecond)
		if b.now() != 0 {
			t.Errorf("%d leads still", b.now())
		}
		// And as that one is never heard again, somebody takes over, above both.
		time.Sleep(2 * leadLost)
		if got := max(a.now(), b.now()); got <= 90 || a.now() != 0 && b.now() != 0 || got <= was {
			t.Errorf("%d and %d", a.now(), b.now())
		}
		stopA()
		stopB()
		synctest.Wait()
	})
}
