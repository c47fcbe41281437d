package fabric

import (
	"errors"
	"time"
)

// Tags gives ways through the fabric their VLAN ids. A way keeps its tag for as long as it is used, and a tag that was let
// go is not given to another way for a while: frames may still be under way. It is kept over restarts. It is not safe for
// concurrent use.
type Tags struct {
	Used map[string]uint16    `json:"used"` // by way
	Free map[uint16]time.Time `json:"free"` // when it was let go
}

// The pool, and how long a tag rests.
const (
	tagFirst, tagLast = 2001, 4000
	tagRest           = time.Minute
)

var errNoTags = errors.New("no VLAN tag is free: the fabric has as many ways as it can tell apart")

// Clone returns a copy, to plan with.
func (t *Tags) Clone() *Tags {
	out := &Tags{Used: make(map[string]uint16, len(t.Used)), Free: make(map[uint16]time.Time, len(t.Free))}
	for k, v := range t.Used {
		out.Used[k] = v
	}
	for k, v := range t.Free {
		out.Free[k] = v
	}
	return out
}

// take returns the tag of a way, a new one if it has none.
func (t *Tags) take(way string, now time.Time) (uint16, error) {
	if tag, ok := t.Used[way]; ok {
		return tag, nil
	}
	taken := make(map[uint16]bool, len(t.Used))
	for _, tag := range t.Used {
		taken[tag] = true
	}
	for tag := uint16(tagFirst); tag <= tagLast; tag++ {
		if at, resting := t.Free[tag]; taken[tag] || resting && now.Sub(at) < tagRest {
			continue
		}
		delete(t.Free, tag)
		if t.Used == nil {
			t.Used = make(map[string]uint16)
		}
		t.Used[way] = tag
		return tag, nil
	}
	return 0, errNoTags
}

// Keep lets go of all ways but these. changed is true when there were others.
func (t *Tags) Keep(ways map[string]bool, now time.Time) (changed bool) {
	for way, tag := range t.Used {
		if !ways[way] {
			delete(t.Used, way)
			if t.Free == nil {
				t.Free = make(map[uint16]time.Time)
			}
			t.Free[tag] = now
			changed = true
		}
	}
	for tag, at := range t.Free {
		if now.Sub(at) >= tagRest {
			delete(t.Free, tag)
		}
	}
	return changed
}
