package tap

import (
	"context"
	"strings"
)

// Divide makes two drivers of one: the second one's ids begin with the mark in what the one has, and the first knows nothing of these. So a driver can
// work for another one as well as for itself. Both are called by the one goroutine that may call d; closing the second does nothing.
func Divide(d Driver, mark string) (rest, marked Driver) {
	return &restOf{d, mark}, &markedOf{d, mark}
}

// stander is reconcile.Stander.
type stander interface{ Stands(id string) bool }

func stands(d Driver, id string) bool {
	s, ok := d.(stander)
	return !ok || s.Stands(id)
}

type restOf struct {
	Driver
	mark string
}

// Prune implements Driver.
func (r *restOf) Prune(ctx context.Context, keep func(id string) bool) ([]string, error) {
	return r.Driver.Prune(ctx, func(id string) bool { return strings.HasPrefix(id, r.mark) || keep(id) })
}

// Stands implements reconcile.Stander.
func (r *restOf) Stands(id string) bool { return stands(r.Driver, id) }

type markedOf struct {
	d    Driver
	mark string
}

// Name implements Driver.
func (m *markedOf) Name() string { return m.d.Name() }

// Takes implements Driver.
func (m *markedOf) Takes(dev Device) error { return m.d.Takes(dev) }

// UpdateSource implements Driver.
func (m *markedOf) UpdateSource(ctx context.Context, s Source) (string, error) {
	s.ID = m.mark + s.ID
	return m.d.UpdateSource(ctx, s)
}

// UpdateSink implements Driver.
func (m *markedOf) UpdateSink(ctx context.Context, s Sink) (string, error) {
	s.ID = m.mark + s.ID
	return m.d.UpdateSink(ctx, s)
}

// Delete implements Driver.
func (m *markedOf) Delete(ctx context.Context, id string) error { return m.d.Delete(ctx, m.mark+id) }

// Prune implements Driver.
func (m *markedOf) Prune(ctx context.Context, keep func(id string) bool) ([]string, error) {
	removed, err := m.d.Prune(ctx, func(id string) bool {
		own, ours := strings.CutPrefix(id, m.mark)
		return !ours || keep(own)
	})
	for i := range removed {
		removed[i] = strings.TrimPrefix(removed[i], m.mark)
	}
	return removed, err
}

// Counts implements Driver.
func (m *markedOf) Counts(id string) (Counts, error) { return m.d.Counts(m.mark + id) }

// Stands implements reconcile.Stander.
func (m *markedOf) Stands(id string) bool { return stands(m.d, m.mark+id) }

// Close implements Driver.
func (m *markedOf) Close() error { return nil }
