package tap

import (
	"strings"
	"testing"
)

func TestTrial(t *testing.T) {
	sorts := func() []TrialSort {
		return []TrialSort{{Direction: In, Length: 100, Sent: 2}, {Direction: Out, Length: 100, Sent: 2}, {Direction: Out, VLAN: 5, Length: 104, Sent: 2}}
	}
	good := []HeardCanary{{Number: 2, Length: 100}, {Number: 3, Length: 100}, {Number: 4, VLAN: 5, Length: 104}, {Number: 5, VLAN: 5, Length: 104}}
	many := Trial{Sorts: sorts(), Counted: map[string]uint64{"seen": 4}, Others: 1}
	if many.Judge(Out, Options{}, append(good[:4:4], good[0], HeardCanary{Number: 0, Length: 100}), false); !many.OK || len(many.Notes) != 1 || many.DelayUS != nil {
		t.Errorf("beside another flow: %+v", many)
	}
	for _, tt := range []struct {
		name    string
		dir     Direction
		options Options
		heard   []HeardCanary
		counted map[string]uint64
		want    string // in a fault; "" = OK
	}{
		{"good", Out, Options{}, good, map[string]uint64{"seen": 4}, ""},
		{"loss", Out, Options{}, good[1:], map[string]uint64{"seen": 4}, "1 of 2 canaries OUT, untagged, of 100 octets, were lost"},
		{"twice", Out, Options{}, append(good[:4:4], good[0]), map[string]uint64{"seen": 4}, "more than once"},
		{"tag lost", Out, Options{}, append(good[:3:3], HeardCanary{Number: 5, Length: 100}), map[string]uint64{"seen": 4}, "another tag or length"},
		{"the other direction too", Out, Options{}, append(good[:4:4], HeardCanary{Number: 0, Length: 100}), map[string]uint64{"seen": 4}, "must not"},
		{"only In is tapped", In, Options{}, []HeardCanary{{Number: 0, Length: 100}, {Number: 1, Length: 100}}, map[string]uint64{"seen": 2}, ""},
		{"VLAN list", Out, Options{VLANs: "1,4-6"}, good[2:], map[string]uint64{"seen": 4}, ""},
		{"VLAN list leaks", Out, Options{VLANs: "1,4-6"}, good, map[string]uint64{"seen": 4}, "must not"},
		{"filtered", Out, Options{Filter: "tcp"}, nil, map[string]uint64{"seen": 4, "not_matched": 4}, ""},
		{"filtered and blind", Out, Options{Filter: "tcp"}, nil, nil, "fewer than the 4"},
		{"cut short", Out, Options{Snap: 40}, cutTo(good, 40), map[string]uint64{"seen": 4, "truncated": 4}, ""},
		{"not cut short", Out, Options{Snap: 40}, good, map[string]uint64{"seen": 4}, "another tag or length"},
		{"the path cuts", Out, Options{OnMTU: Truncate}, cutTo(good, 90), map[string]uint64{"seen": 4, "truncated": 4}, ""},
		{"the path cuts the longest", Out, Options{}, cutTo(good, 101), map[string]uint64{"seen": 4, "truncated": 2}, ""},
		{"cut, and not counted", Out, Options{}, cutTo(good, 90), map[string]uint64{"seen": 4, "truncated": 3}, "another tag or length"},
		{"cut, though longer ones are not", Out, Options{}, append(cutTo(good[:2], 90), good[2:]...), map[string]uint64{"seen": 4, "truncated": 4}, "another tag or length"},
		{"cut to this and that", Out, Options{}, append(cutTo(good[:2], 90), cutTo(good[2:], 80)...), map[string]uint64{"seen": 4, "truncated": 4}, "another tag or length"},
		{"cut where it is to be dropped", Out, Options{OnMTU: Drop}, cutTo(good, 90), map[string]uint64{"seen": 4, "truncated": 4}, "another tag or length"},
		{"too long, and dropped", Out, Options{OnMTU: Drop}, good[:2], map[string]uint64{"seen": 4, "too_long": 2}, ""},
		{"all too long, and dropped", Out, Options{OnMTU: Drop}, nil, map[string]uint64{"seen": 4, "too_long": 4}, ""},
		{"dropped, and not counted", Out, Options{OnMTU: Drop}, good[:2], map[string]uint64{"seen": 4, "too_long": 1}, "2 of 2 canaries OUT, in VLAN 5, of 104 octets, were lost"},
		{"dropped, though longer ones are not", Out, Options{OnMTU: Drop}, good[2:], map[string]uint64{"seen": 4, "too_long": 2}, "were lost"},
		{"dropped where it is to be cut", Out, Options{}, good[:2], map[string]uint64{"seen": 4, "too_long": 2}, "were lost"},
		{"counted as lost", Out, Options{}, good, map[string]uint64{"seen": 4, "lost: queue": 1}, "lost: queue"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Trial{Sorts: sorts(), Counted: tt.counted}
			r.Judge(tt.dir, tt.options, tt.heard, true)
			all := strings.Join(r.Faults, "; ")
			if r.OK != (tt.want == "") || !strings.Contains(all, tt.want) {
				t.Errorf("OK %v, faults %q, want %q", r.OK, all, tt.want)
			}
		})
	}
}

// cutTo is what would be heard of canaries by a path that carries so many octets.
func cutTo(heard []HeardCanary, octets int) (out []HeardCanary) {
	for _, h := range heard {
		h.Length = min(h.Length, octets)
		out = append(out, h)
	}
	return out
}
