//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"opentap/internal/await"
)

// acked is what opentapd has promised about one capture by answering.
type acked struct {
	uid, kind string
	started   bool // it was seen running
	killed    int  // how often since then
	scheduled bool
	final     string // the state it ended in, once told
	tag       string // of the data retrieved after its end
	sum       [32]byte
	stored    uint64 // packets in it then
}

// Whenever opentapd is killed: what it has acknowledged is there afterwards.
func TestNetnsKillAnytime(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	rounds := 10
	if os.Getenv("OPENTAP_LONG") != "" {
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))

	// Traffic that never rests.
	var sent atomic.Uint64
	quit := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i += 4 {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			l.Send(plain(i, 4, uint16(i/400))...)
			sent.Add(4)
		}
	})
	defer sending.Wait()
	defer close(quit)

	known := map[string]*acked{}
	gone := map[string]string{} // deleted id → uid
	unsure := map[string]bool{} // asked for deletion, no answer
	next := 0

	// act does one thing; false: opentapd is gone.
	act := func() bool {
		pick := func(ok func(*acked) bool) string {
			var ids []string
			for id, a := range known {
				if ok(a) && !unsure[id] {
					ids = append(ids, id)
				}
			}
			if len(ids) == 0 {
				return ""
			}
			return ids[rnd.IntN(len(ids))]
		}
		switch n := rnd.IntN(10); {
		case n < 4:
			next++
			id := fmt.Sprintf("c%d", next)
			kind := []string{"pcap", "pcap", "netflow", "ethernet"}[rnd.IntN(4)]
			q := m{"kind": kind, "id": id, "points": []string{"tap0"}}
			soon := rnd.IntN(4) == 0
			switch {
			case soon:
				q["from"], q["duration"] = time.Now().Add(time.Duration(1+rnd.IntN(2000))*time.Millisecond), "700ms"
			case rnd.IntN(3) == 0:
				q["duration"] = "400ms"
			}
			if kind == "ethernet" {
				q["period"] = "50ms"
			}
			a := d.try("POST", "/v1/captures", q)
			if a.err != nil {
				return false
			}
			if a.Status != 201 {
				t.Errorf("create %s: %d %s", id, a.Status, a.Body)
				return true
			}
			var v view
			a.decode(t, &v)
			known[id] = &acked{uid: v.UID, kind: kind, scheduled: soon}
		case n < 6:
			id := pick(func(a *acked) bool { return a.final == "" })
			if id == "" {
				return true
			}
			a := d.try("POST", capturePath(id)+"/stop", nil)
			if a.err != nil {
				return false
			}
			if a.Status != 200 {
				t.Errorf("stop %s: %d %s", id, a.Status, a.Body)
			}
		case n < 7:
			id := pick(func(*acked) bool { return true })
			if id == "" {
				return true
			}
			a := d.try("DELETE", capturePath(id), nil)
			if a.err != nil {
				unsure[id] = true
				return false
			}
			if a.Status != 204 {
				t.Errorf("delete %s: %d %s", id, a.Status, a.Body)
			}
			gone[id] = known[id].uid
			delete(known, id)
		default:
			for id, k := range known {
				a := d.try("GET", capturePath(id), nil)
				if a.err != nil {
					return false
				}
				if a.Status == 404 && unsure[id] {
					continue
				}
				if a.Status != 200 {
					t.Errorf("show %s: %d %s", id, a.Status, a.Body)
					continue
				}
				var v view
				a.decode(t, &v)
				k.started = k.started || v.Status.State == "running"
				if v.final() && k.final == "" {
					k.final = v.Status.State
				}
				if k.final == "" || k.tag != "" {
					continue
				}
				r := d.try("GET", capturePath(id)+"/data", nil)
				if r.err != nil {
					return false
				}
				if r.Status == 200 {
					k.tag, k.sum, k.stored = r.Header.Get("ETag"), sha256.Sum256(r.Body), v.Status.Ledger.Captured
				} else if k.started {
					t.Errorf("data of %s, which has %s: %d %s", id, k.final, r.Status, r.Body)
				}
			}
		}
		return true
	}

	check := func() {
		for id, uid := range gone {
			if a := d.try("GET", capturePath(id), nil); a.Status != 404 {
				t.Errorf("%s was deleted and is back: %d", id, a.Status)
			}
			await.Until(t, "the data of the deleted capture "+id+" is gone", func() bool { return !exists(filepath.Join(d.dir, "captures", uid)) })
		}
		clear(gone)
		for id, k := range known {
			a := d.try("GET", capturePath(id), nil)
			if unsure[id] {
				if a.Status == 404 {
					delete(known, id)
				}
				delete(unsure, id)
				if a.Status == 404 {
					continue
				}
			}
			if a.Status != 200 {
				t.Errorf("%s (%s) was acknowledged and is not there: %d %v", id, k.kind, a.Status, a.err)
				delete(known, id)
				continue
			}
			var v view
			a.decode(t, &v)
			switch {
			case v.UID != k.uid:
				t.Errorf("%s is another capture now", id)
			case !v.Status.Ledger.adds():
				t.Errorf("%s: the ledger does not add up: %+v", id, v.Status.Ledger)
			case k.final != "" && v.Status.State != k.final:
				t.Errorf("%s had ended as %s and is %s now", id, k.final, v.Status.State)
			case v.Status.State == "failed" && !(k.scheduled && strings.Contains(v.Status.Reason, "not running")):
				t.Errorf("%s (%s) failed: %s", id, k.kind, v.Status.Reason)
			}
			if k.started && k.final == "" && k.killed > 0 {
				await.Until(t, id+" ("+k.kind+"), which ran when opentapd was killed, states the gap", func() bool {
					v := d.show(id)
					for _, g := range v.Status.Gaps {
						if strings.Contains(g.Reason, "not running") && !g.To.IsZero() && g.To.After(g.From) {
							return true
						}
					}
					return v.final() // it may have ended before
				})
			}
			if k.tag != "" {
				r := d.try("GET", capturePath(id)+"/data", nil)
				if r.Status != 200 || r.Header.Get("ETag") != k.tag || sha256.Sum256(r.Body) != k.sum {
					t.Errorf("%s (%s) had ended, and its data has changed: %d, ETag %s was %s", id, k.kind, r.Status, r.Header.Get("ETag"), k.tag)
				}
			}
		}
	}

	for round := range rounds {
		for id, k := range known { // few enough that a round stays short
			if len(known) <= 40 {
				break
			}
			d.ask(204, "DELETE", capturePath(id), nil)
			gone[id] = k.uid
			delete(known, id)
		}
		// It is killed from aside, in the middle of whatever it is doing.
		pid, dead := d.cmd.Process, make(chan struct{})
		wait := time.Duration(rnd.IntN(1200)) * time.Millisecond
		go func() {
			defer close(dead)
			time.Sleep(wait)
			_ = pid.Kill()
		}()
		for act() {
			select {
			case <-dead:
			default:
				continue
			}
			break
		}
		<-dead
		d.kill()
		for _, k := range known {
			if k.started && k.final == "" {
				k.killed++
			}
		}
		if round%3 == 1 { // also while it is starting
			d.launch()
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
			d.kill()
		}
		d.start()
		check()
		if t.Failed() {
			t.Fatalf("in round %d of %d", round+1, rounds)
		}
	}

	// All of it comes to a good end.
	running := 0
	for id, k := range known {
		v := d.show(id)
		if !v.final() {
			if v.Status.State != "scheduled" {
				running++
			}
			d.ask(200, "POST", capturePath(id)+"/stop", nil)
		}
		v = d.awaitState(id, "stopped", "done", "failed")
		a := v.Status.Ledger
		if !a.adds() {
			t.Errorf("%s: the ledger does not add up: %+v", id, a)
		}
		if v.Status.Started.IsZero() {
			continue
		}
		if k.kind != "pcap" {
			d.data(id, "classic")
			continue
		}
		path := d.file(id + ".pcapng")
		r := d.opentap("retrieve", id, "-w", path)
		if r.code != 0 && !(v.Status.State == "failed") {
			t.Errorf("retrieve %s: %d %s", id, r.code, r.stderr)
			continue
		}
		if n := capinfosCount(t, path); n != a.Captured {
			t.Errorf("%s: capinfos finds %d packets, the ledger says %d", id, n, a.Captured)
		}
		if s := statistics(t, path); uint64(s.received) != a.Seen || uint64(s.dropped) != a.DroppedTotal {
			t.Errorf("%s: statistics in the file %+v, ledger %+v", id, s, a)
		}
	}
	t.Logf("%d captures at the end, %d of them ran until then; %d packets were sent", len(known), running, sent.Load())
	r := d.exec(daemonBin, d.args("--verify-audit")...)
	if r.code != 0 || !strings.Contains(r.stdout, "whole") {
		t.Errorf("the audit chain: %d %s%s", r.code, r.stdout, r.stderr)
	}
	d.stop()
}
