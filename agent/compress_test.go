package agent

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/want"
)

// What a recorder holds is compressed in the background, and captures read it as before.
func TestNetnsRecorderCompresses(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	h := newHost(t, func(c *Config) {
		c.Recorders = []Recorder{{Point: "lo", Filter: fmt.Sprintf("udp port %d", port), Bytes: 64 << 20, Compress: true}}
	})
	h.start()
	await.Until(t, "it records", func() bool { return h.recorderState("lo").Status.State == want.Running })
	from := time.Now().UTC()
	out.send(300)
	await.Until(t, "it has recorded", func() bool { return h.recorderState("lo").Status.Ledger.Captured == 300 })
	h.restart() // which seals the segment
	await.Until(t, "it records again", func() bool { return h.recorderState("lo").Status.State == want.Running })
	dir := filepath.Join(h.cfg.CaptureDir, recordingsDir, "lo")
	await.Until(t, "the segment is compressed", func() bool {
		packed, _ := filepath.Glob(filepath.Join(dir, "*.pcapng.zst"))
		plain, _ := filepath.Glob(filepath.Join(dir, "*.pcapng"))
		return len(packed) == 1 && len(plain) == 1 // the other is being written
	})
	out.send(20)
	await.Until(t, "it has recorded more", func() bool { return h.recorderState("lo").Status.Ledger.Captured == 320 })
	pk := asked(1, want.Packets, port)
	pk.Recorded, pk.Query.From = true, from
	h.obey(1, pk)
	h.awaitState(pk.UID, want.Running)
	pk.StopAt = time.Now().UTC()
	h.obey(2, pk)
	h.awaitState(pk.UID, want.Stopped)
	if r, _ := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG}); r.Records != 320 {
		t.Errorf("%d packets of 320", r.Records)
	}
}
