package main

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"opentap/internal/await"
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
	await.Until(t, "it says what to do instead", func() bool { return strings.Contains(out.String(), "restart opentapd") })
}
