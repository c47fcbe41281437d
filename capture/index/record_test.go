package index

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"opentap/packet"
)

// lab makes the frames of bidirectional flows of UDP as the generator of `make bench` does: a quarter IPv6, a tenth tagged,
// each flow's request and answer one after the other. In turns, or of random flows.
type lab struct {
	flows  uint32
	random *rand.Rand // nil = in turns
	sizes  []int

	flow  uint32
	n     int
	frame [1514]byte
}

func (l *lab) next() []byte {
	back := l.n&1 == 1
	if !back {
		if l.flow++; l.random != nil {
			l.flow = l.random.Uint32N(l.flows)
		} else if l.flow == l.flows {
			l.flow = 0
		}
	}
	kind := l.flow % 20
	six, tagged := kind%4 == 0, kind == 1 || kind == 12
	f := l.frame[:l.sizes[l.n%len(l.sizes)]]
	l.n++
	clear(f[12:62])
	at := 12
	if tagged {
		be.PutUint16(f[at:], 0x8100)
		be.PutUint16(f[at+2:], 100)
		at += 4
	}
	client, server, size := 10<<24|l.flow, uint32(198<<24|51<<16|100<<8|1), 4
	if six {
		be.PutUint16(f[at:], 0x86dd)
		f[at+2], f[at+8] = 0x60, 17
		size = 16
		at += 10
		be.PutUint32(f[at:], 0x20010db8)
		be.PutUint32(f[at+16:], 0x20010db8)
	} else {
		be.PutUint16(f[at:], 0x0800)
		f[at+2], f[at+11] = 0x45, 17
		at += 14
	}
	from, to := uint16(1024+l.flow&0x7fff), uint16(443)
	if back {
		client, server, from, to = server, client, to, from
	}
	be.PutUint32(f[at+size-4:], client)
	be.PutUint32(f[at+2*size-4:], server)
	be.PutUint16(f[at+2*size:], from)
	be.PutUint16(f[at+2*size+2:], to)
	return f
}

var imix = []int{62, 590, 62, 62, 590, 1514, 62, 590, 62, 62, 590, 62}

// BenchmarkRecord is what an index costs a recording: frames are copied from a ring's memory into chunks of 4 MiB, and their
// keys are found on the way. "copied" leaves the index out.
func BenchmarkRecord(b *testing.B) {
	for _, mix := range []struct {
		name  string
		sizes []int
	}{{"64", []int{62}}, {"imix", imix}} {
		for _, flows := range []uint32{1000, 100_000, 1_000_000} {
			for _, order := range []string{"turns", "random", "copied"} {
				if order == "copied" && flows != 1000 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%d/%s", mix.name, flows, order), func(b *testing.B) {
					l := &lab{flows: flows, sizes: mix.sizes}
					if order == "random" {
						l.random = rand.New(rand.NewPCG(1, 2))
					}
					record(b, l, order != "copied")
				})
			}
		}
	}
}

func record(b *testing.B, l *lab, indexed bool) {
	var frames [][]byte // one after the other, as in a ring
	ring := make([]byte, 0, 64<<20)
	for len(ring)+1600 < cap(ring) && len(frames) < 800_000 {
		at := len(ring)
		ring = append(ring, l.next()...)
		frames = append(frames, ring[at:])
	}
	const header = 336
	chunk := make([]byte, 4<<20)
	var keys Keys
	var marks []Mark
	s, x := NewScanner(packet.LinkEthernet), NewBuilder(packet.LinkEthernet, 1, 1)
	var out []byte
	octets, size, at, start, parts := 0, 0, header, header, 0
	s.Begin(&keys)
	b.ReportAllocs()
	pass := func() {
		for _, f := range frames {
			if at+len(f)+44 > len(chunk) {
				if indexed {
					x.Add(&keys, at, 1, marks)
					if x.Full() {
						out = x.Part(out[:0])
						size += len(out)
						if parts++; parts == 8 {
							x.Segment(1, 1)
							parts = 0
						}
					}
					s.Begin(&keys)
				}
				octets += at
				at, start, marks = header, header, marks[:0]
			}
			if at-start >= BlockOctets || len(marks) == 0 {
				if indexed && len(marks) > 0 {
					s.Next()
				}
				marks = append(marks, Mark{Offset: uint32(at)})
				start = at
			}
			le.PutUint32(chunk[at:], 6)
			copy(chunk[at+28:], f)
			at += (len(f) + 44 + 3) &^ 3
			if indexed {
				s.Frame(f)
			}
		}
	}
	pass() // memory is touched, and caches are as they will be
	least := time.Hour
	for b.Loop() {
		before := cpuTime()
		pass()
		least = min(least, cpuTime()-before)
	}
	b.ReportMetric(float64(least.Nanoseconds())/float64(len(frames)), "least-cpu-ns/packet")
	b.ReportMetric(100*float64(size)/float64(octets), "%size")
	b.ReportMetric(0, "ns/op")
}
