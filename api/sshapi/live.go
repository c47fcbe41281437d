package sshapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"opentap/fault"
	"opentap/ledger"
	"opentap/pcap"
	"opentap/point"
	"opentap/report"
	"opentap/want"
)

// pointsAndFilter tells points from the filter among the arguments.
func (c *call) pointsAndFilter(ctx context.Context, points []string, filter string) ([]string, string, error) {
	switch {
	case len(c.args) == 0:
		return points, filter, nil
	case len(points) > 0 && filter != "":
		return nil, "", usagef("points and filter were given as options; %q is left over", c.args[0])
	case len(points) > 0:
		return points, strings.Join(c.args, " "), nil
	case filter != "":
		return c.args, filter, nil
	}
	list, err := c.s.ctl.Points(ctx, c.id)
	if err != nil {
		return nil, "", err
	}
	// The arguments that are points are points; the rest is the filter. A first one that is no point is taken for a misspelt
	// one, unless it can only be a filter.
	set := point.NewSet(list, nil, "")
	i := 0
	for ; i < len(c.args); i++ {
		if _, err := set.Resolve(c.args[i]); fault.Is(err, fault.NotFound) && (i > 0 || strings.ContainsAny(c.args[i], " ()[]")) {
			break
		}
	}
	return c.args[:i], strings.Join(c.args[i:], " "), nil
}

var liveVerb = verb{
	name: "live", args: "[POINT...] [FILTER]", short: "Stream packets as they come, as pcapng", max: -1,
	long: `Arguments that name points are points, by name, alias or node/name; what follows them is the filter. Several points, also of
several nodes, come merged. It goes on until --duration, --packets or the end of the session.

Nothing is stored on the server. If the reader takes too little, packets are lost here and nowhere else; they are counted as
"slow reader" in the statistics blocks of the stream and on standard error. Leave this session's own packets out:
'not port 2222'.`,
	example: "  ssh HOST live eth0 'port 53' | tshark -r -\n  ssh HOST live eth0 'not port 2222' | wireshark -k -i -",
	prepare: func(o *options) func(context.Context, *call) error {
		var q want.LiveRequest
		var snap uint64
		var onLoss bool
		o.texts(&q.Points, "point", 'p', "POINT", "observation point; then all arguments are the filter")
		o.text(&q.Filter, "filter", 'f', "EXPR", "pcap-filter expression; then all arguments are points")
		o.flag(&q.Strict, "strict", 0, "libpcap's meaning of offsets behind VLAN tags")
		o.number(&snap, "snap", "octets kept of each packet (default all)")
		o.duration(&q.Past, "past", 0, "begin with what was recorded so long ago; the points need recorders")
		o.duration(&q.Duration, "duration", 'd', "end after so long")
		o.number(&q.Packets, "packets", "end after so many packets; for points of one node")
		o.flag(&onLoss, "fail-on-loss", 0, "exit with 6 when packets were lost")
		toStdout(o)
		return func(ctx context.Context, c *call) error {
			var err error
			q.Snap = int(min(snap, 1<<30))
			if q.Points, q.Filter, err = c.pointsAndFilter(ctx, q.Points, q.Filter); err != nil {
				return err
			}
			rt, err := c.s.ctl.OpenLive(ctx, c.id, q)
			if err != nil {
				return pointAt(q.Filter, err)
			}
			defer rt.Close()
			t := &tally{w: c.out}
			if err := rt.Write(ctx, t, 0, -1); err != nil {
				return err
			}
			l := t.account()
			c.tell("%d packets; %s", t.packets, report.Accounts(&l))
			if n := l.DroppedTotal(); n > 0 {
				c.say("warning: %d packets were dropped%s", n, report.Reasons(&l))
				if onLoss {
					return report.ErrLoss
				}
			}
			return nil
		}
	},
}

// tally passes a stream of pcapng on and counts what is in it.
type tally struct {
	w        io.Writer
	packets  uint64
	part     []byte // of a block that is not whole yet
	head     []byte // the section header and the interfaces, to read statistics with
	accounts map[int]ledger.Account
}

// maxBlock bounds what is kept of a block. Octets.
const maxBlock = 1 << 20

// Write implements io.Writer.
func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	if err != nil {
		return n, err
	}
	b := p
	if len(t.part) > 0 {
		t.part = append(t.part, p...)
		b = t.part
	}
	for len(b) >= 12 {
		size := binary.LittleEndian.Uint32(b[4:])
		if size < 12 || size > maxBlock {
			return n, fmt.Errorf("count the stream: a block of %d octets", size)
		}
		if uint32(len(b)) < size {
			break
		}
		t.block(b[:size])
		b = b[size:]
	}
	t.part = append(t.part[:0], b...)
	return n, nil
}

func (t *tally) block(b []byte) {
	switch binary.LittleEndian.Uint32(b) {
	case pcap.BlockPacket:
		t.packets++
	case pcap.BlockSection, pcap.BlockInterface:
		if len(t.head)+len(b) <= maxBlock {
			t.head = append(t.head, b...)
		}
	case pcap.BlockStatistics:
		r, err := pcap.NewReader(io.MultiReader(bytes.NewReader(t.head), bytes.NewReader(b)))
		if err != nil {
			return
		}
		var p pcap.Packet
		for {
			if err := r.Next(&p); err != nil {
				if !errors.Is(err, io.EOF) {
					return
				}
				break
			}
		}
		for _, s := range r.Stats() {
			if a, ok := s.Account(); ok {
				if t.accounts == nil {
					t.accounts = make(map[int]ledger.Account)
				}
				t.accounts[s.Interface] = a
			}
		}
	}
}

// account adds up what the last statistics said.
func (t *tally) account() (sum ledger.Account) {
	for _, a := range t.accounts {
		sum.Add(&a)
	}
	return sum
}
