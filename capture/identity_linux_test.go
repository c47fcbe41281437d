package capture

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"opentap/capture/ring"
	"opentap/filter"
	"opentap/internal/await"
	"opentap/ledger"
	"opentap/packet"
)

// truth is what was made and what became of it, counted where it happened. Several rings and consumers share it.
type truth struct {
	mu       sync.Mutex
	made     uint64
	filtered uint64
	ring     uint64 // lost in a ring, or with it
	shown    [LostReader + 1]uint64
	deaths   int
}

// mortal is a ring of packets that a truth knows, and that may die at any moment with what it holds.
type mortal struct {
	*truth
	rnd  *rand.Rand
	left *int // packets still to be made by this ring and those that take its place
	c    ring.Counts
}

func (r *mortal) LinkType() packet.LinkType    { return packet.LinkEthernet }
func (r *mortal) Pressed() bool                { return r.rnd.IntN(2) == 0 }
func (r *mortal) Wake()                        {}
func (r *mortal) Stop() error                  { return nil }
func (r *mortal) Close() error                 { return nil }
func (r *mortal) Counts() (ring.Counts, error) { return r.c, nil }
func (r *mortal) Drain(fn func(frames)) error  { return nil }
func (r *mortal) count(filtered, lost, met int) {
	r.truth.mu.Lock()
	defer r.truth.mu.Unlock()
	r.made += uint64(met)
	r.filtered += uint64(filtered)
	r.ring += uint64(lost)
	r.c.Seen += uint64(met)
	r.c.Filtered += uint64(filtered)
	r.c.Passed += uint64(met - filtered)
	r.c.FilterCounted = true
}

func (r *mortal) Read(wait time.Duration, fn func(frames)) (int, error) {
	n := min(*r.left, 1+r.rnd.IntN(100))
	if n == 0 {
		time.Sleep(min(wait, time.Millisecond))
		return 0, nil
	}
	*r.left -= n
	filtered := r.rnd.IntN(n + 1)
	rest := n - filtered
	if r.rnd.IntN(8) == 0 { // they were let in, and nobody will ever read them
		r.count(filtered, rest, n)
		r.truth.mu.Lock()
		r.deaths++
		r.truth.mu.Unlock()
		return 0, ring.ErrGone
	}
	lost := r.rnd.IntN(rest + 1)
	r.count(filtered, lost, n)
	r.c.Dropped += uint64(lost)
	fn(&lot{n: rest - lost, data: make([]byte, 60+r.rnd.IntN(1400))})
	return 1, nil
}

// fickle does with each packet what comes to its mind, and tells the truth.
type fickle struct {
	*truth
	rnd *rand.Rand
}

func (c *fickle) Begin()                                     {}
func (c *fickle) End()                                       {}
func (c *fickle) Idle(_ packet.Timestamp, _ *ledger.Account) {}
func (c *fickle) Ready(int) bool                             { return c.rnd.IntN(4) > 0 }
func (c *fickle) Frame(*Frame) Verdict {
	v := []Verdict{Took, Took, Took, LostDisk, LostReader}[c.rnd.IntN(5)]
	c.truth.mu.Lock()
	c.shown[v]++
	c.truth.mu.Unlock()
	return v
}

// Every packet is in one entry of the account, and in the right one: whatever the kernel's filter refuses, rings have no room for,
// disks and readers are late for, and whichever of the rings that share a point's packets dies with what is in it.
func TestTheLedgerAddsUpWhenRingsDie(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		members := 1 + rnd.IntN(4)
		all := &truth{}
		left, rnds := make([]int, members), make([]*rand.Rand, members)
		consumers := make([]Consumer, members)
		made := 0
		for i := range members {
			left[i] = 500 + rnd.IntN(2000)
			made += left[i]
			rnds[i] = rand.New(rand.NewPCG(seed, uint64(100+i)))
			consumers[i] = &fickle{truth: all, rnd: rnds[i]}
		}
		e := NewEngine(Config{}, slog.New(slog.DiscardHandler))
		e.open = func(_ ring.Config, _ *filter.Expr, k key) (opened, error) {
			i := k.share.number
			return opened{reader: &mortal{truth: all, rnd: rnds[i], left: &left[i]}, by: "mortal", ordered: true}, nil
		}
		f, err := e.AttachFan(Spec{Point: "p", Filter: "udp"}, consumers)
		if err != nil {
			t.Fatal(err)
		}
		await.Until(t, "all packets are accounted for", func() bool { return f.Progress().Account.Seen == uint64(made) })
		e.Close()
		p := f.Progress()
		a := &p.Account
		if err := a.Check(); err != nil || a.Seen != all.made || a.Filtered != all.filtered || a.Captured != all.shown[Took] || a.Dropped[ledger.Ring] != all.ring ||
			a.Dropped[ledger.Disk] != all.shown[LostDisk] || a.Dropped[ledger.SlowReader] != all.shown[LostReader] {
			t.Fatalf("seed %d, %d rings: %+v, and in truth %+v (%v)", seed, members, a, all, err)
		}
		if all.deaths > 0 && len(p.Gaps) == 0 {
			t.Errorf("seed %d: %d rings died, and there is no gap", seed, all.deaths)
		}
	}
}
