package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"opentap/point"
	"opentap/want"
)

// picture is what is so now in lines of at most width characters, at most height of them. Of colours it has few: drops and
// what is wrong are red, headings bold.
func (o *overview) picture(width, height int, l look, now time.Time) string {
	p := &canvas{width: width, height: height, look: l}
	var octets, packets, dropped float64
	for _, r := range o.rates {
		octets += r.RxOctets + r.TxOctets
		packets += r.RxPackets + r.TxPackets
		dropped += r.Dropped
	}
	p.line(bold, "OpenTap %s %s   %s", clean(o.begin.Name), clean(o.begin.Version), now.Format("15:04:05"))
	if o.lost == "" { // what passes while nobody tells is not known
		p.line(plain, "%s bit/s, %s packets/s at %d points", si(8*octets), si(packets), len(o.points))
	}
	if dropped > 0 && o.lost == "" {
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
	points := columns{{32, false, 0}, {10, true, 1}, {10, true, 2}, {10, true, 4}, {10, true, 3}, {11, false, 5}}.fit(width)
	p.line(bold, "%s", points.row("POINT", "IN bit/s", "OUT bit/s", "packets/s", "drops/s", "  by "+topSorts[o.sort]))
	for i, l := range o.busiest() {
		if i == room {
			break
		}
		style := plain
		if l.rate.Dropped > 0 {
			style = red
		}
		cells := []string{l.name, si(8 * l.rate.RxOctets), si(8 * l.rate.TxOctets), si(l.rate.RxPackets + l.rate.TxPackets), si(l.rate.Dropped), ""}
		if o.lost != "" {
			style, cells = plain, []string{l.name, "–", "–", "–", "–", ""}
		}
		p.line(style, "%s", points.row(cells...))
	}
	p.line(plain, "")
	table := columns{{28, false, 0}, {9, false, 5}, {10, false, 1}, {12, true, 2}, {12, true, 6}, {10, true, 3}, {8, true, 4}}.fit(width)
	p.line(bold, "%s", table.row("CAPTURE", "KIND", "STATE", "captured", "filtered", "dropped", "size"))
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
		p.line(style, "%s", table.row(clean(v.ID), clean(string(v.Kind)), clean(string(v.Status.State)), digits(taken), digits(a.Filtered), digits(a.DroppedTotal()), si(float64(v.Status.Bytes))+"B"))
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

// look says for what a picture is.
type look struct {
	screen bool // a terminal in raw mode, where the picture before is written over; otherwise lines for a file
	colour bool
}

// column of a table. Of those that find no room the ones with the highest rank go first; the one with rank 0 stays, and has
// what the others leave, up to its width.
type column struct {
	width int
	right bool
	rank  int
}

type columns []column

// leastName is the least width of the column with rank 0 that is worth reading.
const leastName = 12

// fit leaves out what finds no room on so wide a screen: columns of width 0.
func (c columns) fit(width int) columns {
	out := slices.Clone(c)
	for {
		others, last := 0, -1
		for i := range out {
			if out[i].rank == 0 || out[i].width == 0 {
				continue
			}
			others += out[i].width + 1
			if last < 0 || out[i].rank > out[last].rank {
				last = i
			}
		}
		if last < 0 || width-others >= leastName {
			for i := range out {
				if out[i].rank == 0 {
					out[i].width = max(1, min(out[i].width, width-others))
				}
			}
			return out
		}
		out[last].width = 0
	}
}

// row spells one line of cells.
func (c columns) row(cells ...string) string {
	var out []string
	for i, col := range c {
		switch pad := col.width - utf8.RuneCountInString(cells[i]); {
		case col.width == 0:
		case col.right && pad > 0:
			out = append(out, strings.Repeat(" ", pad)+cells[i])
		default:
			out = append(out, fit(cells[i], col.width))
		}
	}
	return strings.Join(out, " ")
}

func digits(n uint64) string { return strconv.FormatUint(n, 10) }

// canvas gathers lines that fit a screen.
type canvas struct {
	width, height int
	look
	lines []string
}

func (c *canvas) line(style, format string, args ...any) {
	if len(c.lines) >= c.height {
		return
	}
	s := strings.TrimRight(fmt.Sprintf(format, args...), " ")
	if utf8.RuneCountInString(s) > c.width {
		s = fit(s, c.width)
	}
	if c.colour && style != plain {
		s = style + s + "\x1b[0m"
	}
	if c.screen {
		s += "\x1b[K"
	}
	c.lines = append(c.lines, s)
}

// String joins the lines; on a screen in raw mode a line ends with a carriage return as well.
func (c *canvas) String() string {
	if c.screen {
		return strings.Join(c.lines, "\r\n")
	}
	return strings.Join(c.lines, "\n") + "\n"
}
