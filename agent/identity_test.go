package agent

import (
	"math/rand/v2"
	"testing"
	"time"

	"opentap/capture"
	"opentap/filter"
	"opentap/internal/await"
	"opentap/ledger"
	"opentap/want"
)

// taking returns the taker of a capture that has begun, after a restart too.
func (h *host) taking(uid string) *packets {
	h.t.Helper()
	j := h.job(uid)
	await.Until(h.t, "it takes packets", func() bool { _, err := j.readable(); return err == nil })
	return j.taker.(*packets)
}

// A capture's account is the truth whatever befalls it, in any order: every packet that was sent is in one entry, and what it calls
// captured is in the file. The reader is kept from a small ring until that is full, packets are sampled and refused, and the agent ends and
// comes back.
func TestNetnsEveryPacketIsInOneEntry(t *testing.T) {
	needsRing(t)
	for seed := range uint64(3) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		h := newHost(t, func(c *Config) { c.Capture.Ring.Blocks, c.Capture.Ring.BlockSize = 2, 64<<10 })
		h.start()
		out, port := newSender(t)
		pk := asked(1, want.Packets, port)
		limited := seed == 2
		if limited {
			pk.Query.Limits = filter.Limits{Packets: 1500}
		}
		h.obey(1, pk)
		h.awaitState(pk.UID, want.Running)
		sent := uint64(0)
		send := func(n int) { out.send(n); sent += uint64(n) }
		// met is what the capture knows of packets of ours: others' on the loopback do not pass its filter.
		met := func() uint64 { a := h.state(pk.UID).Ledger; return a.Seen - a.Filtered }
		stalls := 0
		for step := range 12 {
			switch n := rnd.IntN(5); {
			case n == 0 || step == 3:
				b := h.taking(pk.UID).streams[0].lanes[0].w.Begin() // the reader cannot have the next
				send(2500)
				b.End()
				stalls++
			case n == 1:
				h.engine.Restrain(capture.Restraint{OneIn: uint32(rnd.IntN(5)), Pause: rnd.IntN(3) == 0})
			case n == 2 && !limited:
				await.Until(t, "all is counted", func() bool { return met() == sent })
				h.restart()
				h.taking(pk.UID)
			default:
				send(1 + rnd.IntN(200))
			}
			if h.state(pk.UID).State.Final() {
				break
			}
		}
		h.engine.Restrain(capture.Restraint{})
		if limited {
			for h.state(pk.UID).State != want.Done { // packets beyond it are not its any more
				out.send(100)
			}
		} else {
			await.Until(t, "all is counted", func() bool { return met() == sent })
			pk.StopAt = time.Now().UTC()
			h.obey(2, pk)
			h.awaitState(pk.UID, want.Stopped)
		}
		a := h.state(pk.UID).Ledger
		if err := a.Check(); err != nil || !limited && a.Seen-a.Filtered != sent || limited && a.Captured != 1500 {
			t.Errorf("seed %d: %d were sent; %+v, %v", seed, sent, a, err)
		}
		if a.Dropped[ledger.Ring] == 0 {
			t.Errorf("seed %d: a ring of 128 KiB lost nothing in %d stalls: this proves nothing", seed, stalls)
		}
		if r, _ := h.read(pk.UID, want.OpenOptions{Format: want.Pcap}); r.Records != a.Captured {
			t.Errorf("seed %d: %d packets in the file; %+v", seed, r.Records, a)
		}
		h.end()
	}
}
