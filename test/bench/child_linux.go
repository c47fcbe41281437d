package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"opentap/capture"
	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// Children: bench starts itself to have what is ours measured as a process, like a peer.
const (
	childPrefix   = "child-"
	childCapture  = childPrefix + "capture"
	childFlow     = childPrefix + "flow"
	childIdeal    = childPrefix + "ideal"
	childRetrieve = childPrefix + "retrieve"
	childQuery    = childPrefix + "query"
	childServe    = childPrefix + "serve"
)

// profileVariable names a file for the CPU profile of the next child of a kind: for those who look why.
const profileVariable = "OPENTAP_BENCH_PROFILE"

func runChild(kind string, args []string) error {
	began := time.Now()
	if path := os.Getenv(profileVariable); path != "" {
		f, err := os.Create(path + "." + kind)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	switch {
	case kind == childCapture && len(args) == 4:
		return runCapture(args[0], args[1], args[2] == "index", args[3] == "dedicated")
	case kind == childFlow && len(args) == 2:
		return runFlow(args[0], args[1])
	case kind == childIdeal && len(args) == 1:
		return runIdeal(args[0])
	case kind == childQuery && len(args) == 4:
		return runQuery(args[0], args[1], args[2], args[3], began)
	case kind == childServe && len(args) == 2:
		return runServe(args[0], args[1])
	case kind == childRetrieve && len(args) == 1:
		return runRetrieve(args[0])
	}
	return fmt.Errorf("unknown child %s with %d arguments", kind, len(args))
}

// recorder joins an engine with a recording as the agent does.
type recorder struct {
	w     *segment.Writer
	batch *segment.Batch
}

func (r *recorder) Begin() { r.batch = r.w.Begin() }
func (r *recorder) End()   { r.batch.End() }

func (r *recorder) Ready(octets int) bool { return r.w.Room() >= octets || r.w.Err() != nil }

func (r *recorder) Frame(f *capture.Frame) capture.Verdict {
	dir := pcap.DirectionIn
	if f.Outgoing {
		dir = pcap.DirectionOut
	}
	if !r.batch.Append(f.Time, f.OrigLen, f.Data, dir) {
		return capture.LostDisk
	}
	return capture.Took
}

func (r *recorder) Idle(_ packet.Timestamp, a *ledger.Account) { r.w.Account(*a) }

// readyFile is in the directory of a recording once it takes packets.
const readyFile = "ready"

// captureMemory is what every tool gets to buffer packets in.
const captureMemory = 128 << 20

// runCapture records a device into a directory until it is interrupted, and prints its ledger.
func runCapture(device, dir string, index, dedicated bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := segment.DefaultConfig(dir)
	cfg.NoIndex = !index
	cfg.Interface = pcap.Interface{Name: device, Link: packet.LinkEthernet}
	w, err := segment.Create(cfg)
	if err != nil {
		return err
	}
	ring := capture.DefaultConfig()
	ring.Ring.Blocks = captureMemory / ring.Ring.BlockSize
	if dedicated {
		ring.Dedicated = map[string]int{device: captureMemory}
		ring.Told = func(_, _ string, instead error) {
			if instead != nil {
				slog.Error("not read by AF_XDP", "err", instead) // then it is not what is measured, and the run fails for want of a program
			}
		}
	}
	e := capture.NewEngine(ring, slog.Default())
	defer e.Close()
	a, err := e.Attach(capture.Spec{Point: device, Promiscuous: true}, &recorder{w: w})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-a.Open():
		if err := os.WriteFile(filepath.Join(dir, readyFile), nil, 0o600); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
	case <-a.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := a.Detach(end); err != nil {
		return err
	}
	p := a.Progress()
	if p.Err != nil {
		return p.Err
	}
	if err := w.Close(p.Account); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(p.Account)
}
