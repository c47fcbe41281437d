package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// endings are the signals that end the daemon in good order. Of a terminal that is closed it hears by SIGHUP; without one the signal is
// what people send to have a configuration read anew, and see hangups. Who started it with nohup wants it to go on.
func endings(terminal bool) []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if terminal && !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// hasTerminal reports whether the process has a controlling terminal, tty(4).
func hasTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// hangups answers SIGHUP, which would end the process on the spot, until stop is called.
func hangups(log *slog.Logger) (stop func()) {
	if signal.Ignored(syscall.SIGHUP) {
		return func() {}
	}
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range heard {
			log.Warn("SIGHUP changes nothing: the configuration is read at the start, so restart opentapd; certificates and lists of keys are read anew by themselves")
		}
	}()
	return func() {
		signal.Stop(heard)
		close(heard)
		<-ended
	}
}
