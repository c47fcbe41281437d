package auth

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of wrong tokens from one address: a burst, then one an interval.
const (
	wrongBurst    = 10
	wrongInterval = 6 * time.Second
	wrongMemory   = 4096 // addresses remembered
	wrongSample   = 8    // addresses looked at to find one to forget
)

// throttle counts wrong tokens by address in bounded memory. Addresses of IPv6 count by /64, what one subscriber has.
type throttle struct {
	mu   sync.Mutex
	full map[netip.Addr]time.Time // when the address has all of its burst again
}

func newThrottle() *throttle { return &throttle{full: map[netip.Addr]time.Time{}} }

// failed notes one wrong token and returns how long the address should wait; 0 = it is within its limit.
func (t *throttle) failed(addr netip.Addr, now time.Time) time.Duration {
	addr = throttled(addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	full, known := t.full[addr]
	if !known && len(t.full) >= wrongMemory {
		t.forget()
	}
	if full.Before(now) {
		full = now
	}
	full = full.Add(wrongInterval)
	if wait := full.Sub(now) - wrongBurst*wrongInterval; wait > 0 {
		return wait
	}
	t.full[addr] = full
	return 0
}

// wait returns how long the address should wait before anything is done for it; 0 = it is within its limit.
func (t *throttle) wait(addr netip.Addr, now time.Time) time.Duration {
	addr = throttled(addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	full := t.full[addr]
	if full.Before(now) {
		return 0
	}
	return max(full.Add(wrongInterval).Sub(now)-wrongBurst*wrongInterval, 0)
}

// throttled is what an address counts as.
func throttled(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	return addr
}

// forget drops the least burdened of a few addresses: Go ranges over a map from a random place.
func (t *throttle) forget() {
	var victim netip.Addr
	var least time.Time
	n := 0
	for addr, full := range t.full {
		if n == 0 || full.Before(least) {
			victim, least = addr, full
		}
		if n++; n == wrongSample {
			break
		}
	}
	delete(t.full, victim)
}
