package query

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"opentap/packet"
	"opentap/pcap"
)

// TestRowsAreWhatEachGives asks for rows anywhere and compares them with the packets in order.
func TestRowsAreWhatEachGives(t *testing.T) {
	base := t.TempDir()
	var sources []Source
	for i := range 3 {
		dir := filepath.Join(base, string(rune('a'+i)))
		recordLanes(t, dir, i, 6000, uint64(i+1), epoch, 1+i/2*3)
		sources = append(sources, Source{Interface: iface(i), Dir: dir})
	}
	long := func(b []byte, _ uint32) bool { return len(b) > 300 }
	for name, c := range map[string]struct {
		sources []Source
		window  Window
	}{
		"one": {sources[:1], Window{}}, "one, filtered": {sources[:1], Window{Match: long}}, "one, limited": {sources[:1], Window{MaxPackets: 777}},
		"three": {sources, Window{}}, "three, filtered": {sources, Window{Match: long}}, "three, limited": {sources, Window{MaxPackets: 5000, Snap: 60}},
		"lanes": {sources[2:], Window{}}, "lanes, filtered": {sources[2:], Window{Match: long}},
		"nothing": {sources, Window{Match: func([]byte, uint32) bool { return false }}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(c.sources, c.window, PcapNG, Meta{})
			if err != nil {
				t.Fatal(err)
			}
			type seen struct {
				time  packet.Timestamp
				face  int
				first string
			}
			look := func(pk *pcap.Packet) seen {
				return seen{pk.Time, pk.Interface, string(pk.Data[:min(40, len(pk.Data))])}
			}
			var all []seen
			ctx := context.Background()
			if err := p.Each(ctx, func(pk *pcap.Packet) error { all = append(all, look(pk)); return nil }); err != nil {
				t.Fatal(err)
			}
			n, err := p.Count(ctx)
			if err != nil || n != uint64(len(all)) {
				t.Fatalf("%d rows, %d packets, %v", n, len(all), err)
			}
			for _, from := range []int{0, 1, 7, 500, 4095, 4096, 4097, 8200, len(all) - 3, len(all) - 1, len(all), len(all) + 5} {
				if from < 0 {
					continue
				}
				for _, most := range []int{0, 1, 60, 5000} {
					next := from
					err := p.Rows(ctx, uint64(from), most, func(number uint64, pk *pcap.Packet) error {
						if number != uint64(next) || look(pk) != all[next] {
							t.Fatalf("row %d, want %d: %v, want %v", number, next, look(pk), all[next])
						}
						next++
						return nil
					})
					if want := max(0, min(most, len(all)-from)); err != nil || next-from != want {
						t.Fatalf("%d rows from %d, want %d: %v", next-from, from, want, err)
					}
				}
			}
			enough := errors.New("enough")
			if err := p.Rows(ctx, 0, 10, func(uint64, *pcap.Packet) error { return enough }); len(all) > 0 && !errors.Is(err, enough) {
				t.Errorf("fn's error: %v", err)
			}
			for i := 0; i < len(all); i += len(all)/20 + 1 {
				at, err := p.NumberAt(ctx, all[i].time)
				if err != nil || at > uint64(i) || all[at].time > all[i].time || at > 0 && all[at-1].time > all[i].time {
					t.Errorf("number at the time of %d: %d, %v", i, at, err)
				}
			}
			if at, err := p.NumberAt(ctx, 1<<62); err != nil || at != n {
				t.Errorf("number at the end: %d of %d, %v", at, n, err)
			}
		})
	}
}
