//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"opentap/internal/await"
)

// Data is kept as long as promised, and no longer.
func TestNetnsRetentionByAge(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "retention:\n  default: 2s\n")
	d.create(m{"kind": "pcap", "id": "short", "points": []string{"tap0"}})
	d.create(m{"kind": "pcap", "id": "kept", "points": []string{"tap0"}, "retain": "1h"})
	l.Send(plain(0, 10, 1)...)
	d.awaitCaptured("short", 10)
	d.finish("kept")
	v := d.finish("short")
	if left := v.Expires.Sub(v.Status.Ended); left != 2*time.Second {
		t.Errorf("it expires %v after its end", left)
	}
	await.Until(t, "it is deleted", func() bool { return d.try("GET", "/v1/captures/short", nil).Status == 404 })
	if time.Now().Before(v.Expires) {
		t.Error("it was deleted too early")
	}
	await.Until(t, "its data is gone", func() bool { return !exists(d.captureDir(v)) })
	d.data("kept", "pcapng")
	if s := audits(t, d); !strings.Contains(s, `"action":"capture.expire","object":"short"`) {
		t.Error("the audit log does not tell of the expiry")
	}
}

// big is frames worth n MiB.
func big(n int) (out [][]byte) {
	for i := 0; i < n<<20; {
		f := plain(i, 1, 9)[0]
		f = append(f, make([]byte, 1400-len(f))...)
		out = append(out, f)
		i += len(f)
	}
	return out
}

// The quota is hard: captures end and say why, and nothing that was kept is lost.
func TestNetnsQuotaIsHard(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "retention:\n  quota: 8MiB\n")
	d.create(m{"kind": "pcap", "id": "first", "points": []string{"tap0"}})
	l.Send(plain(0, 100, 1)...)
	d.awaitCaptured("first", 100)
	d.finish("first")
	kept := d.data("first", "pcapng")
	d.create(m{"kind": "pcap", "id": "greedy", "points": []string{"tap0"}})
	var v view
	await.Until(t, "the quota ends it", func() bool {
		l.Send(big(1)...)
		v = d.show("greedy")
		return v.final()
	})
	if v.Status.State != "failed" || !strings.Contains(v.Status.Reason, "quota") {
		t.Errorf("it is %s: %q", v.Status.State, v.Status.Reason)
	}
	path := d.file("greedy.pcapng")
	d.opentap("retrieve", "greedy", "-w", path)
	if n := capinfosCount(t, path); n != v.Status.Ledger.Captured || n == 0 || !v.Status.Ledger.adds() {
		t.Errorf("%d packets in the file, ledger %+v", n, v.Status.Ledger)
	}
	if again := d.data("first", "pcapng"); string(again.Body) != string(kept.Body) {
		t.Error("a capture that had ended has changed")
	}
	if s := string(d.ask(200, "GET", "/v1/nodes", nil).Body); !strings.Contains(s, "quota") {
		t.Errorf("the node does not tell of it: %s", s)
	}
	d.must("delete", "greedy")
	await.Until(t, "there is room again", func() bool { return !strings.Contains(string(d.ask(200, "GET", "/v1/nodes", nil).Body), "used up") })
	d.create(m{"kind": "pcap", "id": "next", "points": []string{"tap0"}})
	l.Send(plain(0, 10, 1)...)
	d.awaitCaptured("next", 10)
}

// A full disk ends captures, not opentapd; what was kept before can be had.
func TestNetnsFullDisk(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	d := newDaemon(t, l.near, "capture_dir: "+small+"\nretention:\n  min_free: 0\n  quota: 0\n")
	d.create(m{"kind": "pcap", "id": "victim", "points": []string{"tap0"}})
	sent := big(24)
	for len(sent) > 0 {
		n := min(len(sent), 200)
		l.Send(sent[:n]...)
		sent = sent[n:]
	}
	var v view
	await.Until(t, "the full disk ends it", func() bool { v = d.show("victim"); return v.final() })
	if v.Status.State != "failed" || !strings.Contains(v.Status.Reason, "full") {
		t.Errorf("it is %s: %q", v.Status.State, v.Status.Reason)
	}
	if !v.Status.Ledger.adds() {
		t.Errorf("ledger %+v", v.Status.Ledger)
	}
	path := d.file("victim.pcapng")
	r := d.opentap("retrieve", "victim", "-w", path)
	if !exists(path) {
		t.Fatalf("it cannot be retrieved: %d %s", r.code, r.stderr)
	}
	if n := capinfosCount(t, path); n != v.Status.Ledger.Captured || n == 0 {
		t.Errorf("%d packets in the file, ledger %+v", n, v.Status.Ledger)
	}
	d.ask(200, "GET", "/healthz", nil, "Authorization", "")
	d.must("delete", "victim")
	await.Until(t, "its data is gone", func() bool { return !exists(filepath.Join(small, v.UID)) })
	d.create(m{"kind": "pcap", "id": "next", "points": []string{"tap0"}})
	l.Send(plain(0, 10, 1)...)
	d.awaitCaptured("next", 10)
}

// audits is the whole audit log.
func audits(t testing.TB, d *daemon) string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(d.dir, "audit", "audit-*.jsonl"))
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
