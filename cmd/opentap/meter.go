package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"opentap/flow"
	"opentap/flow/arrowout"
	"opentap/flow/csvout"
	flowparquet "opentap/flow/parquetout"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// meterRun is one run of opentap meter.
type meterRun struct {
	a           *app
	cfg         flow.Config
	format      string
	file        string
	jobs        int
	communityID bool
	outer       bool

	err    error // of writing
	failed atomic.Bool
}

func (a *app) meterCmd() *cobra.Command {
	m := &meterRun{a: a, cfg: flow.DefaultConfig()}
	cmd := &cobra.Command{
		Use:   "meter FILE...",
		Short: "Meter capture files into flow records",
		Long: `meter reads pcap and pcapng files and writes the flow records of their packets. It needs no server. Several files are
metered one after the other, as if they were one; - is standard input.

The totals are exact: each packet is in a record, or counted as not IP, truncated (cut before the end of its IP
header) or malformed. The same files give the same octets, whatever --jobs says; only when flows are ended early
because more than --max-flows are open does the number of jobs matter.

With --sampling N the packets are taken for one in N: packets, octets, rev_packets, rev_octets and fragments of the
records are multiplied by N, and their column sampling says so. The summary counts what was read.`,
		Args: cobra.MinimumNArgs(1),
		Example: `  opentap meter trace.pcapng -w flows.csv
  opentap meter --biflow --community-id -o ndjson trace.pcap
  opentap meter --inner --jobs 2 -w flows.parquet monday.pcap tuesday.pcap`,
		RunE: a.do(m.run),
	}
	fl := cmd.Flags()
	fl.StringVarP(&m.format, "output", "o", "", "csv, classic, ndjson, parquet or arrow (default: as the file's name ends, else csv)")
	fl.StringVarP(&m.file, "write", "w", "-", "file to write; - is standard output")
	fl.DurationVar(&m.cfg.IdleTimeout, "idle", m.cfg.IdleTimeout, "a flow ends this long after its last packet")
	fl.DurationVar(&m.cfg.ActiveTimeout, "active", m.cfg.ActiveTimeout, "a flow is reported, and begins anew, this long after its first packet")
	fl.IntVar(&m.cfg.MaxFlows, "max-flows", 1<<22, "most flows open at one time, 128 octets each")
	fl.BoolVar(&m.cfg.Bidirectional, "biflow", false, "both directions in one record (RFC 5103)")
	fl.BoolVar(&m.cfg.Inner, "inner", false, "of VXLAN, Geneve, GRE, GTP-U and IP in IP, meter what they carry")
	fl.BoolVar(&m.outer, "outer", false, "meter the tunnels themselves (default)")
	fl.Uint32Var(&m.cfg.Sampling, "sampling", 0, "the packets are one in `N`; multiply the counts")
	fl.BoolVar(&m.communityID, "community-id", false, "add the column community_id to csv and ndjson")
	fl.IntVar(&m.jobs, "jobs", 1, "cores to use")
	cmd.MarkFlagsMutuallyExclusive("inner", "outer")
	return cmd
}

// recordWriter is a format of flow records.
type recordWriter interface {
	Write(r *flow.Record) error
	Close() error
}

func (m *meterRun) writer(w io.Writer) (recordWriter, error) {
	o := csvout.Options{CommunityID: m.communityID}
	f := want.Format(m.format)
	if f == "" {
		f = want.CSV
		if m.file != "-" {
			f = formatOf(m.file, want.Flows)
		}
	}
	if m.communityID && f != want.CSV && f != want.NDJSON {
		return nil, usagef("--community-id: %s has no column for it; csv and ndjson have", f)
	}
	switch f {
	case want.CSV:
		return csvout.NewCSV(w, o), nil
	case want.NDJSON:
		return csvout.NewNDJSON(w, o), nil
	case want.Classic:
		return csvout.NewClassic(w), nil
	case want.Parquet, want.Arrow:
		if m.file == "-" && isTerminal(m.a.stdout) {
			return nil, usagef("standard output is a terminal, and %s is not text; -w FILE names a file", f)
		}
		if f == want.Arrow {
			return arrowout.NewWriter(w), nil
		}
		return flowparquet.NewWriter(w), nil
	}
	return nil, usagef("-o %s is no format of flow records; there are csv, classic, ndjson, parquet and arrow", f)
}

func (m *meterRun) run(ctx context.Context, files []string) (err error) {
	if m.jobs < 1 || m.jobs > 16 {
		return usagef("--jobs %d: 1 to 16", m.jobs)
	}
	dst, done, err := m.open()
	if err != nil {
		return err
	}
	defer func() {
		var format *pcap.FormatError
		err = errors.Join(err, done(err == nil || errors.As(err, &format))) // what a damaged file holds before its damage is worth keeping
	}()
	out, err := m.writer(dst)
	if err != nil {
		return err
	}
	began := time.Now()
	stats, err := m.meter(ctx, files, func(r *flow.Record) {
		if m.err == nil {
			m.err = out.Write(r)
			m.failed.Store(m.err != nil)
		}
	})
	var format *pcap.FormatError
	if err != nil && !errors.As(err, &format) {
		return err
	}
	if m.err == nil {
		m.err = out.Close()
	}
	if m.err != nil {
		return fmt.Errorf("write the records: %w", m.err)
	}
	m.summary(&stats, time.Since(began))
	return err
}

// open opens what the records are written to. done closes it; a file that is not to be kept was never there.
func (m *meterRun) open() (dst io.Writer, done func(keep bool) error, err error) {
	if m.file == "-" {
		return m.a.stdout, func(bool) error { return nil }, nil
	}
	if st, err := os.Stat(m.file); err == nil && !st.Mode().IsRegular() { // a pipe or a device
		f, err := os.OpenFile(m.file, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, err
		}
		return f, func(bool) error { return f.Close() }, nil
	}
	part, err := os.OpenFile(m.file+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("make room for the records: %w", err)
	}
	return part, func(keep bool) error {
		if err := part.Close(); err != nil || !keep {
			return errors.Join(err, os.Remove(part.Name()))
		}
		return os.Rename(part.Name(), m.file)
	}, nil
}

// meter reads the files and gives their records to sink.
func (m *meterRun) meter(ctx context.Context, files []string, sink func(*flow.Record)) (flow.Stats, error) {
	p := m.a.progress()
	defer p.done()
	in := &meterInput{meterRun: m, ctx: ctx, left: files, progress: p}
	defer in.close()
	if m.jobs > 1 {
		s, err := flow.Parallel(m.cfg, m.jobs, in.next, sink)
		if err != nil && in.err == nil {
			return s, usageError{err}
		}
		return s, err
	}
	t, err := flow.NewMeter(m.cfg, sink)
	if err != nil {
		return flow.Stats{}, usageError{err}
	}
	err = t.AddAll(in.next)
	t.Flush(flow.EndForced)
	return t.Stats(), err
}

// meterInput is the frames of the files, one file after the other.
type meterInput struct {
	*meterRun
	ctx      context.Context //nolint:containedctx // of one run
	left     []string        // files not yet read
	progress *progress
	err      error // why it ended

	// Of the file that is read.
	name  string
	file  *os.File // nil: standard input
	size  int64    // 0: not known
	r     *pcap.Reader
	faces []pcap.Interface
	told  map[int]bool // interfaces whose link type is not understood, and that was said
	n     int          // frames
	began time.Time
}

// next adds some frames to fs; io.EOF says that there are no more.
func (in *meterInput) next(fs *flow.Frames) error {
	for in.err == nil && len(fs.List) == 0 {
		switch {
		case in.ctx.Err() != nil:
			in.err = in.ctx.Err()
		case in.failed.Load():
			in.err = io.EOF // nobody takes the records; run says why
		case in.r == nil:
			in.err = in.open()
		default:
			in.err = in.read(fs)
		}
	}
	if len(fs.List) > 0 {
		return nil
	}
	return in.err
}

// open begins the next file.
func (in *meterInput) open() error {
	if len(in.left) == 0 {
		return io.EOF
	}
	in.name, in.left = in.left[0], in.left[1:]
	in.file, in.size, in.told, in.n, in.began = nil, 0, make(map[int]bool), 0, time.Now()
	src := in.a.stdin
	if in.name != "-" {
		f, err := os.Open(in.name)
		if err != nil {
			return fmt.Errorf("%s: %w", in.name, errors.Unwrap(err)) // it has the name again
		}
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			in.size = st.Size()
		}
		in.file, src = f, f
	}
	var err error
	in.r, err = pcap.NewReader(src)
	return in.named(err)
}

// read adds what one read of the file brings.
func (in *meterInput) read(fs *flow.Frames) (err error) {
	in.faces = in.r.Interfaces()
	fs.Octets, err = in.r.NextBatch(fs.Octets, func(p *pcap.Packet) {
		if p.Interface >= len(in.faces) {
			in.faces = in.r.Interfaces()
		}
		link := in.faces[p.Interface].Link
		if link != packet.LinkEthernet && link != packet.LinkRaw && !in.told[p.Interface] {
			in.told[p.Interface] = true
			in.a.say("warning: %s: packets of link type %d are not understood; they are counted as not IP", in.name, link)
		}
		fs.List = append(fs.List, flow.Frame{Time: p.Time, Data: p.Data, OrigLen: p.OrigLen, Link: link})
	})
	in.n += len(fs.List)
	if now := time.Now(); in.progress.due(now) {
		spent := now.Sub(in.began)
		line := fmt.Sprintf("metering  %d packets  %.1f M/s", in.n, float64(in.n)/1e6/spent.Seconds())
		if at := in.r.Offset(); in.size > 0 && at > 0 {
			left := time.Duration(float64(spent) * float64(in.size-at) / float64(at))
			line += fmt.Sprintf("  %d%%  %s left", at*100/in.size, short(left))
		}
		in.progress.show(line)
	}
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		in.close()
		return nil
	}
	return in.named(err)
}

// close ends the file that is read.
func (in *meterInput) close() {
	if in.file != nil {
		_ = in.file.Close()
	}
	in.r, in.file = nil, nil
}

// named puts the file's name before an error.
func (in *meterInput) named(err error) error {
	if err != nil && in.name != "-" {
		return fmt.Errorf("%s: %w", in.name, err)
	}
	return err
}

// summary tells the accounts.
func (m *meterRun) summary(s *flow.Stats, took time.Duration) {
	a := m.a
	a.tell("%d packets: %d metered (%d octets of IP), %d not IP, %d truncated, %d malformed", s.Packets, s.Metered, s.Octets, s.NonIP, s.Truncated, s.Malformed)
	a.tell("of the metered: %d fragments, %d without known ports; %d out of order", s.Fragments, s.PortsUnknown, s.Late)
	a.tell("%d records in %s", s.RecordsGiven, short(took))
	if s.ClockSteps > 0 {
		a.say("warning: packet time stepped back %d times; flows were ended there", s.ClockSteps)
	}
	if s.FlowsEvicted > 0 {
		a.say("warning: %d flows were ended early for want of room; see --max-flows", s.FlowsEvicted)
	}
}
