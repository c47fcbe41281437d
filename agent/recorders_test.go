package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/internal/await"
	"opentap/want"
)

func (h *host) obeyAll(d agentapi.Desired) {
	h.t.Helper()
	if err := h.Obey(d); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) recorderState(point string) (v want.RecorderView) {
	_, n := h.Inventory()
	for _, r := range n.Recordings {
		if r.Point == point {
			v = r
		}
	}
	return v
}

// A recorder comes, is changed, survives a restart, goes; what a capture needs of it stays until that goes too.
func TestNetnsRecordersByDesiredState(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	h := newHost(t, nil)
	h.start()
	wish := want.Recorder{Point: "lo", Filter: fmt.Sprintf("udp port %d", port), Bytes: 64 << 20, Owner: "root", Changed: time.Now().UTC(), Compress: want.Zstd}
	h.obeyAll(agentapi.Desired{Revision: 1, Recorders: []want.Recorder{wish}})
	h.obeyAll(agentapi.Desired{Revision: 1, Recorders: []want.Recorder{wish}}) // twice is once
	await.Until(t, "it records", func() bool { return h.recorderState("lo").Status.State == want.Running })
	from := time.Now().UTC()
	out.send(50)
	await.Until(t, "it has recorded", func() bool { return h.recorderState("lo").Status.Ledger.Captured == 50 })
	v := h.recorderState("lo")
	if acc := v.Status.Ledger; acc.Check() != nil || v.Origin != want.FromAPI || v.Owner != "root" || v.Compress != want.Zstd || v.Status.ReadBy == "" {
		t.Errorf("%+v", v)
	}

	h.restart()
	await.Until(t, "it records again", func() bool { return h.recorderState("lo").Status.State == want.Running })
	if acc := h.recorderState("lo").Status.Ledger; acc.Captured != 50 {
		t.Errorf("after a restart: %+v", acc)
	}

	// Changed, with a capture that needs what was recorded before.
	pk := asked(1, want.Packets, port)
	pk.Recorded, pk.Query.From = true, from
	h.obeyAll(agentapi.Desired{Revision: 2, Recorders: []want.Recorder{wish}, Captures: []want.Capture{pk}})
	h.awaitState(pk.UID, want.Running)
	wish.Snap = 60
	h.obeyAll(agentapi.Desired{Revision: 3, Recorders: []want.Recorder{wish}, Captures: []want.Capture{pk}})
	await.Until(t, "the changed one records", func() bool { v := h.recorderState("lo"); return v.Status.State == want.Running && v.Snap == 60 })
	out.send(10)
	await.Until(t, "it has recorded more", func() bool { return h.recorderState("lo").Status.Ledger.Captured == 60 })

	pk.StopAt = time.Now().UTC()
	h.obeyAll(agentapi.Desired{Revision: 4, Captures: []want.Capture{pk}})
	h.awaitState(pk.UID, want.Stopped)
	if v := h.recorderState("lo"); v.Point != "" {
		t.Errorf("it is still shown: %+v", v)
	}
	h.restart()
	h.bury()
	if r, _ := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG}); r.Records != 60 {
		t.Errorf("%d packets after the recorder went", r.Records)
	}
	h.obeyAll(agentapi.Desired{Revision: 5})
	dir := filepath.Join(h.cfg.CaptureDir, recordingsDir, "lo")
	await.Until(t, "its data is gone", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist) && h.recorder("lo") == nil
	})
	if kept, err := h.keep.recorders(); err != nil || len(kept) != 0 {
		t.Errorf("kept %+v, %v", kept, err)
	}
	// And it can come back.
	h.obeyAll(agentapi.Desired{Revision: 6, Recorders: []want.Recorder{wish}})
	await.Until(t, "it records anew", func() bool { return h.recorderState("lo").Status.State == want.Running })
	if acc := h.recorderState("lo").Status.Ledger; acc.Captured != 0 {
		t.Errorf("anew: %+v", acc)
	}
}

// The configuration's recorder is not changed by a desired one, and a set that cannot be obeyed changes nothing.
func TestNetnsRecordersOfTheConfigurationStay(t *testing.T) {
	needsRing(t)
	h := newHost(t, func(c *Config) { c.Recorders = []Recorder{{Point: "lo", Bytes: 64 << 20}} })
	h.start()
	await.Until(t, "it records", func() bool { return h.recorderState("lo").Status.State == want.Running })
	h.obeyAll(agentapi.Desired{Revision: 1, Recorders: []want.Recorder{{Point: "lo", Snap: 100, Bytes: 128 << 20}}})
	h.obeyAll(agentapi.Desired{Revision: 2})
	if v := h.recorderState("lo"); v.Origin != want.FromConfiguration || v.Snap != 0 || v.Status.State != want.Running {
		t.Errorf("%+v", v)
	}
	for name, list := range map[string][]want.Recorder{
		"no budget":    {{Point: "lo"}},
		"no point":     {{Bytes: 1}},
		"twice":        {{Point: "a", Bytes: 1}, {Point: "a", Bytes: 1}},
		"wrong filter": {{Point: "a", Bytes: 1, Filter: "prot 80"}},
	} {
		if err := h.Obey(agentapi.Desired{Revision: 3, Recorders: list}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if rev, _ := h.Actual(); rev != 2 {
		t.Errorf("revision %d", rev)
	}
}
