package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/fault"
	"opentap/filter"
	"opentap/ledger"
	"opentap/report"
	"opentap/want"
)

// captureFlags are the words of opentap capture.
type captureFlags struct {
	points                      []string
	from, to, id, filter, bytes string
	duration, period, retain    time.Duration
	strict, detach, failOnLoss  bool
	explain                     bool
	snap                        int
	packets                     uint64
	file, format                string
}

func (a *app) captureCmd() *cobra.Command {
	var f captureFlags
	cmd := &cobra.Command{
		Use:   "capture [KIND] [FILTER]",
		Short: "Capture, wait, and retrieve what was captured",
		Long: `capture starts a capture of a KIND (pcap unless another is named: netflow, ethernet or sensor; also temperature, motion
or vibration), of the packets that a FILTER takes if one is given, here or with --filter; shows how it goes, waits for its end and retrieves the data.

Without --duration, --to, --packets or --bytes it goes on until Ctrl-C. Ctrl-C stops the capture and retrieves what
there is; a second Ctrl-C leaves at once, and the data stays on the server until it expires.

Times are RFC 3339, Unix seconds, now, a distance from now (-10m, +5m), or a time of today (15:04, 15:04:05).
A file written with -w can be read by its owner alone.`,
		Args:      cobra.MaximumNArgs(2),
		ValidArgs: captureKinds,
		Example: `  opentap capture pcap --point eth0 --duration 10s -w eth0.pcapng
  opentap capture pcap --filter 'host 10.0.0.1 and tcp' --packets 1000 --snap 96 -w host.pcap
  opentap capture --from -10m --to +5m 'host 10.0.0.7' -w past-and-future.pcapng
  opentap capture netflow --from +10s --to +70s --id netflow_net_1 --detach
  opentap capture ethernet --period 500ms --duration 1m -w counters.csv
  opentap capture pcap --duration 30s -w - | tcpdump -r -`,
		RunE: func(_ *cobra.Command, args []string) error {
			kind, err := f.words(args)
			if err != nil {
				return err
			}
			a.began = true
			c, err := a.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			return a.capture(c, kind, &f) // it takes the signals itself
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVarP(&f.points, "point", "p", nil, "observation point, by name or alias, or node/name (default: the server's)")
	fl.DurationVarP(&f.duration, "duration", "d", 0, "how long, such as 30s or 10m")
	fl.StringVar(&f.from, "from", "", "when to begin (default now)")
	fl.StringVar(&f.to, "to", "", "when to end")
	fl.StringVar(&f.id, "id", "", "id of the capture (default: the server makes one)")
	fl.StringVarP(&f.filter, "filter", "f", "", "pcap-filter expression")
	fl.BoolVar(&f.strict, "strict", false, "libpcap's meaning of offsets behind VLAN tags")
	fl.IntVar(&f.snap, "snap", 0, "octets kept of each packet (default all)")
	fl.Uint64Var(&f.packets, "packets", 0, "end after so many packets")
	fl.StringVar(&f.bytes, "bytes", "", "end after so much, such as 10MB or 1GiB")
	fl.DurationVar(&f.period, "period", 0, "time between samples of counters and sensors (default 1s)")
	fl.DurationVar(&f.retain, "retain", 0, "how long the server keeps the data afterwards")
	fl.StringVar(&f.format, "format", "", "pcapng, pcap, csv, classic, ndjson, parquet or arrow (default: as the file's name ends)")
	fl.StringVarP(&f.file, "write", "w", "", "file to write; - is standard output")
	fl.BoolVar(&f.detach, "detach", false, "only start it, and print its id")
	fl.BoolVar(&f.explain, "explain", false, "of a capture from a recording: tell what was read and what was skipped")
	fl.BoolVar(&f.failOnLoss, "fail-on-loss", false, "exit with 6 when packets were lost or the window has gaps")
	return cmd
}

// captureKinds are the words for what is captured.
var captureKinds = []string{"pcap", "netflow", "ethernet", "sensor", "temperature", "motion", "vibration"}

// words takes KIND and FILTER as they are given: what is no kind is a filter.
func (f *captureFlags) words(args []string) (kind want.Kind, err error) {
	kind = want.Packets
	if len(args) > 0 && slices.Contains(captureKinds, args[0]) {
		kind, args = want.Kind(args[0]), args[1:]
	}
	switch {
	case len(args) > 1:
		return "", usagef("unknown kind %q; it is one of %s, and a FILTER of several words is to be quoted", args[0], strings.Join(captureKinds, ", "))
	case len(args) == 1 && !strings.ContainsAny(args[0], " \t\n"):
		if _, err := filter.Parse(args[0]); err != nil {
			return "", usagef("%q is no kind (%s) and no filter: %w", args[0], strings.Join(captureKinds, ", "), err)
		}
	}
	switch {
	case len(args) == 1 && f.filter != "":
		return "", usagef("give the filter once: %q or --filter", args[0])
	case len(args) == 1:
		f.filter = args[0]
	}
	return kind, nil
}

// request turns the flags into the request, and refuses what cannot be meant before anything is started.
func (f *captureFlags) request(kind want.Kind, now time.Time) (q want.Request, err error) {
	q = want.Request{
		ID: f.id, Kind: kind, Points: f.points, Filter: f.filter, Strict: f.strict, Snap: f.snap,
		Duration: want.Duration(f.duration), Period: want.Duration(f.period), Retain: want.Duration(f.retain),
	}
	q.Limits.Packets = f.packets
	if q.From, err = parseTime(f.from, now); err != nil {
		return q, usagef("--from: %w", err)
	}
	if q.To, err = parseTime(f.to, now); err != nil {
		return q, usagef("--to: %w", err)
	}
	if q.Limits.Octets, err = parseOctets(f.bytes); err != nil {
		return q, usagef("--bytes: %w", err)
	}
	switch {
	case f.file == "" && !f.detach:
		return q, usagef("-w FILE says where the data goes; --detach only starts the capture")
	case f.file != "" && f.detach:
		return q, usagef("give either -w or --detach")
	case f.duration != 0 && f.to != "":
		return q, usagef("give either --duration or --to")
	case f.duration < 0 || f.period < 0 || f.retain < 0 || f.snap < 0:
		return q, usagef("durations and sizes must not be negative")
	case !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To):
		return q, usagef("--to must be later than --from")
	}
	return q, nil
}

// capture runs one capture. It listens to signals itself: the first one only stops the capture.
func (a *app) capture(c *client.Client, kind want.Kind, f *captureFlags) error {
	q, err := f.request(kind, time.Now())
	if err != nil {
		return err
	}
	var target *target
	if !f.detach {
		format := want.Format(f.format)
		if format == "" {
			format = formatOf(f.file, q.Kind)
		}
		if err := checkFormat(format, q.Kind); err != nil {
			return err
		}
		if target, err = a.openTarget(f.file, format); err != nil { // before the capture: it would be for nothing
			return err
		}
		defer target.close()
	}
	created := false
	v, signalled, err := a.interruptibly(func(ctx context.Context) (v want.View, err error) {
		v, created, err = c.Create(ctx, q)
		return v, err
	})
	if err != nil {
		return pointAt(q.Filter, err)
	}
	if signalled {
		a.say("capture %s was started and goes on", v.ID)
		return context.Canceled
	}
	if f.detach {
		if v.Note != "" {
			a.say("note: %s", v.Note)
		}
		_, err := fmt.Fprintln(a.stdout, clean(v.ID))
		return err
	}
	a.tell("capture %s: %s at %s", v.ID, v.Kind, strings.Join(v.Query.Points, ", "))
	if !created {
		a.tell("it was there already; waiting for its end")
	}
	if v.Filtering != "" {
		a.tell("filter: %s", v.Filtering)
	}
	if v.Note != "" {
		a.say("note: %s", v.Note)
	}
	if v, err = a.await(c, v); err != nil {
		a.say("the capture stays on the server: %s", target.again(v.ID))
		return err
	}
	if err := a.download(context.Background(), c, v, target); err != nil {
		if v.Status.State == want.Failed {
			err = fmt.Errorf("the capture failed: %s; %w", v.Status.Reason, err)
		} else if target.part.Offset == 0 {
			a.say("the data stays on the server: %s", target.again(v.ID))
		}
		return err
	}
	if f.explain {
		a.explainSearch(&v)
	}
	return a.conclude(&v, target, f.failOnLoss)
}

// await follows the capture to its end. The first signal stops it, the second leaves it alone and ends the waiting.
func (a *app) await(c *client.Client, v want.View) (want.View, error) {
	const patience = 30 * time.Second
	p := a.progress()
	defer p.done()
	pause := 200 * time.Millisecond
	var lostSince time.Time
	stopping := false
	for !v.Status.State.Final() {
		p.capture(&v, time.Now())
		signalled, timer := false, time.NewTimer(pause)
		select {
		case <-a.signals:
			signalled = true
		case <-timer.C:
		}
		timer.Stop()
		var now want.View
		var err error
		if !signalled {
			now, signalled, err = a.interruptibly(func(ctx context.Context) (want.View, error) {
				ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
				defer cancel()
				return c.Capture(ctx, v.ID)
			})
		}
		if signalled {
			if stopping {
				return v, context.Canceled
			}
			stopping = true
			p.done()
			a.say("stopping the capture; once more to leave at once")
			now, signalled, err = a.interruptibly(func(ctx context.Context) (want.View, error) { return c.Stop(ctx, v.ID) })
			if signalled {
				return v, context.Canceled
			}
		}
		var lost *client.ConnectError
		switch {
		case err == nil:
			v, lostSince = now, time.Time{}
			pause = min(pause*3/2, time.Second)
		case errors.As(err, &lost), fault.Is(err, fault.Unavailable), errors.Is(err, context.DeadlineExceeded):
			if lostSince.IsZero() {
				lostSince = time.Now()
				p.done()
				a.say("the server does not answer (%v); the capture goes on there, trying again", err)
			}
			if time.Since(lostSince) > patience {
				return v, err
			}
			stopping = false // if a stop was asked for, it may not have arrived
			pause = time.Second
		default:
			return v, err
		}
	}
	p.capture(&v, time.Now())
	return v, nil
}

// interruptibly runs a call that a signal ends; it returns when the call has.
func (a *app) interruptibly(fn func(ctx context.Context) (want.View, error)) (v want.View, signalled bool, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = fn(ctx)
	}()
	select {
	case <-done:
		return v, false, err
	case <-a.signals:
		cancel()
		<-done
		return v, true, err
	}
}

// conclude tells what was captured and what was lost.
func (a *app) conclude(v *want.View, t *target, failOnLoss bool) error {
	s := &v.Status
	what := report.Accounts(&s.Ledger)
	if v.Kind != want.Packets {
		what = fmt.Sprintf("%d records", s.Records)
		if v.Kind == want.Flows {
			what += " from " + report.Accounts(&s.Ledger)
		}
	}
	a.tell("%s: %s; wrote %s to %s", v.ID, what, octets(t.part.Offset), t.name())
	lost := a.warn(v)
	if s.State == want.Failed {
		return fmt.Errorf("the capture failed: %s; what was captured before is in %s", s.Reason, t.name())
	}
	if lost && failOnLoss {
		return report.ErrLoss
	}
	return nil
}

// warn says on stderr what is missing from a capture, and reports whether anything is. A limit that the user set is no loss.
func (a *app) warn(v *want.View) bool {
	l := v.Status.Ledger
	l.Dropped[ledger.Limit] = 0
	lost := false
	if n := l.DroppedTotal(); n > 0 {
		lost = true
		a.say("warning: %d packets were dropped%s", n, report.Reasons(&l))
	}
	for _, g := range v.Status.Gaps {
		lost = true
		a.say("warning: nothing was seen from %s", report.Gap(g, when))
	}
	if v.Status.State == want.Degraded {
		a.say("warning: the capture is degraded: %s", v.Status.Reason)
	}
	return lost
}

// tell is say unless --quiet.
func (a *app) tell(format string, args ...any) {
	if !a.quiet {
		a.say(format, args...)
	}
}

// pointAt shows where in a filter the error is.
func pointAt(expr string, err error) error {
	var f *fault.Error
	if !errors.As(err, &f) || f.Pos < 1 || f.Pos > len(expr)+1 || strings.ContainsAny(expr, "\n\t") || strings.Contains(f.Error(), "\n") {
		return err
	}
	return fmt.Errorf("%w\n  %s\n  %s^", err, expr, strings.Repeat(" ", len([]rune(expr[:f.Pos-1]))))
}

// shellWord quotes an id so that the command shown can be copied.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@,+", r))
	}) && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// formatOf guesses the format from the file's name.
func formatOf(file string, k want.Kind) want.Format {
	name := strings.ToLower(file)
	for _, f := range want.FormatsOf(k) {
		if strings.HasSuffix(name, f.Extension()) {
			return f
		}
	}
	if k != want.Packets && strings.HasSuffix(name, ".jsonl") {
		return want.NDJSON
	}
	return want.FormatsOf(k)[0]
}

func checkFormat(f want.Format, k want.Kind) error {
	for _, g := range want.FormatsOf(k) {
		if f == g {
			return nil
		}
	}
	return usagef("--format %s: a %s capture gives %s", f, k, report.Formats(want.FormatsOf(k)))
}

// isTerminal reports whether w is a person's screen.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(st, null)
}
