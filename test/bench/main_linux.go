// Command bench measures OpenTap beside the tools people use now, and prints one table.
//
// Runs in: tools
//
// Every figure of a row comes from the same input in the same run, ours and the peers' in turns, so that what else the
// machine does spreads over all of them: ratios mean something, absolute figures do only on a quiet machine.
// docs/performance.md says how each is measured. Capture needs root; without it that part is left out. Whatever bench
// makes is gone when it ends, also on an interrupt.
//
//	go run ./test/bench [-quick] [-only capture,flow,retrieve,http,query,filter,tap] [-mix 64,imix] [-gb 1,10] [-tools opentap,tcpdump] [-dir DIR] [-install=false] [-v]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// diskNeeded is room for the largest files that exist at one time, in octets.
const diskNeeded = 4 << 30

// bench is one run.
type bench struct {
	dir     string
	quick   bool
	verbose bool
	mixes   []string
	tools   []string  // of capture; nil = all
	sizes   []float64 // of recordings that are searched, in GB
	rows    table
	notes   []string
	start   time.Time
}

func main() {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], childPrefix) {
		if err := runChild(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "smaller inputs and fewer peers: at most 90 s")
	only := flag.String("only", "", "comma-separated parts: capture, flow, retrieve, http, query, filter, tap (default all)")
	mixes := flag.String("mix", "64,imix", "comma-separated frame lengths of capture")
	chosen := flag.String("tools", "", "comma-separated tools of capture (default all that are there)")
	gbs := flag.String("gb", "1", "comma-separated sizes in GB of the recordings that are searched; each is there twice")
	dir := flag.String("dir", "/var/tmp", "where files are made; should be the disk captures go to")
	install := flag.Bool("install", true, "install missing peers with apt-get, as root")
	verbose := flag.Bool("v", false, "print every single run")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	wants := func(part string) bool {
		return *only == "" || slices.Contains(strings.Split(*only, ","), part)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var fs unix.Statfs_t
	if err := unix.Statfs(*dir, &fs); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", *dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < diskNeeded {
		return fmt.Errorf("%s has %d MiB free, the files need %d MiB: choose another with -dir", *dir, free>>20, diskNeeded>>20)
	}
	b := &bench{quick: *quick, verbose: *verbose, start: time.Now(), mixes: strings.Split(*mixes, ",")}
	if *chosen != "" {
		b.tools = strings.Split(*chosen, ",")
	}
	var err error
	for text := range strings.SplitSeq(*gbs, ",") {
		gb, err := strconv.ParseFloat(text, 64)
		if err != nil || gb <= 0 {
			return fmt.Errorf("-gb %s: %q is no size", *gbs, text)
		}
		b.sizes = append(b.sizes, gb)
	}
	if b.dir, err = os.MkdirTemp(*dir, "opentap-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)

	if *install && os.Getuid() == 0 {
		b.install(ctx, wants)
	}
	printMachine(os.Stdout, *dir)
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"filter", b.filter}, {"capture", b.capture}, {"flow", b.flow}, {"retrieve", b.retrieve}, {"http", b.http}, {"query", b.query}, {"tap", b.taps}} {
		if !wants(part.name) || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		if err := part.run(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		b.logf("%s took %.0f s", part.name, time.Since(began).Seconds())
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; everything is removed")
	}
	b.rows.print(os.Stdout)
	for _, n := range b.notes {
		fmt.Println("note:", n)
	}
	fmt.Printf("%.0f s\n", time.Since(b.start).Seconds())
	return nil
}

func (b *bench) logf(format string, args ...any) {
	if b.verbose {
		fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// late reports whether a share of the time that a run may take is over. Repeats are then left out.
func (b *bench) late(share float64) bool {
	budget := 340 * time.Second
	if b.quick {
		budget = 85 * time.Second
	}
	if time.Since(b.start).Seconds() < share*budget.Seconds() {
		return false
	}
	b.note("the machine is slow: some repeats are left out, see the column of runs")
	return true
}

func (b *bench) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(b.notes, n) {
		b.notes = append(b.notes, n)
	}
}

// file is a path inside the run's directory.
func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }
