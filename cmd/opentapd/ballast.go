package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"opentap/agent"
)

// ballast is room on the state's disk that is ours to give up. When somebody else fills that disk, the store could not
// write its next change and would end with us; so a file of ballastSize is kept, and let go as soon as the disk is nearly
// full. Until there is room again, new work is refused with that reason; what runs goes on, and deleting is possible.
type ballast struct {
	dir  string
	free func(dir string) (int64, error)
	full func(reason string) // told of each change; "" = there is room
	log  *slog.Logger
	low  bool

	again  time.Time // not before then is it tried to take the room up again
	failed string    // what was said last of what cannot be done
}

const (
	ballastSize  = 64 << 20
	ballastEvery = 250 * time.Millisecond
	ballastPause = time.Minute // after what could not be written: somebody set a quota, and each try writes all of it
)

func newBallast(dir string, full func(string), log *slog.Logger) *ballast {
	return &ballast{dir: dir, free: agent.FreeOctets, full: full, log: log}
}

func (b *ballast) path() string { return filepath.Join(b.dir, "ballast") }

// Run watches the disk until ctx ends, and returns nil.
func (b *ballast) Run(ctx context.Context) error {
	t := time.NewTicker(ballastEvery)
	defer t.Stop()
	for {
		b.tell(b.look(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// tell says what goes wrong, once.
func (b *ballast) tell(err error) {
	text := ""
	if err != nil {
		if text = err.Error(); text != b.failed {
			b.log.Warn("the room on the state's disk is not known, or cannot be kept", "dir", b.dir, "err", err)
		}
	}
	b.failed = text
}

// look lets the ballast go, or takes it up again.
func (b *ballast) look(now time.Time) error {
	free, err := b.free(b.dir)
	if err != nil {
		return err
	}
	_, err = os.Stat(b.path())
	held := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case held && free < ballastSize/4:
		if err := os.Remove(b.path()); err != nil {
			return err
		}
		b.set(true)
		b.log.Error("the state's disk is full: room kept for this was let go, and new work is refused until there is more", "dir", b.dir)
	case !held && free > 3*ballastSize && now.Before(b.again):
		return errors.New(b.failed)
	case !held && free > 3*ballastSize:
		if err := b.fill(); err != nil {
			b.again = now.Add(ballastPause)
			return fmt.Errorf("keep room in reserve: %w", errors.Join(err, os.Remove(b.path())))
		}
		b.set(false)
	case !held:
		b.set(free < ballastSize)
	}
	return nil
}

func (b *ballast) set(low bool) {
	if low == b.low {
		return
	}
	b.low = low
	if low {
		b.full(fmt.Sprintf("the disk of %s is full", b.dir))
	} else {
		b.full("")
	}
}

// fill writes the file: octets that a file system cannot take back, as it could those of a hole.
func (b *ballast) fill() error {
	f, err := os.OpenFile(b.path(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for n := 0; n < ballastSize && err == nil; n += len(block) {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Close())
}
