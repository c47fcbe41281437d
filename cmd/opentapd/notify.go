package main

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// tellManager tells a service manager that asked for it (NOTIFY_SOCKET, sd_notify(3)) how far the daemon is, so that starting a
// unit succeeds when the daemon serves, and fails with its reason when it cannot.
func tellManager(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager cannot be told", "state", state, "err", err)
	}
}
