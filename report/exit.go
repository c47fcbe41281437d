package report

import (
	"errors"

	"opentap/fault"
)

// Exit codes. They are part of the interface, of the command line as of its verbs by SSH.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitRefused     = 3
	ExitNotFound    = 4
	ExitUnavailable = 5
	ExitLoss        = 6
	ExitInterrupted = 130
)

// ErrLoss ends a command that was asked to fail when something was lost.
var ErrLoss = errors.New("packets were lost or the window has gaps, and --fail-on-loss was given")

// Exit is the code of an error that the command itself has no other for.
func Exit(err error) int {
	if errors.Is(err, ErrLoss) {
		return ExitLoss
	}
	switch fault.KindOf(err) {
	case fault.Unauthenticated, fault.Forbidden:
		return ExitRefused
	case fault.NotFound:
		return ExitNotFound
	case fault.Unavailable, fault.NotReady:
		return ExitUnavailable
	}
	return ExitError
}
