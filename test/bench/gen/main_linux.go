// Command gen floods a veth with frames made in the kernel, and prints what was delivered as JSON.
//
// Runs in: tools
//
// Both ends of the veth must exist, in the network namespace gen runs in, and be up. Frames put on -tx arrive at -rx,
// where the tools under test capture. Needs CAP_NET_ADMIN and CAP_BPF. gen ends early on SIGINT or SIGTERM and prints
// what it had delivered.
//
//	gen -tx gen0 -rx gen1 -mix imix -count 10000000
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"opentap/internal/nettest"
)

// result is the line printed at the end.
type result struct {
	Made      uint64  `json:"made"`      // frames written
	Delivered uint64  `json:"delivered"` // frames handed to the receive path of -rx: what a capture must account for
	Seconds   float64 `json:"seconds"`
	KPPS      float64 `json:"kpps"` // delivered
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	tx := flag.String("tx", "", "interface the frames are put on")
	rx := flag.String("rx", "", "its peer, where they arrive")
	mix := flag.String("mix", "64", "frame lengths: 64 or imix")
	count := flag.Uint64("count", 0, "frames (0 = until -for or a signal)")
	duration := flag.Duration("for", 0, "how long (0 = until -count or a signal)")
	rate := flag.Uint64("rate", 0, "frames a second (0 = as fast as it goes)")
	flows := flag.Int("flows", 100_000, "bidirectional flows")
	cpu := flag.Int("cpu", 0, "CPU to run on (negative = any)")
	flag.Parse()
	if *tx == "" || *rx == "" || flag.NArg() > 0 {
		flag.Usage()
		return fmt.Errorf("need -tx and -rx")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	runtime.LockOSThread()
	sink, err := nettest.NewSink(*rx)
	if err != nil {
		return err
	}
	defer sink.Close()
	gen, err := nettest.NewGenerator(nettest.GeneratorConfig{Interface: *tx, Mix: nettest.Mix(*mix), Flows: *flows, CPU: *cpu})
	if err != nil {
		return err
	}
	defer gen.Close()

	start := time.Now()
	if err := gen.Run(ctx, *count, *rate); err != nil {
		return err
	}
	r := result{Seconds: time.Since(start).Seconds()}
	if r.Made, err = gen.Made(); err != nil {
		return err
	}
	if r.Delivered, err = sink.Delivered(); err != nil {
		return err
	}
	r.KPPS = float64(r.Delivered) / r.Seconds / 1e3
	return json.NewEncoder(os.Stdout).Encode(r)
}
