package controller

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opentap/audit"
	"opentap/fault"
	"opentap/want"
)

func TestTrail(t *testing.T) {
	b := newBench(t, nil)
	ctx := t.Context()
	if _, err := b.AuditEntries(ctx, root, want.AuditQuery{Limit: 5}); !fault.Is(err, fault.Unsupported) {
		t.Errorf("a log that cannot be read back: %v", err)
	}
	dir := t.TempDir()
	log, _, err := audit.Open(audit.Config{Dir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	b.Controller.audit = log
	b.create(t, alice, want.Request{ID: "one", Kind: want.Packets})
	b.create(t, bob, want.Request{ID: "two", Kind: want.Packets})
	if err := b.DeleteCapture(ctx, eve, "one"); err == nil {
		t.Fatal("a viewer deletes")
	}
	for _, x := range []struct {
		name string
		q    want.AuditQuery
		want string // actor action object, the newest first
	}{
		{"all", want.AuditQuery{Limit: 10}, "eve capture.delete one; bob capture.start two; alice capture.start one"},
		{"the newest", want.AuditQuery{Limit: 1}, "eve capture.delete one"},
		{"those before", want.AuditQuery{Limit: 10, Before: 3}, "bob capture.start two; alice capture.start one"},
		{"of one", want.AuditQuery{Limit: 10, Actor: "bob"}, "bob capture.start two"},
		{"of one sort", want.AuditQuery{Limit: 10, Action: "capture.s"}, "bob capture.start two; alice capture.start one"},
		{"about one", want.AuditQuery{Limit: 10, Object: "one"}, "eve capture.delete one; alice capture.start one"},
		{"refused", want.AuditQuery{Limit: 10, Denied: true}, "eve capture.delete one"},
		{"nobody", want.AuditQuery{Limit: 10, Actor: "b"}, ""},
	} {
		list, err := b.AuditEntries(ctx, root, x.q)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		var got []string
		for _, e := range list {
			got = append(got, fmt.Sprint(e.Actor, " ", e.Action, " ", e.Object))
			if e.Seq == 0 || e.Time.IsZero() || len(e.Hash) != 64 || (e.Actor == "eve") != (e.Outcome == string(audit.Denied)) {
				t.Errorf("%s: %+v", x.name, e)
			}
		}
		if s := strings.Join(got, "; "); s != x.want {
			t.Errorf("%s: %q, want %q", x.name, s, x.want)
		}
	}
	if r, err := b.VerifyAudit(ctx, root); err != nil || !r.Whole || r.First != 1 || r.Last != 3 || r.Files != 1 || len(r.Head) != 64 {
		t.Errorf("%+v, %v", r, err)
	}
	// Somebody makes bob's act alice's.
	files, _ := filepath.Glob(filepath.Join(dir, "*.log*"))
	if len(files) == 0 {
		files, _ = filepath.Glob(filepath.Join(dir, "*.jsonl"))
	}
	if len(files) != 1 {
		t.Fatalf("files of the log: %q", files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(text), `"bob"`, `"ali"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := b.VerifyAudit(ctx, root); err != nil || r.Whole || r.Problem == "" || r.Last != 1 {
		t.Errorf("after it was forged: %+v, %v", r, err)
	}
	for _, id := range []struct {
		name string
		err  error
	}{{"entries", errOf(b.AuditEntries(ctx, alice, want.AuditQuery{Limit: 1}))}, {"proof", errOf(b.VerifyAudit(ctx, alice))}} {
		if !fault.Is(id.err, fault.Forbidden) {
			t.Errorf("%s for who is no administrator: %v", id.name, id.err)
		}
	}
}
