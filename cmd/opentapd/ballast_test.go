package main

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestBallastIsGivenUpAndTakenAgain(t *testing.T) {
	var free int64
	reason := "never told"
	b := newBallast(t.TempDir(), func(s string) { reason = s }, slog.New(slog.DiscardHandler))
	b.free = func(string) (int64, error) { return free, nil }
	held := func() bool { _, err := os.Stat(b.path()); return err == nil }
	for i, step := range []struct {
		free int64
		held bool
		full bool
	}{
		{1 << 40, true, false},
		{ballastSize, true, false},
		{1 << 20, false, true},
		{ballastSize - 1, false, true}, // what was let go is not yet room
		{2 * ballastSize, false, false},
		{4 * ballastSize, true, false},
		{0, false, true},
	} {
		free = step.free
		if err := b.look(time.Now()); err != nil {
			t.Fatal(err)
		}
		if full := reason != "" && reason != "never told"; held() != step.held || full != step.full {
			t.Errorf("step %d, %d octets free: held %v, reason %q", i, step.free, held(), reason)
		}
	}
}

// Where room cannot be kept it is said once, and not tried all the time.
func TestBallastThatCannotBeKept(t *testing.T) {
	var out buffer
	b := newBallast(t.TempDir(), func(string) {}, slog.New(slog.NewTextHandler(&out, nil)))
	b.free = func(string) (int64, error) { return 1 << 40, nil }
	b.dir += "/gone"
	now := time.Now()
	for i := range 100 {
		b.tell(b.look(now.Add(time.Duration(i) * ballastEvery)))
	}
	if n := strings.Count(out.String(), "cannot be kept"); n != 1 {
		t.Errorf("said %d times:\n%s", n, out.String())
	}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if b.tell(b.look(now.Add(ballastPause / 2))); b.failed == "" {
		t.Error("it was tried again at once")
	}
	if b.tell(b.look(now.Add(2 * ballastPause))); b.failed != "" {
		t.Errorf("it is not kept: %s", b.failed)
	}
}
