package pcap

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
)

// Source is a run of packets, as Reader is. Next fills p, whose Data is valid until the next call of the same source,
// and returns io.EOF at the end.
type Source interface {
	Next(p *Packet) error
}

// Merger reads several sources as one, in time order. Packets of equal time come in the order of the sources, and those
// of one source always in its own order: a source that goes back in time delays nothing and is not reordered. So the
// same sources always give the same run. It is not safe for concurrent use.
type Merger struct {
	sources []Source
	heap    mergeHeap
	current int // the source whose packet was given out last; -1 = none
	started bool
	err     error
}

// SourceError is the error of one source of a Merger.
type SourceError struct {
	Source int // index into the sources
	Err    error
}

// Error names the source.
func (e *SourceError) Error() string { return fmt.Sprintf("merge: source %d: %v", e.Source, e.Err) }

// Unwrap returns the source's own error.
func (e *SourceError) Unwrap() error { return e.Err }

// Merge makes a Merger. Nothing is read before the first Next.
func Merge(sources ...Source) *Merger {
	return &Merger{sources: sources, current: -1}
}

// Next fills p with the earliest packet of all sources. p.Data is borrowed until the next call; p.Interface is what the
// source said: Source tells which one that was. The error is io.EOF when all sources are at their end, or a
// *SourceError; after an error every call returns it again.
func (m *Merger) Next(p *Packet) error {
	if m.err != nil {
		return m.err
	}
	if m.err = m.advance(); m.err != nil {
		return m.err
	}
	top := &m.heap[0]
	*p, m.current = *top.packet, top.source
	return nil
}

// Source returns the index of the source the last packet came from, or -1.
func (m *Merger) Source() int { return m.current }

// advance puts the earliest packet at the top of the heap.
func (m *Merger) advance() error {
	if !m.started {
		m.started = true
		for i := range m.sources {
			it := mergeItem{packet: new(Packet), source: i}
			switch err := m.sources[i].Next(it.packet); {
			case err == nil:
				m.heap = append(m.heap, it)
			case !errors.Is(err, io.EOF):
				return &SourceError{i, err}
			}
		}
		heap.Init(&m.heap)
	} else if len(m.heap) > 0 {
		top := &m.heap[0]
		switch err := m.sources[top.source].Next(top.packet); {
		case err == nil:
			m.heap.down()
		case errors.Is(err, io.EOF):
			heap.Pop(&m.heap)
		default:
			return &SourceError{top.source, err}
		}
	}
	if len(m.heap) == 0 {
		return io.EOF
	}
	return nil
}

type mergeItem struct {
	packet *Packet
	source int
}

type mergeHeap []mergeItem

func (h mergeHeap) Len() int { return len(h) }
func (h mergeHeap) Less(i, j int) bool {
	a, b := &h[i], &h[j]
	if a.packet.Time != b.packet.Time {
		return a.packet.Time < b.packet.Time
	}
	return a.source < b.source
}
func (h mergeHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *mergeHeap) Push(x any)   { *h = append(*h, x.(mergeItem)) }
func (h *mergeHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// down moves the top to its place: heap.Fix(h, 0) without the interface calls.
func (h mergeHeap) down() {
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h.Less(c+1, c) {
			c++
		}
		if !h.Less(c, i) {
			return
		}
		h.Swap(i, c)
		i = c
	}
}
