package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"opentap/capture"
	"opentap/capture/ring"
	"opentap/filter"
	"opentap/pcap"
)

func liveOf(points, most int, w io.Writer, packets uint64) *liveReader {
	r := &liveReader{w: w, limit: budget{of: filter.Limits{Packets: packets}}, wake: make(chan struct{}, 1)}
	for i := range points {
		r.points = append(r.points, &livePoint{r: r, iface: uint32(i), most: most})
	}
	return r
}

func frameOf(n int) *capture.Frame {
	return &capture.Frame{Frame: &ring.Frame{Data: make([]byte, n), OrigLen: uint32(n), Time: 1}}
}

// show gives the consumer a block of frames and counts its answers.
func show(c capture.Consumer, frames, octets int) map[capture.Verdict]int {
	got := map[capture.Verdict]int{}
	c.Begin()
	for range frames {
		got[c.Frame(frameOf(octets))]++
	}
	c.End()
	return got
}

func TestALateReaderLosesPacketsAndNobodyWaits(t *testing.T) {
	var out bytes.Buffer
	size := pcap.PacketSize(100, pcap.DirectionIn)
	r := liveOf(2, 10*size, &out, 0)
	if got := show(r.points[0], 15, 100); got[capture.Took] != 10 || got[capture.LostReader] != 5 {
		t.Errorf("the late one: %v", got)
	}
	if got := show(r.points[1], 5, 100); got[capture.Took] != 5 {
		t.Errorf("another point of the same reader: %v", got)
	}
	if err := r.empty(); err != nil || out.Len() != 15*size {
		t.Errorf("%d octets were written, %v", out.Len(), err)
	}
	if got := show(r.points[0], 10, 100); got[capture.Took] != 10 {
		t.Errorf("after it was emptied: %v", got)
	}
	select {
	case <-r.wake:
	default:
		t.Error("nobody was woken")
	}
}

func TestALiveLimitIsExact(t *testing.T) {
	r := liveOf(2, 1<<20, io.Discard, 12)
	show(r.points[0], 5, 100)
	if r.enough() {
		t.Error("5 of 12 are enough")
	}
	if got := show(r.points[1], 10, 100); got[capture.Took] != 6 || got[capture.TookLast] != 1 || got[capture.Full] != 3 || !r.enough() {
		t.Errorf("%v", got)
	}
}

func TestLiveTakesPacketsWithoutAllocating(t *testing.T) {
	r := liveOf(1, 1<<20, io.Discard, 0)
	f := frameOf(1000)
	one := func() {
		for range 2 {
			r.points[0].Begin()
			for range 500 {
				r.points[0].Frame(f)
			}
			r.points[0].End()
			if err := r.empty(); err != nil {
				t.Fatal(err)
			}
		}
	}
	one()
	if n := testing.AllocsPerRun(20, one); n != 0 {
		t.Errorf("%v allocations for 1000 packets", n)
	}
}

func TestEmptyStopsWithTheReader(t *testing.T) {
	pr, pw := io.Pipe()
	_ = pr.CloseWithError(context.Canceled)
	r := liveOf(1, 1<<20, pw, 0)
	show(r.points[0], 1, 100)
	if err := r.empty(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
