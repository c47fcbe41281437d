package agent

import (
	"context"
	"errors"
	"os"
	"sync"

	"opentap/tap"
)

// missingTaps is what taps are called among what a node cannot do.
const missingTaps = "taps"

// lateDriver opens a driver when it is needed, so that a host without taps is left as it is.
type lateDriver struct {
	name string
	open func() (tap.Driver, error)

	mu   sync.Mutex
	left bool // an earlier process may have left something
	d    tap.Driver
}

var _ tap.Driver = (*lateDriver)(nil)

func newLateDriver(name string, left bool, open func() (tap.Driver, error)) *lateDriver {
	return &lateDriver{name: name, left: left, open: open}
}

// driver opens it if it is not.
func (l *lateDriver) driver() (tap.Driver, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.d == nil {
		d, err := l.open()
		if err != nil {
			return nil, err
		}
		l.d = d
	}
	return l.d, nil
}

// there returns the driver if it was needed until now, or left something.
func (l *lateDriver) there() (tap.Driver, error) {
	l.mu.Lock()
	needed := l.d != nil || l.left
	l.mu.Unlock()
	if !needed {
		return nil, nil
	}
	return l.driver()
}

// Name implements tap.Driver.
func (l *lateDriver) Name() string { return l.name }

// Takes implements tap.Driver.
func (l *lateDriver) Takes(dev tap.Device) error {
	d, err := l.driver()
	if err != nil {
		return err
	}
	return d.Takes(dev)
}

// UpdateSource implements tap.Driver.
func (l *lateDriver) UpdateSource(ctx context.Context, s tap.Source) (string, error) {
	d, err := l.driver()
	if err != nil {
		return "", err
	}
	return d.UpdateSource(ctx, s)
}

// UpdateSink implements tap.Driver.
func (l *lateDriver) UpdateSink(ctx context.Context, s tap.Sink) (string, error) {
	d, err := l.driver()
	if err != nil {
		return "", err
	}
	return d.UpdateSink(ctx, s)
}

// Delete implements tap.Driver.
func (l *lateDriver) Delete(ctx context.Context, id string) error {
	d, err := l.there()
	if d == nil || err != nil {
		return err
	}
	return d.Delete(ctx, id)
}

// Prune implements tap.Driver.
func (l *lateDriver) Prune(ctx context.Context, keep func(id string) bool) ([]string, error) {
	d, err := l.there()
	if errors.Is(err, tap.ErrUnsupported) {
		return nil, nil // nothing can be left either
	}
	if d == nil || err != nil {
		return nil, err
	}
	return d.Prune(ctx, keep)
}

// Counts implements tap.Driver.
func (l *lateDriver) Counts(id string) (tap.Counts, error) {
	d, err := l.there()
	if err != nil {
		return tap.Counts{}, err
	}
	if d == nil {
		return tap.Counts{}, os.ErrNotExist
	}
	return d.Counts(id)
}

// Stands implements reconcile.Stander.
func (l *lateDriver) Stands(id string) bool {
	d, err := l.there()
	if d == nil || err != nil {
		return false
	}
	s, ok := d.(interface{ Stands(id string) bool })
	return !ok || s.Stands(id)
}

// Close implements tap.Driver.
func (l *lateDriver) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.d == nil {
		return nil
	}
	return l.d.Close()
}
