package reconcile

import (
	"opentap/fabric"
	"opentap/wire/of13"
)

// probe is a probe that is under way.
type probe struct{}

func (e *Engine) probed(fabric.Endpoint, *of13.PacketIn) bool { return false }
