package segment

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// BenchmarkAppend measures the whole way to the disk. cpu-s/Mpkt is the CPU time of the process, all threads, in
// seconds per million packets. SEGMENT_BENCH_DIR says on which disk.
func BenchmarkAppend(b *testing.B) {
	imix := []int{64, 64, 64, 590, 64, 590, 64, 64, 590, 64, 1514, 590}
	for _, mode := range []struct {
		name  string
		sizes []int
		batch bool
		buf   bool
		chunk int
	}{
		{"64", []int{60}, false, false, 1 << 20},
		{"64-batch", []int{60}, true, false, 1 << 20},
		{"imix", imix, false, false, 1 << 20},
		{"imix-batch", imix, true, false, 1 << 20},
		{"imix-batch-2M", imix, true, false, 2 << 20},
		{"imix-batch-512k", imix, true, false, 512 << 10},
		{"imix-buffered", imix, true, true, 1 << 20},
	} {
		b.Run(mode.name, func(b *testing.B) {
			dir, err := os.MkdirTemp(os.Getenv("SEGMENT_BENCH_DIR"), "segment-bench")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			cfg := DefaultConfig(dir)
			cfg.Direct, cfg.ChunkBytes = !mode.buf, mode.chunk
			cfg.Buffers = 16 << 20 / mode.chunk
			cfg.Interface = pcap.Interface{Name: "bench", Link: packet.LinkEthernet}
			w, err := Create(cfg)
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 8<<20) // as a ring: not in the first level cache
			for i := range data {
				data[i] = byte(i * 7)
			}
			at, k, octets, refused := 0, 0, int64(0), 0
			b.ReportAllocs()
			b.ResetTimer()
			start := cpu()
			for n := 0; n < b.N; {
				var batch *Batch
				if mode.batch {
					batch = w.Begin()
				}
				full := false
				for range min(512, b.N-n) {
					size := mode.sizes[k]
					if k++; k == len(mode.sizes) {
						k = 0
					}
					if at+size > len(data) {
						at = 0
					}
					var ok bool
					if mode.batch {
						ok = batch.Append(packet.Timestamp(n)*1000, uint32(size), data[at:at+size], 0)
					} else {
						ok = w.Append(packet.Timestamp(n)*1000, uint32(size), data[at:at+size], 0)
					}
					if !ok {
						full = true
						refused++
						break
					}
					n++
					at += size
					octets += int64(size)
				}
				if mode.batch {
					batch.End()
				}
				if full {
					time.Sleep(200 * time.Microsecond) // a benchmark may wait; an engine counts
				}
			}
			if err := w.Close(ledger.Account{}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			used := cpu() - start
			s := w.Stats()
			b.ReportMetric(used.Seconds()/float64(b.N)*1e6, "cpu-s/Mpkt")
			b.ReportMetric(float64(s.FileOctets)/float64(b.N), "disk-B/pkt")
			b.ReportMetric(float64(refused), "refused")
			b.SetBytes(octets / int64(b.N))
		})
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprint("getrusage: ", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
