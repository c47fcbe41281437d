package sensor

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"opentap/packet"
)

// Bounds of a sampling period.
const (
	MinPeriod = time.Millisecond
	MaxPeriod = 24 * time.Hour
)

// Tick is one moment to sample at.
type Tick struct {
	Due    packet.Timestamp // the moment, a multiple of the period since the epoch; the sample may be read a little later
	Missed uint64           // ticks that passed unsampled since the one before, because sampling took too long
}

// Sampler calls for a sample at each multiple of Period, so that samples of different points and nodes fall together.
type Sampler struct {
	// Period is the time between samples: MinPeriod to MaxPeriod.
	Period time.Duration

	missed atomic.Uint64
}

// Missed is the number of ticks that passed unsampled since Run began. Safe beside Run.
func (s *Sampler) Missed() uint64 { return s.missed.Load() }

// Run calls fn at each tick, the first time at the next multiple of Period, until ctx ends (nil) or fn fails (its error).
// While fn runs no tick is given; those that pass are counted in the next Tick and never made up for in a burst. A step of
// the wall clock moves the ticks with it and is not counted as missed: time is what passed on the monotonic clock. Run may
// be called once at a time.
func (s *Sampler) Run(ctx context.Context, fn func(Tick) error) error {
	if s.Period < MinPeriod || s.Period > MaxPeriod {
		return fmt.Errorf("sample every %v: the period must be from %v to %v", s.Period, MinPeriod, MaxPeriod)
	}
	s.missed.Store(0)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var last time.Time // the tick before, with its monotonic reading; zero = there was none
	for {
		now := time.Now()
		wait := s.Period - sinceMultiple(now, s.Period)
		due := now.Add(wait)
		for { // a timer may fire early by the wall clock when that is being slewed
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
			if wait = time.Duration(due.UnixNano() - time.Now().UnixNano()); wait <= 0 || wait > s.Period {
				break
			}
		}
		tick := Tick{Due: packet.TimestampOf(due)}
		if !last.IsZero() {
			if passed := (due.Sub(last) + s.Period/2) / s.Period; passed > 1 {
				tick.Missed = uint64(passed - 1)
				s.missed.Add(tick.Missed)
			}
		}
		last = due
		if ctx.Err() != nil {
			return nil
		}
		if err := fn(tick); err != nil {
			return err
		}
	}
}

// sinceMultiple returns the time since the last multiple of period since the Unix epoch.
func sinceMultiple(t time.Time, period time.Duration) time.Duration {
	d := time.Duration(t.UnixNano()) % period
	if d < 0 {
		d += period
	}
	return d
}
