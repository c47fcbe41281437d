package agent

import (
	"reflect"
	"slices"
	"sync"

	"opentap/want"
)

// shelfMax bounds how many plans are kept. One may hold tens of megabytes.
const shelfMax = 4

// shelf keeps the plans of captures from recordings that were made last, so that what was found to count a capture's packets
// need not be found again to give them out, nor by who asks for a range.
type shelf struct {
	mu    sync.Mutex
	plans []*shelved // the last used one last
}

// shelved is a plan of a capture that has ended. What it reads stays as long as the capture is there.
type shelved struct {
	uid, etag string
	format    want.Format
	gaps      []want.Gap // that its comment tells
	plan      *recordedPlan
}

func (s *shelf) put(x *shelved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plans = append(s.plans, x); len(s.plans) > shelfMax {
		s.plans = s.plans[1:]
	}
}

// find returns the plan with an ETag, with "" any that says the same; nil if there is none.
func (s *shelf) find(uid, etag string, f want.Format, gaps []want.Gap) *shelved {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.plans {
		if x.uid == uid && x.format == f && (etag == "" || x.etag == etag) && (len(x.gaps)+len(gaps) == 0 || reflect.DeepEqual(x.gaps, gaps)) {
			s.plans = append(append(s.plans[:i:i], s.plans[i+1:]...), x)
			return x
		}
	}
	return nil
}

func (s *shelf) forget(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plans = slices.DeleteFunc(s.plans, func(x *shelved) bool { return x.uid == uid })
}
