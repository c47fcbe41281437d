package bpftap

import (
	"bytes"
	"testing"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// TestNetnsFilterAtTheEnd: a filter that reads up to a frame's end finds what is there, and nothing where there is none, whatever
// the frame's length and wherever its tag is kept.
func TestNetnsFilterAtTheEnd(t *testing.T) {
	l := newLab(t, "")
	s := nettest.NewSender(t, l.owner, "p1")
	for i, tags := range [][]nettest.Tag{nil, {{TCI: 7}}} {
		for _, f := range []struct {
			filter string
			needs  int // octets of payload
		}{
			{"udp[8] = 7", 1},
			{"udp[12:4] = 0x07070707", 8},
			{"udp[31] = 7", 24},
			{"udp[8 + udp[8] : 2] = 0x0707", 9},
			{"udp[60:4] = 0x07070707 or udp port 9", 56},
			{"udp[200:4] = 0x07070707", 196},
		} {
			id := f.filter + string(rune('a'+i))
			l.source(tap.Source{ID: id, Device: tap.Device{Name: "p0"}, Direction: tap.Out, Options: tap.Options{Filter: f.filter}, To: tap.Target{Device: tap.Device{Name: "t0"}}})
			const longest = 230
			for n := range longest {
				s.Send(nettest.Packet{Payload: bytes.Repeat([]byte{7}, n), NoPad: true, Tags: tags}.Bytes())
			}
			var c tap.Counts
			await.Until(t, "all frames are seen", func() bool { c = l.counts(id); return c.Seen == longest })
			if want := uint64(max(longest-f.needs, 0)); c.Mirrored != want {
				t.Errorf("%q with tags %v: %d of %d frames match, want %d", f.filter, tags, c.Mirrored, longest, want)
			}
			l.host.Do(func() {
				if err := l.d.Delete(t.Context(), id); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
