package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"opentap/tap"
)

// kernel is what outlives a process: a driver's world.
type kernel struct {
	mu      sync.Mutex
	sources map[string]tap.Source
	sinks   map[string]tap.Sink
	counts  map[string]uint64
	broken  map[string]bool // ids whose programs fell off
	fail    error           // of updates
	updates int
}

func newKernel() *kernel {
	return &kernel{sources: map[string]tap.Source{}, sinks: map[string]tap.Sink{}, counts: map[string]uint64{}, broken: map[string]bool{}}
}

// with has fn look at it or change it.
func (k *kernel) with(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

// made is how many sources there are.
func (k *kernel) made() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.sources)
}

// fake is a driver in it.
type fake struct{ *kernel }

func (f fake) Name() string { return "fake" }

func (f fake) Takes(d tap.Device) error {
	if d.Name == "tun0" {
		return fmt.Errorf("%w: no Ethernet", tap.ErrUnsupported)
	}
	return nil
}

func (f fake) UpdateSource(_ context.Context, s tap.Source) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.updates++
	if f.fail != nil {
		return "", f.fail
	}
	f.sources[s.ID] = s
	delete(f.broken, s.ID)
	return "note of " + s.Device.Name, nil
}

func (f fake) UpdateSink(_ context.Context, s tap.Sink) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sinks[s.ID] = s
	return "", f.fail
}

func (f fake) Delete(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sources, id)
	delete(f.sinks, id)
	delete(f.counts, id)
	return nil
}

func (f fake) Prune(_ context.Context, keep func(string) bool) (removed []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range append(slices.Collect(maps.Keys(f.sources)), slices.Collect(maps.Keys(f.sinks))...) {
		if !keep(id) {
			removed = append(removed, id)
			delete(f.sources, id)
			delete(f.sinks, id)
			delete(f.counts, id)
		}
	}
	return removed, nil
}

func (f fake) Counts(id string) (tap.Counts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.sources[id]; !ok {
		return tap.Counts{}, os.ErrNotExist
	}
	n := f.counts[id]
	return tap.Counts{Seen: n, Mirrored: n}, nil
}

func (f fake) Stands(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.broken[id]
}

func (f fake) Close() error { return nil }

// process is a Reconciler that runs on a kernel.
type process struct {
	*Reconciler
	t       *testing.T
	k       *kernel
	mu      sync.Mutex
	devices map[string]int
	memos   []Memo
	told    int
	stop    func()
}

func start(t *testing.T, k *kernel, set tap.Set, known []Memo, alive time.Time, devices ...string) *process {
	p := &process{t: t, k: k, devices: map[string]int{}}
	for i, d := range devices {
		p.devices[d] = i + 1
	}
	p.Reconciler = New(Config{
		Drivers: []tap.Driver{fake{k}},
		Find: func(d tap.Device) (Place, bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			i, ok := p.devices[d.Name]
			return Place{Name: d.Name, Index: i}, ok
		},
		Changed: func() { p.mu.Lock(); p.told++; p.mu.Unlock() },
		Keep:    func(m []Memo) { p.mu.Lock(); p.memos = m; p.mu.Unlock() },
		Known:   known, Alive: alive,
	}, set)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	p.stop = func() { cancel(); <-done }
	t.Cleanup(p.stop)
	synctest.Wait()
	return p
}

// device puts a device there; 0 takes it away.
func (p *process) device(name string, index int) {
	p.mu.Lock()
	if index == 0 {
		delete(p.devices, name)
	} else {
		p.devices[name] = index
	}
	p.mu.Unlock()
	p.Poke()
	synctest.Wait()
}

func (p *process) want(id string, s tap.State, gaps int) tap.Status {
	p.t.Helper()
	for _, st := range p.Statuses() {
		if st.ID == id {
			if st.State != s || len(st.Gaps) != gaps {
				p.t.Fatalf("%s is %+v, want %s with %d gaps", id, st, s, gaps)
			}
			if s == tap.Failed && st.Reason == "" {
				p.t.Fatalf("%s failed and says no reason", id)
			}
			return st
		}
	}
	p.t.Fatalf("nothing is said of %s", id)
	return tap.Status{}
}

func src(id, dev string) tap.Source {
	return tap.Source{ID: id, Device: tap.Device{Name: dev}, Direction: tap.Both, To: tap.Target{Device: tap.Device{Name: "mon"}}}
}

func set(s ...tap.Source) tap.Set { return tap.Set{Sources: s} }

func TestDevicesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		p := start(t, k, set(src("a", "eth1")), nil, time.Time{}, "mon")
		if st := p.want("a", tap.Pending, 0); st.Reason != "waits for the device eth1" {
			t.Errorf("reason %q", st.Reason)
		}
		p.device("eth1", 7)
		st := p.want("a", tap.Active, 0)
		if st.Device != "eth1" || st.Driver != "fake" || st.Note != "note of eth1" {
			t.Errorf("status %+v", st)
		}
		k.with(func() { k.counts["a"] = 5 })
		time.Sleep(1500 * time.Millisecond)
		from := time.Now()
		p.device("eth1", 0)
		if st := p.want("a", tap.Pending, 1); !st.Gaps[0].From.Equal(from) || !st.Gaps[0].To.IsZero() || st.Counts.Seen != 5 {
			t.Errorf("without its device: %+v", st)
		}
		time.Sleep(3 * time.Second)
		p.device("eth1", 9)
		k.with(func() { k.counts["a"] = 2 })
		time.Sleep(1500 * time.Millisecond)
		if st := p.want("a", tap.Active, 1); st.Gaps[0].To.Sub(from) != 3*time.Second || st.Counts.Seen != 7 {
			t.Errorf("with its device again: %+v", st)
		}
		p.device("mon", 0)
		p.want("a", tap.Pending, 2)
		if k.made() != 0 {
			t.Error("copies go on though their destination is gone")
		}
	})
}

func TestWishesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.sources["stranger"] = src("stranger", "eth1")
		p := start(t, k, set(src("a", "eth1")), nil, time.Time{}, "eth1", "mon")
		n := 0
		k.with(func() {
			if _, ok := k.sources["stranger"]; ok {
				t.Error("what an earlier process left stays")
			}
			n = k.updates
		})
		p.Set(set(src("a", "eth1"), src("b", "eth1"), src("c", "tun0")))
		synctest.Wait()
		p.want("a", tap.Active, 0)
		p.want("b", tap.Active, 0)
		k.with(func() {
			if k.updates != n+1 {
				t.Errorf("%d updates for one new tap", k.updates-n)
			}
		})
		p.device("tun0", 3)
		if st := p.want("c", tap.Failed, 0); st.Reason != "fake: not supported here: no Ethernet" {
			t.Errorf("reason %q", st.Reason)
		}
		k.with(func() { k.fail = errors.New("the kernel refuses") })
		changed := src("a", "eth1")
		changed.Options.Snap = 64
		p.Set(set(changed, src("b", "eth1")))
		synctest.Wait()
		p.want("a", tap.Failed, 1)
		k.with(func() {
			if _, ok := k.sources["a"]; ok {
				t.Error("what is not wished for any more goes on")
			}
		})
		k.with(func() { k.fail = nil })
		time.Sleep(time.Second)
		if st := p.want("a", tap.Active, 1); st.Gaps[0].To.IsZero() {
			t.Errorf("the gap is open: %+v", st)
		}
		p.Set(tap.Set{})
		synctest.Wait()
		if k.made() != 0 || len(p.Statuses()) != 0 {
			t.Errorf("%d are left, %v", k.made(), p.Statuses())
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		s := src("a", "eth1")
		s.Options.Expires = time.Now().Add(time.Minute)
		p := start(t, k, set(s), nil, time.Time{}, "eth1", "mon")
		p.want("a", tap.Active, 0)
		k.with(func() { k.counts["a"] = 3 })
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
		if st := p.want("a", tap.Expired, 0); st.Counts.Seen != 3 {
			t.Errorf("expired as %+v", st)
		}
		if k.made() != 0 {
			t.Error("a tap outlived its expiry")
		}
		s.Options.Expires = time.Now().Add(time.Minute)
		p.Set(set(s))
		synctest.Wait()
		p.want("a", tap.Active, 0)
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		p := start(t, k, set(src("a", "eth1"), src("b", "eth1"), src("c", "eth1")), nil, time.Time{}, "eth1", "mon")
		since := p.want("a", tap.Active, 0).Since
		alive := time.Now()
		p.stop()
		time.Sleep(time.Minute)
		k.with(func() { delete(k.sources, "b") })
		k.with(func() { k.broken["c"] = true })
		k.counts["a"] = 4
		q := start(t, k, set(src("a", "eth1"), src("b", "eth1"), src("c", "eth1")), p.memos, alive, "eth1", "mon")
		if st := q.want("a", tap.Active, 0); !st.Since.Equal(since) || st.Counts.Seen != 4 {
			t.Errorf("a went on: %+v", st)
		}
		for _, id := range []string{"b", "c"} {
			if st := q.want(id, tap.Active, 1); !st.Gaps[0].From.Equal(alive) || st.Gaps[0].To.Sub(alive) < time.Minute {
				t.Errorf("%s did not go on, and says %+v", id, st.Gaps)
			}
		}
	})
}

func TestWhatFallsOffIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		p := start(t, k, set(src("a", "eth1")), nil, time.Time{}, "eth1", "mon")
		p.want("a", tap.Active, 0)
		k.with(func() { k.broken["a"] = true })
		time.Sleep(2 * verifyEvery)
		if st := p.want("a", tap.Active, 1); st.Gaps[0].To.IsZero() || st.Gaps[0].To.Sub(st.Gaps[0].From) > verifyEvery {
			t.Errorf("gaps %+v", st.Gaps)
		}
		k.with(func() {
			if k.broken["a"] {
				t.Error("it was not made again")
			}
		})
	})
}
