package main

import (
	"fmt"
	"io"
	"time"

	"opentap/client"
	"opentap/want"
)

// progress shows how things go on stderr: one line that is rewritten on a terminal, a line now and then elsewhere.
type progress struct {
	w        io.Writer
	off, tty bool
	open     bool // a line is on the screen and not ended
	last     time.Time
	// Of the rate: what was there at the mark.
	mark    time.Time
	packets uint64
	began   time.Time
	start   int64
}

const (
	everyTTY   = 200 * time.Millisecond
	everyPlain = 10 * time.Second
)

func (a *app) progress() *progress {
	return &progress{w: a.stderr, off: a.quiet, tty: isTerminal(a.stderr), last: time.Now()}
}

// due reports whether a line should be shown now.
func (p *progress) due(now time.Time) bool {
	every := everyPlain
	if p.tty {
		every = everyTTY
	}
	if p.off || now.Sub(p.last) < every {
		return false
	}
	p.last = now
	return true
}

func (p *progress) show(line string) {
	line = clean(line)
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%.200s", line)
		p.open = true
		return
	}
	fmt.Fprintln(p.w, line)
}

// done ends the line on a terminal.
func (p *progress) done() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}

// capture shows a capture's state, rate, drops and time left.
func (p *progress) capture(v *want.View, now time.Time) {
	if !p.due(now) {
		return
	}
	s := &v.Status
	n, unit := s.Ledger.Captured, "packets"
	if v.Kind != want.Packets {
		n, unit = s.Records, "records"
	}
	line := fmt.Sprintf("%s  %d %s  %s", s.State, n, unit, octets(s.Bytes))
	if v.Query.From.After(now) {
		line = fmt.Sprintf("%s  begins in %s", s.State, short(v.Query.From.Sub(now)))
	} else if !p.mark.IsZero() && now.After(p.mark) && n >= p.packets {
		line += fmt.Sprintf("  %.0f/s", float64(n-p.packets)/now.Sub(p.mark).Seconds())
	}
	p.mark, p.packets = now, n
	if v.Kind == want.Packets || v.Kind == want.Flows {
		line += fmt.Sprintf("  dropped %d", s.Ledger.DroppedTotal())
	}
	if end := v.End(); end.After(now) {
		line += "  ends in " + short(end.Sub(now))
	}
	if s.Reason != "" {
		line += "  " + s.Reason
	}
	p.show(line)
}

// download shows how far a download came.
func (p *progress) download(part client.Part, now time.Time) {
	if p.began.IsZero() {
		p.began, p.start = now, part.Offset
	}
	if !p.due(now) {
		return
	}
	took := now.Sub(p.began).Seconds()
	line := "retrieving  " + octets(part.Offset)
	if part.Size > 0 {
		line += fmt.Sprintf(" of %s  %d%%", octets(part.Size), part.Offset*100/part.Size)
	}
	if rate := float64(part.Offset-p.start) / took; took > 0 && rate > 0 {
		line += "  " + octets(int64(rate)) + "/s"
		if part.Size > 0 {
			line += "  " + short(time.Duration(float64(part.Size-part.Offset)/rate*float64(time.Second))) + " left"
		}
	}
	p.show(line)
}
