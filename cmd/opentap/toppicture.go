package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"opentap/point"
	"opentap/want"
)

// picture is what is so now in lines of at most width characters, at most height of them. Of colours it has few: drops and
// what is wrong are red, headings bold.
func (o *overview) picture(width, height int, colour bool, now time.Time) string {
	p := &canvas{width: width, height: height, colour: colour}
	var octets, packets, dropped float64
	for _, r := range o.rates {
		octets += r.RxOctets + r.TxOctets
		packets += r.RxPackets + r.TxPackets
		dropped += r.Dropped
	}
	p.line(bold, "OpenTap %s %s   %s", clean(o.begin.Name), clean(o.begin.Version), now.Format("15:04:05"))
	p.line(plain, "%s bit/s, %s packets/s at %d points", si(8*octets), si(packets), len(o.points))
	if dropped > 0 {
		p.line(red, "%s packets/s are dropped", si(dropped))
	}
	if o.lost != "" {
		p.line(red, "%s", o.lost)
	}
	for _, n := range o.nodes {
		style, state := plain, "connected"
		if !n.Connected {
			style, state = red, "away"
		}
		p.line(style, "node %s: %s, %s held, %s free", clean(n.Name), state, si(float64(n.DiskUsed))+"B", si(float64(n.DiskFree))+"B")
		for _, problem := range n.Problems {
			p.line(red, "  %s", clean(problem))
		}
	}
	captures := o.listed()
	p.line(plain, "")
	room := max(3, (height-len(p.lines)-4)*3/5)
	if len(captures) == 0 {
		room = height
	}
	p.line(bold, "%-32s %10s %10s %10s %10s   by %s", "POINT", "IN bit/s", "OUT bit/s", "packets/s", "drops/s", topSorts[o.sort])
	for i, l := range o.busiest() {
		if i == room {
			break
		}
		style := plain
		if l.rate.Dropped > 0 {
			style = red
		}
		p.line(style, "%s %10s %10s %10s %10s", fit(l.name, 32), si(8*l.rate.RxOctets), si(8*l.rate.TxOctets), si(l.rate.RxPackets+l.rate.TxPackets), si(l.rate.Dropped))
	}
	p.line(plain, "")
	p.line(bold, "%-28s %-9s %-10s %12s %12s %10s %8s", "CAPTURE", "KIND", "STATE", "captured", "filtered", "dropped", "size")
	for _, v := range captures {
		style := plain
		if v.Status.State == want.Failed || v.Status.State == want.Degraded || v.Status.Ledger.DroppedTotal() > 0 {
			style = red
		}
		a := &v.Status.Ledger
		taken := a.Captured
		if v.Kind != want.Packets {
			taken = v.Status.Records
		}
		p.line(style, "%s %-9s %-10s %12d %12d %10d %8s", fit(clean(v.ID), 28), clean(string(v.Kind)), clean(string(v.Status.State)), taken, a.Filtered, a.DroppedTotal(), si(float64(v.Status.Bytes))+"B")
	}
	return p.String()
}

type topLine struct {
	name string
	rate want.Rate
}

// busiest are the network devices in the order that was chosen.
func (o *overview) busiest() []topLine {
	var out []topLine
	for i := range o.points {
		pt := &o.points[i]
		if pt.Kind != point.Netdev || !pt.Present {
			continue
		}
		name := clean(pt.Name)
		if len(pt.Aliases) > 0 {
			name = clean(pt.Aliases[0])
		}
		if len(o.nodes) > 1 {
			name = clean(pt.Node) + "/" + name
		}
		out = append(out, topLine{name, o.rates[[2]string{pt.Node, pt.Name}]})
	}
	measure := func(r *want.Rate) float64 {
		switch topSorts[o.sort] {
		case "packets":
			return r.RxPackets + r.TxPackets
		case "drops":
			return r.Dropped
		case "name":
			return 0
		}
		return r.RxOctets + r.TxOctets
	}
	slices.SortFunc(out, func(a, b topLine) int {
		return cmp.Or(cmp.Compare(measure(&b.rate), measure(&a.rate)), cmp.Compare(a.name, b.name))
	})
	return out
}

// listed are the captures: those that go on first, the newest first among each.
func (o *overview) listed() []want.View {
	out := make([]want.View, 0, len(o.captures))
	for _, v := range o.captures {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b want.View) int {
		if f, g := a.Status.State.Final(), b.Status.State.Final(); f != g {
			if f {
				return 1
			}
			return -1
		}
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.UID, b.UID))
	})
	return out
}

// si writes a number in at most six characters: 12.3k.
func si(v float64) string {
	units := []string{"", "k", "M", "G", "T", "P"}
	i := 0
	for v >= 999.5 && i < len(units)-1 {
		v /= 1000
		i++
	}
	if v == float64(int64(v)) || v >= 99.95 {
		return fmt.Sprintf("%.0f%s", v, units[i])
	}
	return fmt.Sprintf("%.1f%s", v, units[i])
}

// fit cuts or fills a text to n characters.
func fit(s string, n int) string {
	k := utf8.RuneCountInString(s)
	if k <= n {
		return s + strings.Repeat(" ", n-k)
	}
	return string([]rune(s)[:n-1]) + "…"
}

// Styles of lines.
const (
	plain = ""
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
)

// canvas gathers lines that fit a screen.
type canvas struct {
	width, height int
	colour        bool
	lines         []string
}

func (c *canvas) line(style, format string, args ...any) {
	if len(c.lines) >= c.height {
		return
	}
	s := strings.TrimRight(fmt.Sprintf(format, args...), " ")
	if utf8.RuneCountInString(s) > c.width {
		s = fit(s, c.width)
	}
	if c.colour {
		if style != plain {
			s = style + s + "\x1b[0m"
		}
		s += "\x1b[K"
	}
	c.lines = append(c.lines, s)
}

// String joins the lines; on a screen in raw mode a line ends with a carriage return as well.
func (c *canvas) String() string {
	if c.colour {
		return strings.Join(c.lines, "\r\n")
	}
	return strings.Join(c.lines, "\n") + "\n"
}
