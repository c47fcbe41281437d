package bpftap

import (
	"bytes"
	"testing"

	"opentap/internal/nettest"
	"opentap/tap"
)

var hooks = []Hook{TCX, Clsact}

func local(id string, dir tap.Direction, o tap.Options) tap.Source {
	return tap.Source{ID: id, Device: tap.Device{Name: "p0"}, Direction: dir, Options: o, To: tap.Target{Device: tap.Device{Name: "t0"}}}
}

// TestNetnsDirections: IN, OUT and BOTH are seen from the port's owner, and the tool gets the frames as they were.
func TestNetnsDirections(t *testing.T) {
	for _, hook := range hooks {
		t.Run(string(hook), func(t *testing.T) {
			l := newLab(t, hook)
			out, in := nettest.NewSender(t, l.owner, "p1"), nettest.NewSender(t, l.host, "p0")
			sent := nettest.Packet{SrcPort: 1, Payload: []byte("from the owner")}.Bytes()
			received := nettest.Packet{SrcPort: 2, Payload: []byte("to the owner")}.Bytes()
			for _, tt := range []struct {
				dir  tap.Direction
				want [][]byte
			}{{tap.Out, [][]byte{sent}}, {tap.In, [][]byte{received}}, {tap.Both, [][]byte{sent, received}}} {
				l.source(local("a", tt.dir, tap.Options{}))
				e := listen(t, l.tool, "t1")
				out.Send(sent)
				in.Send(received)
				got := e.hear(len(tt.want))
				if len(got) != len(tt.want) || e.silence() != 0 {
					t.Fatalf("%s: %d frames, want %d", tt.dir, len(got), len(tt.want))
				}
				for i := range got {
					if !bytes.Equal(got[i], tt.want[i]) {
						t.Errorf("%s: frame %d is\n%x, want\n%x", tt.dir, i, got[i], tt.want[i])
					}
				}
			}
			if c := l.counts("a"); c.Seen != 4 || c.Mirrored != 4 || c.Sent != 4 || len(c.Errors) != 0 {
				t.Errorf("counts over three directions: %+v", c)
			}
		})
	}
}

// TestNetnsOptions: filter, VLAN list, sampling and rate limit choose packets, and each that is not copied is counted under its reason.
func TestNetnsOptions(t *testing.T) {
	l := newLab(t, "")
	l.source(local("filter", tap.Out, tap.Options{Filter: "udp dst port 53"}))
	l.source(local("vlans", tap.Out, tap.Options{VLANs: "7,100-199"}))
	l.source(local("both", tap.Out, tap.Options{VLANs: "100-199", Filter: "udp dst port 53"}))
	l.source(local("sample", tap.Out, tap.Options{SampleN: 10}))
	l.source(local("rate", tap.Out, tap.Options{RateBPS: 8, Burst: 6000}))
	e := listen(t, l.tool, "t1")
	s := nettest.NewSender(t, l.owner, "p1")
	tagged := func(tci uint16, port uint16) []byte {
		return nettest.Packet{Tags: []nettest.Tag{{TCI: tci}}, DstPort: port}.Bytes()
	}
	for range 100 {
		s.Send(nettest.Packet{DstPort: 53}.Bytes(), nettest.Packet{DstPort: 54}.Bytes(), tagged(7, 53), tagged(0x8000|150, 54), tagged(199, 53),
			tagged(200, 53), nettest.Packet{Tags: []nettest.Tag{{TPID: nettest.EtherQinQ, TCI: 120}, {TCI: 7}}, DstPort: 53}.Bytes())
	}
	for id, want := range map[string]uint64{"filter": 500, "vlans": 400, "both": 200, "rate": 100} {
		c := l.counts(id)
		if c.Seen != 700 || c.Mirrored != want || id != "rate" && c.NotMatched != 700-want || id == "rate" && c.RateLimited != 600 {
			t.Errorf("%s: %+v, want %d mirrored of 700", id, c, want)
		}
	}
	c := l.counts("sample")
	if c.Mirrored+c.SampledOut != 700 || c.Mirrored < 30 || c.Mirrored > 130 {
		t.Errorf("1 in 10 of 700: %+v", c)
	}
	if n := len(e.hear(1200 + int(c.Mirrored))); n != 1200+int(c.Mirrored) || e.silence() != 0 {
		t.Errorf("%d copies arrived", n)
	}
}
