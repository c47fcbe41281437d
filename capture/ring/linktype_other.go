//go:build !linux

package ring

import "opentap/packet"

// LinkTypeOf is not supported here.
func LinkTypeOf(string) (packet.LinkType, error) { return 0, unsupported() }

// Probe is not supported here.
func Probe() error { return unsupported() }
