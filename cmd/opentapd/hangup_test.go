package main

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAHangupEndsNothingWithoutATerminal(t *testing.T) {
	if ends := endings(false); slices.Contains(ends, os.Signal(syscall.SIGHUP)) || !slices.Contains(ends, os.Signal(syscall.SIGTERM)) {
		t.Errorf("without a terminal it ends by %v", ends)
	}
	var out buffer
	stop := hangups(slog.New(slog.NewTextHandler(&out, nil)))
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "restart opentapd"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it says: %s", out.String())
		}
	}
}
