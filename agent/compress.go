package agent

import (
	"context"
	"errors"
	"os"
	"time"

	"opentap/capture/segment"
)

// compressEvery is how often a recording looks for segments to compress.
const compressEvery = 5 * time.Second

// compress compresses sealed segments of the recording until ctx ends. It takes half of a core at most, and nothing while the
// governor spares the host.
func (r *recording) compress(ctx context.Context) {
	tick := time.NewTicker(compressEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		done, err := segment.Compress(ctx, r.dir, func() error {
			err := rest(ctx, time.Since(began))
			for err == nil && r.a.engine.Restrained() {
				err = rest(ctx, time.Second)
			}
			began = time.Now()
			return err
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !errors.Is(err, os.ErrNotExist): // it has nothing yet
			r.a.log.Warn("segments are not compressed; it is tried again", "point", r.cfg.Point, "err", err)
		case done.Segments > 0:
			r.a.log.Debug("segments compressed", "point", r.cfg.Point, "segments", done.Segments, "octets", done.Before, "to", done.After)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rest waits for d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
