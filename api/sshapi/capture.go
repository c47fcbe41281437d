package sshapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/fault"
	"opentap/ledger"
	"opentap/report"
	"opentap/want"
)

// toStdout is the option -w that people who know the command line type. There is one place that data can go to.
func toStdout(o *options) {
	o.add("write", 'w', "-", "data goes to standard output, with or without this", func(v string) error {
		if v != "-" {
			return errors.New("the server writes no files for its users: redirect the output (> FILE), or fetch the capture by sftp")
		}
		return nil
	})
}

// parseTime reads a time relative to now: RFC 3339, Unix seconds, "now", "-10m", "+5m". Hours of the day are not among them:
// the client's zone is not known here.
func parseTime(s string, now time.Time) (time.Time, error) {
	switch {
	case s == "now":
		return now, nil
	case s != "" && (s[0] == '-' || s[0] == '+'):
		if d, err := time.ParseDuration(s); err == nil {
			return now.Add(d), nil
		}
	default:
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return t, nil
		}
		if sec, err := strconv.ParseFloat(s, 64); err == nil && sec >= 0 && sec < 253402300800 {
			return time.Unix(0, 0).Add(time.Duration(sec * 1e9)), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-01-02T15:04:05Z, 1767366245, now, -10m or +5m", s)
}

var units = map[string]uint64{
	"": 1, "b": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

// parseOctets reads a count of octets with an optional unit: 1500, 10MB, 10MiB.
func parseOctets(s string) (uint64, error) {
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.ParseUint(s[:i], 10, 64)
	unit, ok := units[strings.ToLower(strings.TrimSpace(s[i:]))]
	if err != nil || !ok || n != 0 && n*unit/n != unit {
		return 0, fmt.Errorf("%q is not a size such as 1500, 10MB or 1GiB", s)
	}
	return n * unit, nil
}

// requestOptions adds the options of a capture to o.
func requestOptions(o *options, q *want.Request) {
	now := time.Now()
	at := func(p *time.Time) func(string) error {
		return func(v string) (err error) {
			*p, err = parseTime(v, now)
			return err
		}
	}
	o.texts(&q.Points, "point", 'p', "POINT", "observation point, by name or alias, or node/name (default: the server's)")
	o.text(&q.Filter, "filter", 'f', "EXPR", "pcap-filter expression")
	o.flag(&q.Strict, "strict", 0, "libpcap's meaning of offsets behind VLAN tags")
	o.duration(&q.Duration, "duration", 'd', "how long, such as 30s or 10m")
	o.add("from", 0, "TIME", "when to begin: RFC 3339, Unix seconds, -10m, +5m (default now)", at(&q.From))
	o.add("to", 0, "TIME", "when to end", at(&q.To))
	o.text(&q.ID, "id", 0, "ID", "id of the capture (default: the server makes one)")
	o.duration(&q.Retain, "retain", 0, "how long the server keeps the data afterwards")
}

func checkRequest(q *want.Request) error {
	switch {
	case q.Duration != 0 && !q.To.IsZero():
		return usagef("give either --duration or --to")
	case !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To):
		return usagef("--to must be later than --from")
	}
	return nil
}

func checkFormat(f want.Format, k want.Kind) error {
	if list := want.FormatsOf(k); !slices.Contains(list, f) {
		return usagef("--format %s: a %s capture gives %s", f, k, report.Formats(list))
	}
	return nil
}

var captureVerb = verb{
	name: "capture", args: "KIND", short: "Capture, wait, and write what was captured to standard output", min: 1, max: 1, signals: true,
	long: `KIND is pcap, netflow, ethernet or sensor; also temperature, motion or vibration. Without --duration, --to, --packets or
--bytes it goes on until the client sends a signal; closing the connection stops the capture, and what was captured stays on
the server until it expires.`,
	example: "  ssh HOST capture pcap -p eth0 -d 10s > eth0.pcapng\n  ssh HOST capture netflow -d 1m --format csv > flows.csv\n  ssh HOST capture pcap -f 'host 10.0.0.1' --packets 1000 --detach",
	prepare: func(o *options) func(context.Context, *call) error {
		var q want.Request
		var snap uint64
		var format string
		var detach, onLoss bool
		requestOptions(o, &q)
		o.number(&snap, "snap", "octets kept of each packet (default all)")
		o.number(&q.Limits.Packets, "packets", "end after so many packets")
		o.add("bytes", 0, "SIZE", "end after so much, such as 10MB or 1GiB", func(v string) (err error) {
			q.Limits.Octets, err = parseOctets(v)
			return err
		})
		o.duration(&q.Period, "period", 0, "time between samples of counters and sensors (default 1s)")
		o.text(&format, "format", 0, "FORMAT", "pcapng, pcap, csv, classic, ndjson, parquet or arrow (default: the kind's)")
		o.flag(&detach, "detach", 0, "only start it, and print its id")
		o.flag(&onLoss, "fail-on-loss", 0, "exit with 6 when packets were lost or the window has gaps")
		toStdout(o)
		return func(ctx context.Context, c *call) error {
			q.Kind, q.Snap = want.Kind(c.args[0]), int(min(snap, 1<<30))
			f := want.Format(format)
			if err := checkRequest(&q); err != nil {
				return err
			}
			if f != "" {
				if err := checkFormat(f, q.Kind); err != nil {
					return err
				}
			}
			v, err := c.start(ctx, q)
			if err != nil {
				return err
			}
			if detach {
				_, err := io.WriteString(c.out, report.Clean(v.ID)+"\n")
				return err
			}
			if v, err = c.await(ctx, v, nil); err != nil {
				return err
			}
			return c.fetch(ctx, &v, f, onLoss)
		}
	},
}

// start begins a capture and says what the server made of the request.
func (c *call) start(ctx context.Context, q want.Request) (want.View, error) {
	// It is begun or not, whatever the client does meanwhile: one of which nobody knows would go on.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	v, created, err := c.s.ctl.CreateCapture(ctx, c.id, q)
	if err != nil {
		return v, pointAt(q.Filter, err)
	}
	c.tell("capture %s: %s at %s", v.ID, v.Kind, strings.Join(v.Query.Points, ", "))
	if !created {
		c.tell("it was there already")
	}
	if v.Note != "" {
		c.say("note: %s", v.Note)
	}
	return v, nil
}

// pointAt shows where in a filter the error is.
func pointAt(expr string, err error) error {
	var f *fault.Error
	if !errors.As(err, &f) || f.Pos < 1 || f.Pos > len(expr)+1 || strings.ContainsAny(expr, "\n\t") || strings.Contains(f.Msg, "\n") {
		return err
	}
	shown := *f
	shown.Msg += fmt.Sprintf("\n  %s\n  %s^", expr, strings.Repeat(" ", len([]rune(expr[:f.Pos-1]))))
	return &shown
}

// Times between looks at a capture.
const (
	lookFirst = 200 * time.Millisecond
	lookMost  = 2 * time.Second
)

// await follows the capture to its end; each is called with what is known meanwhile. A signal stops the capture. So does the
// end of the session: nobody is left who would.
func (c *call) await(ctx context.Context, v want.View, each func(*want.View) error) (want.View, error) {
	interrupt, pause := c.interrupt, lookFirst
	for {
		if each != nil {
			if err := each(&v); err != nil {
				c.abandon(ctx, &v)
				return v, err
			}
		}
		if v.Status.State.Final() {
			return v, nil
		}
		t := time.NewTimer(pause)
		var err error
		select {
		case <-ctx.Done():
			t.Stop()
			c.abandon(ctx, &v)
			return v, ctx.Err()
		case <-interrupt:
			t.Stop()
			interrupt = nil
			v, err = c.s.ctl.StopCapture(ctx, c.id, v.ID)
		case <-t.C:
			var now want.View
			if now, err = c.s.ctl.Capture(ctx, c.id, v.ID); err == nil {
				v = now
			}
		}
		if err != nil && !fault.Is(err, fault.Unavailable) {
			if ctx.Err() != nil {
				c.abandon(ctx, &v)
			}
			return v, err
		}
		pause = min(pause*3/2, lookMost)
	}
}

// abandon stops a capture whose asker went away.
func (c *call) abandon(ctx context.Context, v *want.View) {
	if v.Status.State.Final() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := c.s.ctl.StopCapture(ctx, c.id, v.ID); err != nil {
		c.s.log.Warn("a capture could not be stopped when its ssh session ended", "capture", v.ID, "err", err)
	}
}

// fetch writes the capture's data and says what is missing from it.
func (c *call) fetch(ctx context.Context, v *want.View, f want.Format, onLoss bool) error {
	rt, err := c.s.ctl.OpenCapture(ctx, c.id, v.ID, want.OpenOptions{Format: f})
	if err != nil {
		return err
	}
	defer rt.Close()
	n := &counter{w: c.out}
	if err := rt.Write(ctx, n, 0, -1); err != nil {
		return err
	}
	if rt.Size >= 0 && n.octets != rt.Size {
		return fmt.Errorf("stream capture %s: %d octets of %d", v.ID, n.octets, rt.Size)
	}
	if !rt.Final {
		c.say("note: the capture has not ended; this is what it had until now")
	}
	return c.conclude(v, n.octets, onLoss)
}

// counter counts what passes.
type counter struct {
	w      io.Writer
	octets int64
}

func (n *counter) Write(p []byte) (int, error) {
	m, err := n.w.Write(p)
	n.octets += int64(m)
	return m, err
}

// conclude tells what was captured and what was lost.
func (c *call) conclude(v *want.View, size int64, onLoss bool) error {
	st := &v.Status
	what := report.Accounts(&st.Ledger)
	if v.Kind != want.Packets {
		what = fmt.Sprintf("%d records", st.Records)
	}
	c.tell("%s: %s; wrote %s", v.ID, what, report.Octets(size))
	l := st.Ledger
	l.Dropped[ledger.Limit] = 0 // a limit that the user set is no loss
	lost := false
	if n := l.DroppedTotal(); n > 0 {
		lost = true
		c.say("warning: %d packets were dropped%s", n, report.Reasons(&l))
	}
	for _, g := range st.Gaps {
		lost = true
		c.say("warning: nothing was seen from %s", report.Gap(g, when))
	}
	switch {
	case st.State == want.Failed:
		return fmt.Errorf("the capture failed: %s%w", st.Reason, errTold)
	case st.State == want.Degraded:
		c.say("warning: the capture is degraded: %s", st.Reason)
	}
	if lost && onLoss {
		return report.ErrLoss
	}
	return nil
}

var retrieveVerb = verb{
	name: "retrieve", args: "ID", short: "Write a capture's data to standard output", min: 1, max: 1,
	long:    "It writes what the capture has so far, or all of it once it has ended. To go on with an interrupted download use\nsftp's reget: captures are files there.",
	example: "  ssh HOST retrieve cap-1 > cap-1.pcapng\n  ssh HOST retrieve cap-1 --format pcap | tcpdump -r -",
	prepare: func(o *options) func(context.Context, *call) error {
		var format string
		var onLoss bool
		o.text(&format, "format", 0, "FORMAT", "pcapng, pcap, csv, classic, ndjson, parquet or arrow (default: the kind's)")
		o.flag(&onLoss, "fail-on-loss", 0, "exit with 6 when packets were lost or the window has gaps")
		toStdout(o)
		return func(ctx context.Context, c *call) error {
			v, err := c.s.ctl.Capture(ctx, c.id, c.args[0])
			if err != nil {
				return err
			}
			f := want.Format(format)
			if f != "" {
				if err := checkFormat(f, v.Kind); err != nil {
					return err
				}
			}
			return c.fetch(ctx, &v, f, onLoss)
		}
	},
}

// flowsPause is how often new flow records are looked for. Each look that brings some is in the audit log.
const flowsPause = 5 * time.Second

var flowsVerb = verb{
	name: "flows", args: "[POINT...] [FILTER]", short: "Stream flow records as CSV while they are made", max: -1, signals: true,
	long: `It starts a netflow capture and writes its records as they are complete: when a flow has ended, or after the server's idle
or active timeout. It goes on until --duration, --to or the end of the session, which stops the capture; its data stays on
the server until it expires.`,
	example: "  ssh HOST flows eth0 'port 443' -d 5m > flows.csv\n  ssh HOST flows --format ndjson -d 1m",
	prepare: func(o *options) func(context.Context, *call) error {
		q := want.Request{Kind: want.Flows}
		format := "csv"
		requestOptions(o, &q)
		o.text(&format, "format", 0, "FORMAT", "csv or ndjson (default csv)")
		toStdout(o)
		return func(ctx context.Context, c *call) error {
			if format != "csv" && format != "ndjson" {
				return usagef("--format %s: csv and ndjson can be streamed", format)
			}
			if err := checkRequest(&q); err != nil {
				return err
			}
			var err error
			if q.Points, q.Filter, err = c.pointsAndFilter(ctx, q.Points, q.Filter); err != nil {
				return err
			}
			v, err := c.start(ctx, q)
			if err != nil {
				return err
			}
			var sent int64
			var had uint64
			var next time.Time
			v, err = c.await(ctx, v, func(v *want.View) error {
				now := time.Now()
				final := v.Status.State.Final()
				if v.Status.State == want.Scheduled || !final && (now.Before(next) || sent > 0 && v.Status.Records == had) {
					return nil
				}
				next = now.Add(flowsPause)
				rt, err := c.s.ctl.OpenCapture(ctx, c.id, v.ID, want.OpenOptions{Format: want.Format(format)})
				if err != nil {
					if !final && (fault.Is(err, fault.NotReady) || fault.Is(err, fault.Unavailable)) {
						return nil
					}
					return err
				}
				defer rt.Close()
				had = v.Status.Records
				if rt.Size <= sent { // records are only ever added
					return nil
				}
				n := &counter{w: c.out}
				err = rt.Write(ctx, n, sent, rt.Size-sent)
				sent += n.octets
				return err
			})
			if err != nil {
				return err
			}
			return c.conclude(&v, sent, false)
		}
	},
}
