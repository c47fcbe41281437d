package controller

import (
	"strings"
	"testing"
	"time"

	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

func TestRecordersAreDesiredState(t *testing.T) {
	b := newBench(t, func(c *Config) { c.SettleWait = 10 * time.Millisecond })
	ctx := t.Context()
	wish := want.Recorder{Filter: "udp", Bytes: 1 << 30, Age: want.Duration(time.Hour), Compress: want.Zstd}
	if _, _, err := b.SetRecorder(ctx, alice, "eth0", wish); !fault.Is(err, fault.Forbidden) {
		t.Errorf("without the right: %v", err)
	}
	for name, tt := range map[string]struct {
		point string
		r     want.Recorder
		kind  fault.Kind
	}{
		"no such point": {"eth9", wish, fault.NotFound},
		"no packets":    {"can0", wish, fault.Unsupported},
		"a sensor":      {"temp1", wish, fault.Unsupported},
		"no budget":     {"eth0", want.Recorder{}, fault.Invalid},
		"small budget":  {"eth0", want.Recorder{Bytes: 1000}, fault.Invalid},
		"wrong filter":  {"eth0", want.Recorder{Bytes: 1 << 30, Filter: "prot 80"}, fault.Invalid},
		"wrong snap":    {"eth0", want.Recorder{Bytes: 1 << 30, Snap: 3}, fault.Invalid},
		"wrong age":     {"eth0", want.Recorder{Bytes: 1 << 30, Age: -1}, fault.Invalid},
		"compression":   {"eth0", want.Recorder{Bytes: 1 << 30, Compress: "gzip"}, fault.Invalid},
		"another point": {"eth0", want.Recorder{Bytes: 1 << 30, Point: "eth1"}, fault.Invalid},
	} {
		if _, _, err := b.SetRecorder(ctx, root, tt.point, tt.r); !fault.Is(err, tt.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v, created, err := b.SetRecorder(ctx, root, "uplink", wish)
	if err != nil || !created || v.Point != "eth0" || v.Node != "host1" || v.Owner != "root" || v.Origin != want.FromAPI || v.Status.State != want.Scheduled {
		t.Fatalf("set: %+v, %v, %v", v, created, err)
	}
	d, err := b.Desired(ctx, "n1")
	if err != nil || len(d.Recorders) != 1 || d.Recorders[0].Point != "eth0" || d.Recorders[0].Filter != "udp" || d.Recorders[0].Compress != want.Zstd {
		t.Fatalf("desired %+v, %v", d, err)
	}
	if other, err := b.Desired(ctx, "n2"); err != nil || len(other.Recorders) != 0 {
		t.Errorf("of another node: %+v, %v", other, err)
	}
	// The agent says how it fares.
	told := v
	told.Status = want.RecorderStatus{State: want.Running, Bytes: 4096}
	conf := want.RecorderView{Recorder: want.Recorder{Point: "eth1", Bytes: 1 << 30}, Origin: want.FromConfiguration, Status: want.RecorderStatus{State: want.Running}}
	points := []point.Point{{Name: "eth0", Kind: point.Netdev, Present: true, Up: true, LinkType: 1}, {Name: "eth1", Kind: point.Netdev, Present: true, Up: true, LinkType: 1}}
	b.Inventory("n1", points, want.Node{Recordings: []want.RecorderView{told, conf}, QuotaBytes: 10 << 30})
	list, err := b.Recorders(ctx, alice)
	if err != nil || len(list) != 2 || list[0].Status.State != want.Running || list[0].Status.Bytes != 4096 || list[1].Origin != want.FromConfiguration {
		t.Errorf("list %+v, %v", list, err)
	}
	if nodes, err := b.Nodes(ctx, alice); err != nil || nodes[0].Recordings != nil {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
	if _, _, err := b.SetRecorder(ctx, root, "eth1", wish); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "configuration") {
		t.Errorf("that of the configuration: %v", err)
	}
	if err := b.DeleteRecorder(ctx, root, "eth1"); !fault.Is(err, fault.Conflict) {
		t.Errorf("delete that of the configuration: %v", err)
	}
	big := wish
	big.Bytes = 20 << 30
	if _, _, err := b.SetRecorder(ctx, root, "eth0", big); !fault.Is(err, fault.Invalid) {
		t.Errorf("more than the quota: %v", err)
	}
	wish.Snap = 128
	if v, created, err := b.SetRecorder(ctx, root, "eth0", wish); err != nil || created || v.Snap != 128 || v.Status.State != want.Scheduled {
		t.Errorf("changed: %+v, %v, %v; what the agent has taken is older", v, created, err)
	}
	if err := b.DeleteRecorder(ctx, alice, "eth0"); !fault.Is(err, fault.Forbidden) {
		t.Errorf("delete without the right: %v", err)
	}
	if err := b.DeleteRecorder(ctx, root, "eth0"); err != nil {
		t.Fatal(err)
	}
	if d, err := b.Desired(ctx, "n1"); err != nil || len(d.Recorders) != 0 {
		t.Errorf("desired %+v, %v", d, err)
	}
	if _, err := b.Recorder(ctx, alice, "eth0"); !fault.Is(err, fault.NotFound) {
		t.Errorf("shown though deleted: %v", err)
	}
	if got := b.trail.actions(); !strings.Contains(got, "recorder.set:denied") || strings.Count(got, "recorder.set:allowed") != 2 || !strings.Contains(got, "recorder.delete:allowed") {
		t.Errorf("audit: %s", got)
	}
}

// A controller that starts again knows them.
func TestRecordersSurviveTheController(t *testing.T) {
	b := newBench(t, func(c *Config) { c.SettleWait = time.Millisecond })
	if _, _, err := b.SetRecorder(t.Context(), root, "eth0", want.Recorder{Bytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	c := New(b.cfg, b.store, b.Controller.audit, b.log)
	c.SetHub(&hub{c: c})
	kvs, _, err := b.store.List(t.Context(), recorderPrefix)
	if err != nil || len(kvs) != 1 || c.decodeRecorder(kvs[0]) == nil {
		t.Fatalf("stored %v, %v", kvs, err)
	}
}
