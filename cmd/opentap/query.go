package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"opentap/capture/index"
	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// queryRun is one run of opentap query.
type queryRun struct {
	a                *app
	from, to         string
	file, format     string
	dedup            string
	within           time.Duration
	strict, explain  bool
	packets          uint64
	expr             *filter.Expr
	window           query.Window
	sources          []querySource
	out              want.Format
	written, dropped uint64 // packets
	stored           uint64 // octets of those
	marked           uint64
	looked           query.Explain
	corrupt          uint64
}

// querySource is one recording or file.
type querySource struct {
	name string
	dir  string // of a recording
	file string // of a capture file; "-" is standard input
	face pcap.Interface
}

func (a *app) queryCmd() *cobra.Command {
	q := &queryRun{a: a}
	cmd := &cobra.Command{
		Use:   "query DIR|FILE... [FILTER]",
		Short: "Take packets out of recordings and capture files",
		Long: `query takes the packets that a filter selects out of recordings (directories of segments, as opentapd and
opentap import make them) and of pcap and pcapng files, in time order. It needs no server, and may read what a server is
writing. The last argument is the filter if it names no file.

Of a recording only the blocks are read that can match, as its index says. Without -w the matching packets are counted.

--dedup looks at packets that two of the sources have, octet for octet, within --within: drop leaves the later copies out
and tells their number, mark adds a comment to them (pcapng).`,
		Args: cobra.MinimumNArgs(1),
		Example: `  opentap query /var/lib/opentap/captures/recordings/eth0 'host 10.0.0.7' -w host.pcapng
  opentap query rec 'tcp port 443' --from 14:00 --to 14:01 --explain -w https.pcapng
  opentap query left.pcap right.pcap --dedup drop -w both.pcapng`,
		RunE: a.do(q.run),
	}
	fl := cmd.Flags()
	fl.StringVar(&q.from, "from", "", "first packet time: RFC 3339, HH:MM[:SS], Unix seconds, or relative (-10m)")
	fl.StringVar(&q.to, "to", "", "end of the window, exclusive; likewise")
	fl.StringVarP(&q.file, "write", "w", "", "file to write; - is standard output")
	fl.StringVar(&q.format, "format", "", "pcapng or pcap (default: as the file's name ends)")
	fl.BoolVar(&q.strict, "strict", false, "VLAN tags as tcpdump takes them, not transparent")
	fl.Uint64Var(&q.packets, "max-packets", 0, "stop after so many packets")
	fl.BoolVar(&q.explain, "explain", false, "tell what was read and what was skipped")
	fl.StringVar(&q.dedup, "dedup", "", "packets seen at two points: drop or mark the later one")
	fl.DurationVar(&q.within, "within", 5*time.Millisecond, "for --dedup: how far apart they may be")
	return cmd
}

func (q *queryRun) run(ctx context.Context, args []string) error {
	began := time.Now()
	if err := q.prepare(args); err != nil {
		return err
	}
	planned := true
	for _, s := range q.sources {
		planned = planned && s.dir != "" && s.face.Link == q.sources[0].face.Link
	}
	dst, done, err := q.open()
	if err != nil {
		return err
	}
	if planned && q.dedup == "" {
		err = q.plan(ctx, dst)
	} else {
		err = q.stream(ctx, dst)
	}
	var format *pcap.FormatError
	if err = errors.Join(err, done(err == nil || errors.As(err, &format))); err != nil {
		return err
	}
	q.tell(time.Since(began))
	return nil
}

// prepare understands the command line and opens nothing but what it must.
func (q *queryRun) prepare(args []string) error {
	now := time.Now()
	text := ""
	if last := args[len(args)-1]; len(args) > 1 && last != "-" {
		if _, err := os.Lstat(last); err != nil {
			text, args = last, args[:len(args)-1]
		}
	}
	var err error
	if q.expr, err = filter.Parse(text); err != nil {
		return err
	}
	for _, f := range []struct {
		text string
		to   *packet.Timestamp
	}{{q.from, &q.window.From}, {q.to, &q.window.To}} {
		t, err := parseTime(f.text, now)
		if err != nil {
			return usageError{err}
		}
		if !t.IsZero() {
			*f.to = packet.TimestampOf(t)
		}
	}
	switch {
	case q.window.To != 0 && q.window.To <= q.window.From:
		return usagef("--to is not after --from")
	case q.dedup != "" && q.dedup != "drop" && q.dedup != "mark":
		return usagef("--dedup %s: drop or mark", q.dedup)
	}
	q.window.MaxPackets = q.packets
	q.out = want.Format(q.format)
	if q.out == "" {
		q.out = formatOf(q.file, want.Packets)
	}
	if err := checkFormat(q.out, want.Packets); err != nil {
		return err
	}
	if q.dedup == "mark" && q.out != want.PcapNG {
		return usagef("--dedup mark: only pcapng has comments")
	}
	for _, name := range args {
		s, err := openSources(name)
		if err != nil {
			return err
		}
		q.sources = append(q.sources, s...)
	}
	return nil
}

// openSources finds what a name stands for: a file, a recording, or a directory of recordings.
func openSources(name string) ([]querySource, error) {
	if name == "-" {
		return []querySource{{name: "standard input", file: name}}, nil
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return []querySource{{name: name, file: name}}, nil
	}
	dirs := []string{name}
	if m, _ := filepath.Glob(filepath.Join(name, "[0-9]*.pcapng*")); len(m) == 0 { // the pattern is right
		m, _ = filepath.Glob(filepath.Join(name, "*", "00*.pcapng*"))
		dirs = nil
		for _, path := range m {
			if d := filepath.Dir(path); len(dirs) == 0 || dirs[len(dirs)-1] != d {
				dirs = append(dirs, d)
			}
		}
	}
	var out []querySource
	for _, d := range dirs {
		rec, err := segment.Open(d)
		if err != nil {
			return nil, err
		}
		face, err := rec.Interface()
		rec.Close()
		if errors.Is(err, io.EOF) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, querySource{name: d, dir: d, face: face})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no recording there", name)
	}
	return out, nil
}

// matcher compiles the filter for a link type; nil takes all.
func (q *queryRun) matcher(link packet.LinkType) (func([]byte, uint32) bool, error) {
	if q.expr.Root == nil {
		return nil, nil
	}
	m, err := cbpf.NewMatcher(q.expr, cbpf.Options{Link: link, Strict: q.strict})
	if err != nil {
		return nil, err
	}
	return m.Match, nil
}

func (q *queryRun) newPlan(sources []querySource, w query.Window) (*query.Plan, error) {
	var err error
	link := sources[0].face.Link
	if w.Match, err = q.matcher(link); err != nil {
		return nil, err
	}
	if w.Match != nil {
		w.Need = index.Necessary(q.expr, link, q.strict)
	}
	var list []query.Source
	for _, s := range sources {
		list = append(list, query.Source{Name: s.name, Interface: s.face, Dir: s.dir})
	}
	f := query.PcapNG
	if q.out == want.Pcap {
		f = query.Pcap
	}
	return query.New(list, w, f, query.Meta{Section: q.section()})
}

func (q *queryRun) section() pcap.Section {
	s := pcap.Section{Application: "opentap " + programVersion()}
	if q.expr.Root != nil {
		s.Comment = "query: " + q.expr.String()
	}
	return s
}

// plan answers from recordings alone.
func (q *queryRun) plan(ctx context.Context, dst io.Writer) error {
	p, err := q.newPlan(q.sources, q.window)
	if err != nil {
		return err
	}
	if q.file == "" {
		_, err = p.Size(ctx)
	} else {
		err = p.WriteTo(ctx, dst, 0, -1)
	}
	q.note(p)
	r := p.Result()
	q.written, q.stored = r.Packets, r.Octets
	return err
}

func (q *queryRun) note(p *query.Plan) {
	r := p.Result()
	q.looked.Add(&r.Explain)
	q.corrupt += r.CorruptChunks
}

// open opens what is written. done closes it; a file that is not to be kept was never there.
func (q *queryRun) open() (dst io.Writer, done func(keep bool) error, err error) {
	switch q.file {
	case "":
		return io.Discard, func(bool) error { return nil }, nil
	case "-":
		if isTerminal(q.a.stdout) {
			return nil, nil, usagef("-w -: standard output is a terminal, and %s is not text", q.out)
		}
		return q.a.stdout, func(bool) error { return nil }, nil
	}
	if st, err := os.Stat(q.file); err == nil && !st.Mode().IsRegular() { // a pipe or a device
		f, err := os.OpenFile(q.file, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, err
		}
		return f, func(bool) error { return f.Close() }, nil
	}
	part, err := os.OpenFile(q.file+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	buf := bufio.NewWriterSize(part, 256<<10)
	return buf, func(keep bool) error {
		err := buf.Flush()
		if cerr := part.Close(); err == nil {
			err = cerr
		}
		if err != nil || !keep {
			return errors.Join(err, os.Remove(part.Name()))
		}
		return os.Rename(part.Name(), q.file)
	}, nil
}

// tell says what came of it.
func (q *queryRun) tell(took time.Duration) {
	a := q.a
	if q.file == "" {
		fmt.Fprintln(a.stdout, q.written)
	} else {
		a.tell("%d packets, %s", q.written, octets(q.stored))
	}
	if q.dropped > 0 {
		a.say("%d copies of packets seen at another point were left out", q.dropped)
	}
	if q.marked > 0 {
		a.say("%d copies of packets seen at another point are marked", q.marked)
	}
	if q.corrupt > 0 {
		a.say("warning: %d damaged places could not be read; opentap verify says where", q.corrupt)
	}
	if !q.explain {
		return
	}
	a.say("filter:  %s", q.expr.Explain())
	a.searched(want.Search(q.looked), q.written+q.dropped)
	a.say("time:    %s", took.Round(10*time.Microsecond))
}
