//go:build !linux

package probing

import (
	"context"
	"runtime"

	"opentap/fault"
	"opentap/want"
)

// Run needs Linux.
func Run(context.Context, want.ProbeRun) (want.ProbeReport, error) {
	return want.ProbeReport{}, fault.New(fault.Unsupported, "probes need packet sockets, which %s does not have", runtime.GOOS)
}
