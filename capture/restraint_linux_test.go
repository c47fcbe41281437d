package capture

import (
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"opentap/capture/ring"
	"opentap/filter"
	"opentap/internal/await"
	"opentap/ledger"
	"opentap/packet"
)

// forge is a ring without a kernel: it makes packets, refuses and loses some of them, and keeps count.
type forge struct {
	rnd  *rand.Rand
	to   func() Restraint // called before each block
	e    *Engine
	left int // packets still to be made
	c    ring.Counts
}

// lot is a block of equal frames.
type lot struct {
	n    int
	data []byte
}

func (l *lot) Octets() int { return l.n * len(l.data) }
func (l *lot) Next(f *ring.Frame) bool {
	if l.n == 0 {
		return false
	}
	l.n--
	*f = ring.Frame{Time: packet.TimestampOf(time.Now()), Data: l.data, OrigLen: uint32(len(l.data))}
	return true
}

func (r *forge) LinkType() packet.LinkType { return packet.LinkEthernet }
func (r *forge) Pressed() bool             { return false }
func (r *forge) Wake()                     {}
func (r *forge) Stop() error               { return nil }
func (r *forge) Close() error              { return nil }
func (r *forge) Counts() (ring.Counts, error) {
	return r.c, nil
}
func (r *forge) Drain(fn func(frames)) error { _, err := r.Read(0, fn); return err }
func (r *forge) Read(wait time.Duration, fn func(frames)) (int, error) {
	n := min(r.left, 1+r.rnd.IntN(200))
	if n == 0 {
		time.Sleep(min(wait, time.Millisecond))
		return 0, nil
	}
	r.left -= n
	refused, lost := r.rnd.IntN(n+1)/4, 0
	if rest := n - refused; rest > 0 {
		lost = r.rnd.IntN(rest+1) / 4
	}
	r.c.Filtered += uint64(refused)
	r.c.Passed += uint64(n - refused)
	r.c.Dropped += uint64(lost)
	r.c.Seen += uint64(n)
	r.c.FilterCounted = true
	r.e.Restrain(r.to())
	fn(&lot{n: n - refused - lost, data: make([]byte, 60+r.rnd.IntN(1400))})
	return 1, nil
}

// moody takes, loses to the disk, and in the end has enough.
type moody struct {
	rnd           *rand.Rand
	took, lost    uint64
	stored        uint64
	limit         uint64
	done          bool
	beyond, wrong int
}

func (c *moody) Begin()                                     {}
func (c *moody) End()                                       {}
func (c *moody) Idle(_ packet.Timestamp, _ *ledger.Account) {}
func (c *moody) Frame(f *Frame) Verdict {
	if c.done {
		c.beyond++
	}
	if f.Parsed().CapLen != f.OrigLen { // what is decoded is whole
		c.wrong++
	}
	if c.rnd.IntN(20) == 0 {
		c.lost++
		return LostDisk
	}
	c.took++
	c.stored += uint64(len(f.Data))
	if c.took == c.limit {
		c.done = true
		return TookLast
	}
	return Took
}

// The account adds up whatever is filtered, lost in the ring, lost on the disk, cut, sampled out or paused, in any order.
func TestTheLedgerAddsUpUnderAnyRestraint(t *testing.T) {
	stages := map[string]func(*rand.Rand) Restraint{
		"none":     func(*rand.Rand) Restraint { return Restraint{} },
		"cut":      func(*rand.Rand) Restraint { return Restraint{Snap: 128} },
		"sampling": func(*rand.Rand) Restraint { return Restraint{OneIn: 4} },
		"pause":    func(*rand.Rand) Restraint { return Restraint{Pause: true} },
		"all": func(r *rand.Rand) Restraint {
			return Restraint{Snap: r.IntN(2) * 128, OneIn: uint32(r.IntN(20)), Pause: r.IntN(4) == 0}
		},
	}
	for name, stage := range stages {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				e := NewEngine(Config{}, slog.New(slog.DiscardHandler))
				r := &forge{rnd: rnd, e: e, left: 20_000, to: func() Restraint { return stage(rnd) }}
				e.open = func(ring.Config, *filter.Expr, key) (opened, error) {
					return opened{reader: r, by: "forge", ordered: true}, nil
				}
				// Both are there before the first packet: the source opens its ring only then.
				hold := make(chan struct{})
				open := e.open
				e.open = func(c ring.Config, x *filter.Expr, k key) (opened, error) { <-hold; return open(c, x, k) }
				c := [2]*moody{{rnd: rnd}, {rnd: rnd, limit: 300}}
				var att [2]*Attachment
				for i := range c {
					var err error
					if att[i], err = e.Attach(Spec{Point: "p"}, c[i]); err != nil {
						t.Fatal(err)
					}
				}
				close(hold)
				await.Until(t, "all is read", func() bool {
					return att[0].Progress().Account.Seen == 20_000
				})
				e.Close()
				all, some := att[0].Progress().Account, att[1].Progress().Account
				if err := all.Check(); err != nil {
					t.Fatal(err)
				}
				if err := some.Check(); err != nil {
					t.Fatal(err)
				}
				if all.Seen != 20_000 || all.Captured != c[0].took || all.Dropped[ledger.Disk] != c[0].lost || all.StoredOctets != c[0].stored ||
					all.Filtered != r.c.Filtered || all.Dropped[ledger.Ring] != r.c.Dropped {
					t.Fatalf("seed %d: account %+v, took %d, lost %d, ring %+v", seed, all, c[0].took, c[0].lost, r.c)
				}
				if some.Captured > 300 || c[1].beyond > 0 || c[0].wrong+c[1].wrong > 0 {
					t.Fatalf("seed %d: %d beyond the limit, %d wrong, account %+v", seed, c[1].beyond, c[0].wrong, some)
				}
				switch met := 20_000 - r.c.Filtered - r.c.Dropped; name {
				case "pause":
					if all.RateLimited != met || all.Captured != 0 {
						t.Fatalf("paused: %+v of %d", all, met)
					}
				case "sampling":
					if taken := all.Captured + all.Dropped[ledger.Disk]; taken != met/4 || all.SampledOut != met-taken {
						t.Fatalf("one in 4: %+v of %d", all, met)
					}
				case "cut":
					if all.StoredOctets > 128*all.Captured || all.Octets <= all.StoredOctets {
						t.Fatalf("cut: %+v", all)
					}
				}
			}
		})
	}
}
