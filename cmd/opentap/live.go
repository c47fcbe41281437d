package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/fault"
	"opentap/point"
	"opentap/report"
	"opentap/want"
)

// liveFlags are the words of opentap live.
type liveFlags struct {
	points               []string
	filter, file         string
	strict, text, onLoss bool
	snap                 int
	past, duration       time.Duration
	packets              uint64
}

func (a *app) liveCmd() *cobra.Command {
	var f liveFlags
	cmd := &cobra.Command{
		Use:   "live [POINT…] [FILTER]",
		Short: "Stream packets as they come",
		Long: `live shows packets while they pass: a line a packet on a terminal, pcapng into a pipe or, with -w, a file.

Arguments that name points are points, by name, alias or node/name; what follows them is the filter, quoted or not.
Several points, also of several nodes, come merged. It goes on until Ctrl-C, --duration or --packets.

Nothing is stored on the server. If whoever reads takes too little, packets are lost here and nowhere else; they are
counted as "slow reader", like every other loss, on stderr and in the statistics blocks of the stream.`,
		Args: cobra.ArbitraryArgs,
		Example: `  opentap live eth0 port 53
  opentap live eth0 'host 10.0.0.7 and tcp' | tshark -r -
  opentap live eth0 | wireshark -k -i -
  opentap live leaf1/eth0 leaf2/eth0 icmp -w pings.pcapng --duration 1m
  opentap live eth0 --past 30s --packets 1000 -w -`,
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			q, err := f.request(ctx, c, args)
			if err != nil {
				return err
			}
			return a.live(ctx, c, q, &f)
		}),
	}
	fl := cmd.Flags()
	fl.StringSliceVarP(&f.points, "point", "p", nil, "observation point; then all arguments are the filter")
	fl.StringVarP(&f.filter, "filter", "f", "", "pcap-filter expression; then all arguments are points")
	fl.BoolVar(&f.strict, "strict", false, "libpcap's meaning of offsets behind VLAN tags")
	fl.IntVar(&f.snap, "snap", 0, "octets kept of each packet (default all)")
	fl.DurationVar(&f.past, "past", 0, "begin with what was recorded so long ago, such as 30s; the points need recorders")
	fl.DurationVarP(&f.duration, "duration", "d", 0, "end after so long")
	fl.Uint64Var(&f.packets, "packets", 0, "end after so many packets; for points of one node")
	fl.StringVarP(&f.file, "write", "w", "", "file to write pcapng to; - is standard output")
	fl.BoolVar(&f.text, "text", false, "a line a packet, also into a pipe")
	fl.BoolVar(&f.onLoss, "fail-on-loss", false, "exit with 6 when packets were lost")
	return cmd
}

// request tells points from the filter among the arguments, and refuses what cannot be meant.
func (f *liveFlags) request(ctx context.Context, c *client.Client, args []string) (q want.LiveRequest, err error) {
	q = want.LiveRequest{
		Points: f.points, Filter: f.filter, Strict: f.strict, Snap: f.snap, Past: want.Duration(f.past),
		Duration: want.Duration(f.duration), Packets: f.packets,
	}
	switch {
	case f.text && f.file != "":
		return q, usagef("give either --text or -w")
	case f.duration < 0 || f.past < 0 || f.snap < 0:
		return q, usagef("durations and sizes must not be negative")
	case len(f.points) > 0 && f.filter != "" && len(args) > 0:
		return q, usagef("points and filter were given as options; %q is left over", args[0])
	case len(args) == 0:
		return q, nil
	case len(f.points) > 0:
		q.Filter = strings.Join(args, " ")
		return q, nil
	case f.filter != "":
		q.Points = args
		return q, nil
	}
	list, err := c.Points(ctx)
	if err != nil {
		return q, err
	}
	q.Points, q.Filter = splitArgs(list, args)
	return q, nil
}

// splitArgs takes the arguments that are points; the rest is the filter. A first one that is no point is taken for a
// misspelt one, unless it can only be a filter.
func splitArgs(list []point.Point, args []string) (points []string, filter string) {
	set := point.NewSet(list, nil, "")
	i := 0
	for ; i < len(args); i++ {
		if _, err := set.Resolve(args[i]); fault.Is(err, fault.NotFound) && (i > 0 || strings.ContainsAny(args[i], " ()[]")) {
			break
		}
	}
	return args[:i], strings.Join(args[i:], " ")
}

// errReader says that whoever read the stream wants no more of it.
var errReader = errors.New("the reader has closed the stream")

// live runs one stream.
func (a *app) live(ctx context.Context, c *client.Client, q want.LiveRequest, f *liveFlags) error {
	var out io.Writer
	where := "standard output"
	switch {
	case f.text || f.file == "" && isTerminal(a.stdout):
		out = &printer{w: a.stdout, many: len(q.Points) > 1}
	case f.file == "" || f.file == "-":
		if isTerminal(a.stdout) {
			return usagef("-w -: standard output is a terminal, and pcapng is not text")
		}
		signal.Ignore(syscall.SIGPIPE) // a reader that closes the pipe ends the stream, not the program
		out = a.stdout
	default:
		file, err := os.OpenFile(f.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("make room for the data: %w", err)
		}
		defer file.Close()
		out, where = file, f.file
	}
	body, err := c.Live(ctx, q)
	if err != nil {
		return pointAt(q.Filter, err)
	}
	defer body.Close()
	p := a.progress()
	if _, text := out.(*printer); text {
		p.off = true
	}
	var t tally
	err = t.copy(out, body, func() { p.live(&t, time.Now()) })
	p.done()
	switch {
	case err == nil, errors.Is(err, errReader), ctx.Err() != nil: // the last two are how people end it
	default:
		a.say("%d packets came before it broke", t.packets)
		return err
	}
	l := t.account()
	said := report.Accounts(&l)
	if len(t.accounts) == 0 {
		said = "cut before the node told what it had seen and dropped"
	}
	a.tell("%d packets, %s, to %s; %s", t.packets, octets(t.octets), where, said)
	if n := l.DroppedTotal(); n > 0 {
		a.say("warning: %d packets were dropped%s", n, report.Reasons(&l))
		if f.onLoss {
			return report.ErrLoss
		}
	}
	return nil
}

// live shows how a stream goes.
func (p *progress) live(t *tally, now time.Time) {
	if !p.due(now) {
		return
	}
	l := t.account()
	line := fmt.Sprintf("live  %d packets  %s", t.packets, octets(t.octets))
	if !p.mark.IsZero() && now.After(p.mark) {
		line += fmt.Sprintf("  %.0f/s", float64(t.packets-p.packets)/now.Sub(p.mark).Seconds())
	}
	p.mark, p.packets = now, t.packets
	p.show(line + fmt.Sprintf("  dropped %d%s", l.DroppedTotal(), report.Reasons(&l)))
}

// readerGone tells a reader that closed its end from a write that failed.
func readerGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, fs.ErrClosed)
}
