package query

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"opentap/capture/index"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/pcap"

	"pgregory.net/rapid"
)

// TestStreamSame compares what is written as it is found with what is written once the size is known.
func TestStreamSame(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole")
	all := record(t, whole, 0, 4000, 11)
	damaged := filepath.Join(t.TempDir(), "damaged")
	record(t, damaged, 0, 4000, 11)
	files, err := filepath.Glob(filepath.Join(damaged, "*.pcapng"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for i, name := range files[:3] {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := len(b) / 3; at < len(b)/3+64; at++ {
			b[at] ^= byte(i + 1)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	beside, after := Source{Interface: iface(1), Dir: filepath.Join(t.TempDir(), "beside")}, Source{Interface: iface(2), Dir: filepath.Join(t.TempDir(), "after")}
	record(t, beside.Dir, 1, 3000, 12)
	recordFrom(t, after.Dir, 2, 3000, 13, all[len(all)*3/4].ts)
	// A limit, and a chunk before it that does not read: it counts whole, whoever finds it.
	sameStreamed(t, []Source{{Interface: iface(0), Dir: damaged}}, Window{MaxPackets: 300}, PcapNG)
	rapid.Check(t, func(t *rapid.T) {
		one := Source{Interface: iface(0), Dir: rapid.SampledFrom([]string{whole, damaged}).Draw(t, "dir")}
		sources := rapid.SampledFrom([][]Source{{one}, {one, beside}, {beside, one, after}, {after, one}}).Draw(t, "sources")
		f := rapid.SampledFrom([]Format{PcapNG, Pcap, PcapMicros}).Draw(t, "format")
		time := func(name string) packet.Timestamp {
			if i := rapid.IntRange(-1, len(all)-1).Draw(t, name); i >= 0 {
				return all[i].ts
			}
			return 0
		}
		w := Window{From: time("from"), To: time("to")}
		w.Snap = rapid.SampledFrom([]int{0, 0, 100}).Draw(t, "snap")
		w.MaxPackets = rapid.SampledFrom([]uint64{0, 0, 1, 300}).Draw(t, "max")
		w.MaxOctets = rapid.SampledFrom([]uint64{0, 0, 50_000}).Draw(t, "octets")
		if least := rapid.SampledFrom([]int{-1, 0, 300, 890, 2000}).Draw(t, "least"); least >= 0 {
			w.Match = func(b []byte, _ uint32) bool { return len(b) >= least }
		}
		sameStreamed(t, sources, w, f)
	})
}

// TestStreamSameIndexed is TestStreamSame for what the index leaves out, over more segments than are asked ahead.
func TestStreamSameIndexed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	hosts(t, dir, 100_000, 13)
	for _, text := range []string{"host 10.0.0.7", "host 10.0.0.7 and port 53", "host 10.99.0.1", "port 99"} {
		expr, err := filter.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := cbpf.NewMatcher(expr, cbpf.Options{Link: packet.LinkEthernet})
		if err != nil {
			t.Fatal(err)
		}
		for _, limit := range []uint64{0, 1, 20} {
			sameStreamed(t, []Source{{Interface: iface(0), Dir: dir}}, Window{Match: m.Match, Need: index.Necessary(expr, packet.LinkEthernet, false), MaxPackets: limit}, PcapNG)
		}
	}
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func sameStreamed(t fataler, sources []Source, w Window, f Format) {
	t.Helper()
	plan := func() *Plan {
		p, err := New(sources, w, f, Meta{})
		if err != nil {
			t.Fatalf("%v", err)
		}
		return p
	}
	first, second, third := plan(), plan(), plan()
	size, err := first.Size(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	var known, found, again bytes.Buffer
	if err := first.WriteTo(context.Background(), &known, 0, -1); err != nil {
		t.Fatalf("%v", err)
	}
	broken, left := errors.New("the reader went away"), known.Len()/2
	err = second.WriteTo(context.Background(), writerFunc(func(b []byte) (int, error) {
		if left -= len(b); left < 0 {
			return 0, broken
		}
		return len(b), nil
	}), 0, -1)
	if !errors.Is(err, broken) {
		t.Fatalf("broken writer: %v", err)
	}
	for _, b := range []*bytes.Buffer{&found, &again} { // the second time its size is known
		if err := second.WriteTo(context.Background(), b, 0, -1); err != nil {
			t.Fatalf("%v", err)
		}
	}
	if err := third.Each(context.Background(), func(*pcap.Packet) error { return nil }); err != nil {
		t.Fatalf("%v", err)
	}
	var walked bytes.Buffer
	if err := third.WriteTo(context.Background(), &walked, 0, -1); err != nil {
		t.Fatalf("%v", err)
	}
	if !bytes.Equal(known.Bytes(), walked.Bytes()) {
		t.Fatalf("%d octets, %d when its packets were walked through before", known.Len(), walked.Len())
	}
	for _, from := range []int{1, walked.Len() / 2, walked.Len() - 1} {
		var part bytes.Buffer
		if err := third.WriteTo(context.Background(), &part, int64(from), -1); err != nil {
			t.Fatalf("%v", err)
		}
		if !bytes.Equal(part.Bytes(), known.Bytes()[from:]) {
			t.Fatalf("the part from %d on is another one", from)
		}
	}
	if int64(known.Len()) != size || !bytes.Equal(known.Bytes(), found.Bytes()) || !bytes.Equal(known.Bytes(), again.Bytes()) {
		t.Fatalf("%d octets with size %d, %d streamed, %d after that", known.Len(), size, found.Len(), again.Len())
	}
	a, b := first.Result(), second.Result()
	a.CorruptChunks, a.CorruptPackets, b.CorruptChunks, b.CorruptPackets = 0, 0, 0, 0 // told again by each writing
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("result %+v, streamed %+v", a, b)
	}
}

// TestStreamEarly demands the first packets of one and of two recordings before their last segments were looked at, and that
// a recording is not looked at before its time comes.
func TestStreamEarly(t *testing.T) {
	base := t.TempDir()
	all := record(t, filepath.Join(base, "r"), 0, 4000, 12)
	recordFrom(t, filepath.Join(base, "later"), 1, 4000, 13, all[len(all)/2].ts)
	sources := []Source{{Interface: iface(0), Dir: filepath.Join(base, "r")}, {Interface: iface(1), Dir: filepath.Join(base, "later")}}
	for n := range sources {
		p, err := New(sources[:n+1], Window{Match: func([]byte, uint32) bool { return true }}, PcapNG, Meta{})
		if err != nil {
			t.Fatal(err)
		}
		writes, early, alone := 0, false, true
		s := p.sources[0]
		last := s.rec.Segments()[len(s.rec.Segments())-1].Number
		if err := p.WriteTo(context.Background(), writerFunc(func(b []byte) (int, error) {
			if writes++; writes == 2 && len(s.pieces) > 0 { // behind the head; the writer runs in the same goroutine
				early = s.pieces[len(s.pieces)-1].segment < last
				alone = len(p.sources) == 1 || len(p.sources[1].pieces) == 0
			}
			return len(b), nil
		}), 0, -1); err != nil {
			t.Fatal(err)
		}
		if !early || !alone {
			t.Fatalf("%d sources: the first packets came when all segments of the first had been looked at (%v), or the second's (%v)", n+1, !early, !alone)
		}
	}
}
