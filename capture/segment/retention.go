package segment

import (
	"errors"
	"fmt"
	"os"

	"opentap/packet"
)

// DropOldest deletes the oldest segment and returns what it was. The last segment, or one without a seal, is never
// deleted: then the Info is zero. Readers that have it open keep it.
func (r *Recording) DropOldest() (Info, error) {
	if len(r.segments) < 2 || !r.segments[0].Sealed {
		return Info{}, nil
	}
	in := r.segments[0]
	os.Remove(tablePath(r.dir, in.Number))
	removeIndex(r.dir, in.Number)
	removeSieves(r.dir, in.Number)
	// Both files: one may be taking the other's place just now.
	for _, path := range []string{segmentPath(r.dir, in.Number), packedPath(r.dir, in.Number)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return Info{}, fmt.Errorf("drop segment %08d: %w", in.Number, err)
		}
	}
	r.segments = r.segments[1:]
	return in, nil
}

// ExpireBefore deletes the oldest segments as long as all their packets are older than t, and returns what they were.
func (r *Recording) ExpireBefore(t packet.Timestamp) ([]Info, error) {
	var gone []Info
	for len(r.segments) > 0 && r.segments[0].Latest < t {
		in, err := r.DropOldest()
		if err != nil || in.Number == 0 {
			return gone, err
		}
		gone = append(gone, in)
	}
	return gone, nil
}
