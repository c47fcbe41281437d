package query

import (
	"context"
	"io"
	"os"
	"testing"

	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
)

// BenchmarkWriteTo reads 256 MiB of IMIX packets from the page cache.
func BenchmarkWriteTo(b *testing.B) {
	sizes := []int{64, 64, 64, 590, 64, 590, 64, 64, 590, 64, 1514, 590}
	var dirs []string
	var packets int
	for i := range 2 {
		dir, err := os.MkdirTemp(os.Getenv("SEGMENT_BENCH_DIR"), "query-bench")
		if err != nil {
			b.Fatal(err)
		}
		defer os.RemoveAll(dir)
		dirs = append(dirs, dir)
		cfg := segment.DefaultConfig(dir)
		cfg.Direct, cfg.NoSync, cfg.Interface = false, true, iface(i)
		w, err := segment.Create(cfg)
		if err != nil {
			b.Fatal(err)
		}
		data := make([]byte, 1514)
		packets = 0
		for at := 0; at < 256<<20; packets++ {
			d := data[:sizes[packets%len(sizes)]]
			for !w.Append(epoch+packet.Timestamp(packets*1000+i), uint32(len(d)), d, 0) {
				w.Flush()
			}
			at += len(d) + 32
		}
		if err := w.Close(ledger.Account{}); err != nil {
			b.Fatal(err)
		}
	}
	one := []Source{{Interface: iface(0), Dir: dirs[0]}}
	two := append(one, Source{Interface: iface(1), Dir: dirs[1]})
	odd := func(frame []byte, _ uint32) bool { return len(frame) > 1000 }
	for _, c := range []struct {
		name    string
		sources []Source
		w       Window
		f       Format
	}{
		{"pcapng", one, Window{}, PcapNG},
		{"pcap", one, Window{}, Pcap},
		{"window", one, Window{From: epoch + 100e6, To: epoch + 300e6}, PcapNG},
		{"match", one, Window{Match: odd}, PcapNG},
		{"merge", two, Window{}, PcapNG},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p, err := New(c.sources, c.w, c.f, Meta{})
				if err != nil {
					b.Fatal(err)
				}
				if err := p.WriteTo(context.Background(), io.Discard, 0, -1); err != nil {
					b.Fatal(err)
				}
				n, _ := p.Size(context.Background())
				if c.name == "match" {
					n = 256 << 20
				}
				b.SetBytes(n)
			}
		})
	}
}
