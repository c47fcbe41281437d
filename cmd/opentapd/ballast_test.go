package main

import (
	"log/slog"
	"os"
	"testing"
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
		if err := b.look(); err != nil {
			t.Fatal(err)
		}
		if full := reason != "" && reason != "never told"; held() != step.held || full != step.full {
			t.Errorf("step %d, %d octets free: held %v, reason %q", i, step.free, held(), reason)
		}
	}
}
