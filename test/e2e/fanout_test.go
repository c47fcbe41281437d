//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// recorderOf is what is told about the recorder of tap0.
type recorderOf struct {
	Fanout int
	Status struct {
		State, Reason string
		ReadBy        string `json:"read_by"`
		Ledger        account
	}
}

func (d *daemon) recorder(t *testing.T) (r recorderOf) {
	t.Helper()
	if err := json.Unmarshal(d.ask(200, "GET", "/v1/recorders/tap0", nil).Body, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// flows are n frames of as many flows, numbered from on.
func flows(from, n int) (frames [][]byte) {
	for i := range n {
		frames = append(frames, nettest.Packet{SrcPort: uint16(2000 + i%600), DstPort: 53, Payload: numbered(from+i, 40)}.Bytes())
	}
	return frames
}

// A recorder whose packets are shared by several rings is one recording: nothing is lost or doubled, all is in the order of time,
// and the ledger is that of all rings. The number of rings is changed while it runs, and the daemon is killed.
func TestNetnsRecorderFansOut(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "ring:\n  blocks: 256\n") // for a machine that lets threads wait
	runs := func(fanout int, by string) {
		t.Helper()
		await.Until(t, "the recorder is read by "+by, func() bool {
			r := d.recorder(t)
			return r.Fanout == fanout && r.Status.State == "running" && r.Status.ReadBy == by
		})
	}
	begin := time.Now()
	d.must("recorders", "set", "tap0", "--bytes", "64MiB", "--fanout", "3")
	runs(3, "3 packet socket rings")
	sent := flows(0, 3000)
	l.Send(sent...)
	await.Until(t, "all packets are in the ledger", func() bool { return d.recorder(t).Status.Ledger.Captured == 3000 })

	d.must("recorders", "set", "tap0", "--bytes", "64MiB", "--fanout", "2", "--filter", "port 53")
	runs(2, "2 packet socket rings")
	more := flows(3000, 1000)
	l.Send(more...)
	l.Send(plain(0, 100, 80)...)
	await.Until(t, "the other rings' packets are in the ledger", func() bool {
		a := d.recorder(t).Status.Ledger
		return a.Captured == 4000 && a.Filtered == 100
	})
	d.must("recorders", "set", "tap0", "--bytes", "64MiB")
	runs(0, "packet socket ring")
	last := flows(4000, 500)
	l.Send(last...)
	sent = append(append(sent, more...), last...)
	await.Until(t, "one ring's packets are in the ledger", func() bool { return d.recorder(t).Status.Ledger.Captured == 4500 })
	if a := d.recorder(t).Status.Ledger; !a.adds() || a.DroppedTotal != 0 {
		t.Errorf("ledger %+v", a)
	}

	to := time.Now()
	sleepUntil(to.Add(100 * time.Millisecond))
	d.create(m{"kind": "pcap", "id": "all", "points": []string{"tap0"}, "from": begin, "to": to})
	if v := d.awaitState("all", "done"); v.Status.Ledger.Captured != 4500 || !v.Status.Ledger.adds() {
		t.Errorf("ledger %+v", v.Status.Ledger)
	}
	got := packetsIn(t, d.data("all", "pcapng").Body)
	inOrder(t, got, begin.UnixNano(), to.UnixNano())
	sameFrames(t, got, sent, 0)

	dir := d.dir + "/captures/recordings/tap0"
	if out := d.must("verify", dir); !strings.Contains(out, "4500") {
		t.Errorf("verify: %s", out)
	}
	one := d.file("one.pcapng")
	d.must("query", dir, "port 2001", "-w", one)
	if n := len(packetsOf(t, one)); n != 8 {
		t.Errorf("the offline recording has %d packets of a flow of 8", n)
	}

	d.must("recorders", "set", "tap0", "--bytes", "64MiB", "--fanout", "4")
	runs(4, "4 packet socket rings")
	l.Send(flows(4500, 200)...)
	await.Until(t, "they are in the ledger", func() bool { return d.recorder(t).Status.Ledger.Captured == 4700 })
	sleepUntil(time.Now().Add(2500 * time.Millisecond)) // what is a second old is on the disk
	d.kill()
	d.start()
	runs(4, "4 packet socket rings")
	if a := d.recorder(t).Status.Ledger; a.Captured != 4700 || !a.adds() {
		t.Errorf("after a crash: %+v", a)
	}
	for _, bad := range []string{"-1", "33"} {
		if r := d.opentap("recorders", "set", "tap0", "--bytes", "64MiB", "--fanout", bad); r.code == 0 || !strings.Contains(r.stderr, "fanout") {
			t.Errorf("fanout %s: %d %s", bad, r.code, r.stderr)
		}
	}
}
