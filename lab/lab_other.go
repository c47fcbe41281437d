//go:build !linux

package lab

import (
	"context"
	"runtime"

	"opentap/fault"
)

func demon(context.Context, Config) error {
	return fault.New(fault.Unsupported, "the lab needs Linux: network namespaces do not exist on %s", runtime.GOOS)
}
