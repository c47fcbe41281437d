//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// flow makes a service at the monitor and a flow to it, and takes both away when the test ends.
func (l *tapLab) flow(t *testing.T, args ...string) {
	t.Helper()
	l.must("tap", "service", "create", "--port", "monitor", "--name", "mon")
	l.must(append([]string{"tap", "flow", "create", "--service", "mon", "--name", "web"}, args...)...)
	l.active(t)
	t.Cleanup(func() { // what is left in the kernel outlives the daemon, as it should
		if l.cmd == nil {
			return
		}
		l.must("tap", "service", "delete", "mon")
		await.Until(t, "nothing is left", func() bool { return !strings.Contains(l.must("tap", "flow", "list"), "web") })
		time.Sleep(200 * time.Millisecond)
	})
}

func (l *tapLab) show(t *testing.T) (v tap.FlowView) {
	t.Helper()
	if err := json.Unmarshal([]byte(l.must("tap", "flow", "show", "web", "-o", "json")), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (l *tapLab) active(t *testing.T) {
	t.Helper()
	await.Until(t, "the flow is active", func() bool { return l.show(t).Status == tap.Up })
}

// TestNetnsTapOutlivesTheAgent: of packets that pass while the daemon is killed and begins anew each is copied, once, and no
// gap is stated.
func TestNetnsTapOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	atMonitor := nettest.NewEar(t, l.monitor, "eth0")
	l.flow(t, "--port", "left", "--direction", "out", "--filter", "udp")
	var wg sync.WaitGroup
	end := make(chan struct{})
	sent := 0
	wg.Go(func() {
		for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
			select {
			case <-end:
				tick.Stop()
				return
			default:
			}
			l.fromLeft.Send(nettest.Packet{DstPort: 4711, Payload: numbered(sent, 40)}.Bytes())
			sent++
		}
	})
	l.kill()
	l.start()
	l.active(t)
	close(end)
	wg.Wait()
	seen := make(map[string]int)
	for _, f := range atMonitor.All(300 * time.Millisecond) {
		seen[string(f)]++
	}
	for i := range sent {
		if n := seen[string(nettest.Packet{DstPort: 4711, Payload: numbered(i, 40)}.Bytes())]; n != 1 {
			t.Fatalf("packet %d of %d was copied %d times", i, sent, n)
		}
	}
	await.Until(t, "the counters go on", func() bool { return l.show(t).Counts.Mirrored == uint64(sent) })
	if g := l.show(t).Gaps; len(g) != 0 {
		t.Errorf("gaps %+v", g)
	}
}

// TestNetnsTapFindsItsPortAgain: a port that vanishes and returns is tapped again, and the time between is stated.
func TestNetnsTapFindsItsPortAgain(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	atMonitor := nettest.NewEar(t, l.monitor, "eth0")
	l.flow(t, "--port", "left", "--direction", "both")
	l.ns.Delete("left")
	await.Until(t, "the flow waits", func() bool { return l.show(t).Status != tap.Up })
	nettest.Veth(t, l.ns, "left", l.left, "eth0")
	s := nettest.NewSender(t, l.left, "eth0")
	back := time.Now()
	frame := nettest.Packet{DstPort: 5, Payload: numbered(9, 30)}.Bytes()
	await.Until(t, "copies again", func() bool {
		s.Send(frame)
		return has(atMonitor.All(10*time.Millisecond), frame)
	})
	t.Logf("copied %v after the port was back", time.Since(back))
	await.Until(t, "the gap is stated", func() bool {
		v := l.show(t)
		return v.Status == tap.Up && len(v.Gaps) > 0 && !v.Gaps[len(v.Gaps)-1].To.IsZero()
	})
}

// TestNetnsTapTest: the self-test is content with a tap that works, and says what is wrong with one that does not.
func TestNetnsTapTest(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	l.flow(t, "--port", "left", "--direction", "out")
	var v tap.Trial
	r := l.opentap("tap", "test", "web", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || r.code != 0 || !v.OK || v.Expected != 24 || v.Heard != 24 || v.Strange != 0 || v.DelayUS == nil {
		t.Fatalf("%v: %+v", err, r)
	}
	l.must("tap", "flow", "update", "web", "--snap", "34") // the least
	await.Until(t, "canaries are known again in copies that are cut", func() bool {
		r := l.opentap("tap", "test", "web", "-o", "json")
		v = tap.Trial{}
		return json.Unmarshal([]byte(r.stdout), &v) == nil && v.OK && v.Heard == 24 && v.Counted["truncated"] == 24
	})
	l.must("tap", "flow", "update", "web", "--snap", "0")
	l.ns.Down("monitor")
	r = l.opentap("tap", "test", "web")
	if r.code == 0 || !strings.Contains(r.stdout+r.stderr, "lost") && !strings.Contains(r.stdout+r.stderr, "listen") {
		t.Errorf("with the tool's device down: %+v", r)
	}
	l.ns.Up("monitor")
	l.ns.Ready("monitor")
	await.Until(t, "it works again", func() bool { return l.opentap("tap", "test", "web").code == 0 })
}
