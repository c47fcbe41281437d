package flow

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"opentap/packet"
)

// drawFrames makes frames of a few flows, some of them broken, with times that jump.
func drawFrames(t *rapid.T) (frames [][]byte, times []packet.Timestamp) {
	now := packet.Timestamp(1_700_000_000e9)
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)) // a draw for each frame would take too long
	for range rapid.IntRange(0, 5000).Draw(t, "frames") {
		v := r.Uint32()
		step := []int{0, 1, 1, 10, 50, 200, 900, 5000, -1, -20, -800, -4000, 0, 0, 0, 0}[v&15]
		now = now.Add(time.Duration(step) * time.Millisecond)
		src, dst := host4(v>>4&3), host4(v>>6&3)
		if v>>8&3 == 0 {
			src, dst = host6(v>>4&3), host6(v>>6&3)
		}
		proto, l4 := uint8(6), tcp(uint16(v>>10&3), uint16(v>>12&3), []byte{2, 18, 16, 16, 24, 17, 4, 16}[v>>14&7])
		switch v >> 17 & 7 {
		case 0:
			proto, l4 = 17, udp(uint16(v>>10&3), 53, 100)
		case 1:
			proto, l4 = 1, []byte{byte(v >> 20 & 8), 0, 0, 0, 0, 0, 0, 0}
		}
		f := frameOf(nil, src, dst, proto, l4, 140, 200)
		if v>>24&31 == 0 {
			f = f[:v>>29*8]
		}
		frames, times = append(frames, f), append(times, now)
	}
	return frames, times
}

// framesOf returns what Parallel calls for frames, a few at a time; after the last it returns err.
func framesOf(frames [][]byte, times []packet.Timestamp, err error) func(*Frames) error {
	at := 0
	return func(fs *Frames) error {
		for range 100 {
			if at == len(frames) {
				return err
			}
			fs.List = append(fs.List, Frame{Time: times[at], Link: packet.LinkEthernet, OrigLen: uint32(len(frames[at])), Data: frames[at]})
			at++
		}
		return nil
	}
}

// TestParallelIsMeter says that several jobs give the records of one, in the same order, and the same accounts.
func TestParallelIsMeter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		cfg.MaxFlows = 10000
		frames, times := drawFrames(t)
		var want []Record
		m, err := NewMeter(cfg, func(r *Record) { want = append(want, *r) })
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range frames {
			m.AddFrame(times[i], packet.LinkEthernet, f, uint32(len(f)))
		}
		m.Flush(EndForced)
		for jobs := 1; jobs <= 3; jobs++ {
			var got []Record
			s, err := Parallel(cfg, jobs, framesOf(frames, times, io.EOF), func(r *Record) { got = append(got, *r) })
			if err != nil || s != m.Stats() {
				t.Fatalf("%d jobs: %v\n got %+v\nwant %+v", jobs, err, s, m.Stats())
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%d jobs give other records", jobs)
			}
		}
	})
}

// TestParallelWithAFullTable gives the same in every run, though not what one table gives, and loses no packet.
func TestParallelWithAFullTable(t *testing.T) {
	file := mixed(5000, 60_000, time.Unix(1_700_000_000, 0), time.Second, 96)
	cfg := DefaultConfig()
	cfg.MaxFlows = 1000
	var runs [2][]Record
	for n := range runs {
		var packets uint64
		s, err := Parallel(cfg, 2, batchesOf(file, errors.New("the file ends early")), func(r *Record) { runs[n] = append(runs[n], *r); packets += r.Packets })
		if err == nil || s.FlowsEvicted == 0 || packets != 60_000 || s.Metered != 60_000 || s.Flows != 0 {
			t.Fatalf("%d packets, %v, %+v", packets, err, s)
		}
	}
	if !slices.Equal(runs[0], runs[1]) {
		t.Error("two runs differ")
	}
}

func BenchmarkParallelFile(b *testing.B) {
	for _, flows := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			const packets = 4_000_000
			file := mixed(flows, packets, time.Unix(1_700_000_000, 0), 20*time.Second, 96)
			cfg := DefaultConfig()
			cfg.MaxFlows = 4_000_000
			for b.Loop() {
				s, err := Parallel(cfg, 2, batchesOf(file, io.EOF), func(*Record) {})
				if err != nil || s.Metered != packets {
					b.Fatal(err, s)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/packets, "ns/packet")
		})
	}
}
