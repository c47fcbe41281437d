package xdpring

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"opentap/capture/ring"
	"opentap/internal/nettest"
)

// BenchmarkNetnsXDPRing reads b.N frames of a flood, one op a frame, beside BenchmarkNetnsRing of capture/ring: the generator
// on CPU 0, the reader on CPU 1, 128 MiB of memory, frames not touched beyond what Next reads.
// Needs a machine to itself: CPU ns/frame is the reader's thread, loss what the sockets dropped.
func BenchmarkNetnsXDPRing(b *testing.B) {
	for _, mix := range []nettest.Mix{nettest.Mix64, nettest.MixIMIX} {
		// Only native: a generator's frames reach no veth without a native program.
		b.Run(fmt.Sprintf("mix=%s", mix), func(b *testing.B) { benchmarkRing(b, mix) })
	}
}

func benchmarkRing(b *testing.B, mix nettest.Mix) {
	if runtime.NumCPU() < 2 {
		b.Skip("needs 2 CPUs")
	}
	ns := cable(b)
	r := open(b, ns, Config{Memory: 128 << 20, Mode: Native})
	var gen *nettest.Generator
	var err error
	ns.Do(func() { gen, err = nettest.NewGenerator(nettest.GeneratorConfig{Interface: "a0", Mix: mix, CPU: 0}) })
	if err != nil {
		b.Fatal(err)
	}
	defer gen.Close()

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, set unix.CPUSet
	set.Set(1)
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		b.Fatal(err)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		b.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &old)

	var octets uint64
	frames := 0
	count := func(bl *Block) {
		var f ring.Frame
		for bl.Next(&f) {
			frames++
			octets += uint64(f.OrigLen)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	began, start := threadTime(b), time.Now()
	flood := make(chan error, 1)
	var sending, making time.Duration
	go func() {
		var err error
		ns.Do(func() {
			began := threadTime(b)
			err = gen.Run(context.Background(), uint64(b.N), 0)
			making = threadTime(b) - began
		})
		sending = time.Since(start)
		r.Wake()
		flood <- err
	}()
	for running := true; running; {
		if _, err := r.Read(-1, count); err != nil {
			b.Fatal(err)
		}
		select {
		case err := <-flood:
			if err != nil {
				b.Fatal(err)
			}
			running = false
		default:
		}
	}
	if err := r.Drain(count); err != nil {
		b.Fatal(err)
	}
	cpu := threadTime(b) - began
	b.StopTimer()
	c, err := r.Counts()
	if err != nil {
		b.Fatal(err)
	}
	if uint64(frames)+c.Dropped != c.Seen || r.lost != 0 {
		b.Errorf("frames %d, counts %+v, lost %d", frames, c, r.lost)
	}
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(max(frames, 1)), "cpu-ns/frame")
	b.ReportMetric(float64(making.Nanoseconds())/float64(max(c.Seen, 1)), "gen-cpu-ns/frame")
	b.ReportMetric(float64(c.Seen)/sending.Seconds()/1e3, "kpps")
	b.ReportMetric(float64(c.Dropped)/float64(max(c.Seen, 1))*100, "%lost")
	b.ReportMetric(float64(octets)/float64(max(frames, 1)), "octets/frame")
}

func threadTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
