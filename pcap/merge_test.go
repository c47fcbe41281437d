package pcap

import (
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"opentap/packet"
)

// list is a source of packets at the given times; err ends it instead of io.EOF.
type list struct {
	times []int64
	n     int
	err   error
	data  [1]byte
}

func (l *list) Next(p *Packet) error {
	if l.n == len(l.times) {
		if l.err != nil {
			return l.err
		}
		return io.EOF
	}
	l.data[0] = byte(l.n) // the last packet's data is gone
	*p = Packet{Time: packet.Timestamp(l.times[l.n]), Data: l.data[:]}
	l.n++
	return nil
}

func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sources []Source
		total := 0
		for range rapid.IntRange(0, 9).Draw(t, "sources") {
			l := &list{times: rapid.SliceOfN(rapid.Int64Range(0, 20), 0, 20).Draw(t, "times")}
			for i := 1; i < len(l.times); i++ {
				l.times[i] = max(l.times[i], l.times[i-1])
			}
			sources = append(sources, l)
			total += len(l.times)
		}
		m := Merge(sources...)
		next := make([]int, len(sources))
		last, lastSource := packet.Timestamp(-1), -1
		for range total {
			var p Packet
			if err := m.Next(&p); err != nil {
				t.Fatal(err)
			}
			s := m.Source()
			if p.Time < last || p.Time == last && s < lastSource {
				t.Fatalf("time %d source %d after %d %d", p.Time, s, last, lastSource)
			}
			if int(p.Data[0]) != next[s] {
				t.Fatalf("source %d: packet %d, want %d", s, p.Data[0], next[s])
			}
			next[s]++
			last, lastSource = p.Time, s
		}
		var p Packet
		for range 2 {
			if err := m.Next(&p); err != io.EOF {
				t.Fatal(err)
			}
		}
	})
}

func TestMergeDisordered(t *testing.T) {
	m := Merge(&list{times: []int64{5, 1, 6}}, &list{times: []int64{2, 5, 7}})
	got, err := readAll(m)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []packet.Timestamp{2, 5, 1, 5, 6, 7} {
		if got[i].Time != want {
			t.Fatalf("%+v", got)
		}
	}
}

func TestMergeError(t *testing.T) {
	broken := errors.New("broken")
	for _, times := range [][]int64{nil, {1}} {
		m := Merge(&list{times: []int64{1, 2, 3}}, &list{times: times, err: broken})
		_, err := readAll(m)
		var se *SourceError
		var p Packet
		if !errors.As(err, &se) || se.Source != 1 || !errors.Is(err, broken) || m.Next(&p) != err {
			t.Fatal(err)
		}
	}
}

func TestMergeAllocs(t *testing.T) {
	times := make([]int64, 10000)
	m := Merge(&list{times: times}, &list{times: times}, &list{times: times})
	var p Packet
	_ = m.Next(&p)
	if n := testing.AllocsPerRun(1000, func() {
		if err := m.Next(&p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkMerge(b *testing.B) {
	times := make([]int64, 1<<20)
	for i := range times {
		times[i] = int64(i)
	}
	var sources []Source
	for range 8 {
		sources = append(sources, &list{times: times})
	}
	m := Merge(sources...)
	var p Packet
	b.ReportAllocs()
	for b.Loop() {
		if m.Next(&p) == io.EOF {
			for _, s := range sources {
				s.(*list).n = 0
			}
			m = Merge(sources...)
		}
	}
}
