package auth

import (
	"net/netip"
	"time"
)

// Throttle holds off addresses that present too many wrong secrets, of whatever kind. It is safe for concurrent use.
type Throttle struct{ t *throttle }

// NewThrottle returns one that has seen nobody yet.
func NewThrottle() *Throttle { return &Throttle{newThrottle()} }

// Failed notes one wrong secret and returns how long the address should wait; 0 = it is within its limit.
func (t *Throttle) Failed(addr netip.Addr, now time.Time) time.Duration { return t.t.failed(addr, now) }
