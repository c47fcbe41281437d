package controller

import (
	"context"
	"time"
)

// every calls fn once a period, the first time when one has passed, until ctx ends.
func every(ctx context.Context, period time.Duration, fn func(now time.Time)) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			fn(now)
		}
	}
}
