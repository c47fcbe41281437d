package query

import (
	"context"
	"errors"
	"math"

	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
)

// surveyor finds the chunks of a source that can hold wanted packets, one segment after the other, so that what the first
// ones hold is there before the last ones are looked at. The indexes of the segments behind are asked meanwhile.
type surveyor struct {
	src    *source
	window *Window
	rec    *segment.Recording
	found  *segment.Selection // nil = there is nothing to ask the indexes
	next   int                // of the recording's segments
	floors []packet.Timestamp // of each segment: it and those behind it hold nothing earlier
	begun  bool               // a chunk was seen
	over   bool               // no more pieces are wanted
	passed int                // segment whose chunks were not looked at and that may be the last with any; -1 = none
}

// survey begins anew to find the pieces of a source. The caller must close the surveyor.
func (s *source) survey(ctx context.Context, w *Window) *surveyor {
	v := &surveyor{src: s, window: w, rec: s.rec.Clone(), passed: -1}
	s.pieces, s.base, s.last, s.gaps, s.gapPackets, s.looked = nil, ledger.Account{}, ledger.Account{}, 0, 0, Explain{}
	s.bad, s.badPackets, s.packets, s.octets = 0, 0, 0, 0
	if w.Match != nil && w.Need != nil {
		v.found = v.rec.Select(ctx, w.Need, w.From, w.To)
	}
	segments := v.rec.Segments()
	v.floors = make([]packet.Timestamp, len(segments))
	floor := packet.Timestamp(math.MaxInt64)
	for i := len(segments) - 1; i >= 0; i-- {
		in := &segments[i]
		if s.lane == 0 {
			s.looked.Segments++
			s.looked.Chunks += uint64(in.Chunks)
			if in.Catalogued {
				s.looked.Catalogued++
			}
		}
		if in.Packets > 0 {
			floor = min(floor, in.Earliest)
		}
		v.floors[i] = max(floor, w.From)
	}
	s.looked.SkippedByTime = s.looked.Chunks
	return v
}

func (v *surveyor) close() {
	v.enough()
	v.rec.Close()
}

// enough says that no more pieces are wanted: the segments behind are only looked at for their accounts.
func (v *surveyor) enough() {
	v.over = true
	if v.found != nil {
		v.found.Close()
		v.found = nil
	}
}

// done reports whether all segments were looked at.
func (v *surveyor) done() bool { return v.next == len(v.floors) }

// floor is a time that no packet of the segments left is before.
func (v *surveyor) floor() packet.Timestamp { return v.floors[v.next] }

// segment adds the pieces of the next segment. It reports whether there was one.
func (v *surveyor) segment(ctx context.Context) (bool, error) {
	if v.done() {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err // or chunks would stay unselected
	}
	i := v.next
	v.next++
	if v.pass(i) {
		v.passed = i
	} else if err := v.chunks(i); err != nil {
		return false, err
	}
	if v.done() && v.passed >= 0 {
		if err := v.lastAccount(); err != nil {
			return false, err
		}
	}
	return true, ctx.Err()
}

// pass reports whether nothing of a segment is wanted and all of it is in the window, so that its chunks need not be known.
func (v *surveyor) pass(i int) bool {
	in, w, s := &v.rec.Segments()[i], v.window, v.src
	if v.over || v.found == nil || in.Damaged != "" || in.Packets == 0 || in.Earliest < w.From || w.To != 0 && in.Latest >= w.To ||
		!v.found.Nothing(in.Number) {
		return false
	}
	if s.lane > 0 {
		return true
	}
	if !v.begun {
		v.begun = true
		s.base = in.Base()
	}
	s.looked.SkippedByTime -= uint64(in.Chunks)
	s.looked.SkippedByIndex += uint64(in.Chunks)
	return true
}

// lastAccount has the account of the last chunk of the segments that were passed.
func (v *surveyor) lastAccount() error {
	for h, err := range v.rec.ChunksOf(v.passed, v.window.From, v.window.To) {
		var damage *segment.CorruptionError
		if err != nil && !errors.As(err, &damage) {
			return err
		}
		if h != nil {
			v.src.last = h.Account
		}
	}
	return nil
}

// chunks adds the pieces of a segment.
func (v *surveyor) chunks(i int) error {
	for h, err := range v.rec.ChunksOf(i, v.window.From, v.window.To) {
		var damage *segment.CorruptionError
		if errors.As(err, &damage) {
			if v.src.lane == 0 { // whosever they are
				v.src.gaps++
				v.src.gapPackets += damage.Packets
			}
			continue
		}
		if err == nil {
			err = v.chunk(h)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *surveyor) chunk(h *segment.ChunkHeader) (err error) {
	s, w := v.src, v.window
	if s.lane == 0 { // the account is that of all lanes
		if !v.begun {
			v.begun = true
			if s.base, err = v.rec.AccountBefore(h); err != nil {
				return err
			}
		}
		s.last, v.passed = h.Account, -1
		s.looked.SkippedByTime--
	}
	if v.over || !s.has(h) {
		return nil
	}
	var spans []segment.Span
	if v.found != nil {
		known := false
		if spans, known = v.found.Chunk(h); known && len(spans) == 0 {
			s.looked.SkippedByIndex++
			return nil
		} else if !known {
			s.looked.NotIndexed++
		}
	}
	s.pieces = append(s.pieces, piece{
		offset: h.Offset, earliest: h.Earliest, out: -1, segment: h.Segment,
		sequence: h.Sequence, length: uint32(h.Length), last: h.Last, header: uint32(h.Header), epb: h.PacketOctets,
		packets: h.Packets, stored: h.StoredOctets, bodyCRC: h.BodyCRC, headCRC: h.HeaderCRC,
		partial: h.Earliest < w.From || w.To != 0 && h.Latest >= w.To, spans: spans,
	})
	return nil
}
