package query

import (
	"context"
	"errors"

	"opentap/capture/segment"
	"opentap/ledger"
)

// survey finds the chunks of a source that can hold wanted packets, and calls fn whenever those of a segment are known. The
// indexes of the segments behind are asked meanwhile. It begins anew each time.
func (s *source) survey(ctx context.Context, w *Window, fn func() error) error {
	rec := s.rec.Clone()
	defer rec.Close()
	s.pieces, s.base, s.last, s.gaps, s.gapPackets, s.looked = nil, ledger.Account{}, ledger.Account{}, 0, 0, Explain{}
	var found *segment.Selection
	if w.Match != nil && w.Need != nil {
		found = rec.Select(ctx, w.Need, w.From, w.To)
		defer found.Close()
	}
	for _, in := range rec.Segments() {
		s.looked.Chunks += uint64(in.Chunks)
	}
	s.looked.SkippedByTime = s.looked.Chunks
	first, at := true, uint32(0)
	for h, err := range rec.Chunks(w.From, w.To) {
		var damage *segment.CorruptionError
		if errors.As(err, &damage) {
			s.gaps++
			s.gapPackets += damage.Packets
			continue
		}
		if err != nil {
			return err
		}
		if first {
			first, at = false, h.Segment
			if s.base, err = rec.AccountBefore(h); err != nil {
				return err
			}
		}
		if h.Segment != at {
			at = h.Segment
			if err := fn(); err != nil {
				return err
			}
		}
		s.last = h.Account
		s.looked.SkippedByTime--
		var spans []segment.Span
		if found != nil {
			known := false
			if spans, known = found.Chunk(h); known && len(spans) == 0 {
				s.looked.SkippedByIndex++
				continue
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
	}
	if err := ctx.Err(); err != nil {
		return err // or chunks would stay unselected
	}
	return fn()
}
