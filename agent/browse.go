package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"opentap/capture/index"
	"opentap/capture/query"
	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/packet/detail"
	"opentap/pcap"
	"opentap/want"
)

const (
	// browsedMax is how many plans are kept for those who look at captures; each can hold tens of megabytes.
	browsedMax = 4
	// browsedFresh is how long a plan of a capture that goes on is taken for new enough.
	browsedFresh = 2 * time.Second
	// rowsMax bounds one answer.
	rowsMax = 500
	// stepsMax bounds a timeline.
	stepsMax = 4000
)

// browsed are the plans that somebody has looked at last: finding out where packets are is done once and not for each screen
// that somebody scrolls by.
type browsed struct {
	mu    sync.Mutex
	plans []*browsedPlan // the last used one last
}

type browsedPlan struct {
	uid, filter string
	strict      bool
	made        time.Time
	final       bool
	plan        *query.Plan
	sources     []query.Source
}

// browse returns a plan of what a capture holds, of which the filter takes a part.
func (a *Agent) browse(uid, expr string, strict bool) (*browsedPlan, error) {
	j, st, err := a.readableJob(uid)
	if err != nil {
		return nil, err
	}
	b := &a.browsed
	b.mu.Lock()
	defer b.mu.Unlock()
	final := st.State.Final()
	for i, p := range b.plans {
		if p.uid != uid || p.filter != expr || p.strict != strict {
			continue
		}
		b.plans = append(b.plans[:i:i], b.plans[i+1:]...)
		if p.final || !final && time.Since(p.made) < browsedFresh {
			b.plans = append(b.plans, p)
			return p, nil
		}
		break
	}
	p := &browsedPlan{uid: uid, filter: expr, strict: strict, made: time.Now(), final: final}
	var window query.Window
	switch t := j.taker.(type) {
	case *packets:
		p.sources, err = t.sources(final)
	case *recorded:
		var e extent
		var plan *recordedPlan
		if e, err = t.extent(st.Ended); err == nil {
			plan, err = t.plan(want.PcapNG, e, nil)
		}
		if err == nil {
			p.sources, window = plan.sources, plan.window
		}
	default:
		err = fault.New(fault.Unsupported, "a capture of kind %s holds no packets", j.get().Kind)
	}
	if err != nil {
		return nil, gone(err)
	}
	if err := narrow(&window, p.sources, expr, strict); err != nil {
		return nil, err
	}
	if p.plan, err = query.New(p.sources, window, query.PcapNG, query.Meta{}); err != nil {
		return nil, gone(err)
	}
	if b.plans = append(b.plans, p); len(b.plans) > browsedMax {
		b.plans = b.plans[1:]
	}
	return p, nil
}

// forgetBrowsed gives up plans of a capture whose data goes.
func (a *Agent) forgetBrowsed(uid string) {
	b := &a.browsed
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plans = slices.DeleteFunc(b.plans, func(p *browsedPlan) bool { return p.uid == uid })
}

// narrow has the window take only what the filter takes as well.
func narrow(w *query.Window, sources []query.Source, expr string, strict bool) error {
	if strings.TrimSpace(expr) == "" || len(sources) == 0 {
		return nil
	}
	link := sources[0].Interface.Link
	for _, s := range sources {
		if s.Interface.Link != link {
			return fault.New(fault.Unsupported, "one filter over %s and %s, whose link types differ, is not supported", sources[0].Name, s.Name)
		}
	}
	e, err := filter.Parse(expr)
	if err != nil {
		return fault.Field("filter", "%v", err)
	}
	m, err := cbpf.NewMatcher(e, cbpf.Options{Link: link, Strict: strict, Target: cbpf.File})
	if err != nil {
		return fault.Field("filter", "%v", err)
	}
	if before := w.Match; before != nil {
		w.Match = func(data []byte, n uint32) bool { return before(data, n) && m.Match(data, n) }
	} else {
		w.Match, w.Need = m.Match, index.Necessary(e, link, strict)
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &fault.Error{Kind: fault.NotFound, Msg: "the capture's data is not there (any more)", Err: err}
	}
	return err
}

// sources are the recordings of a capture's points, as far as they can be read now.
func (p *packets) sources(final bool) ([]query.Source, error) {
	upto, err := p.readable(final)
	if err != nil {
		return nil, err
	}
	out := make([]query.Source, len(p.streams))
	for i, s := range p.streams {
		face, err := interfaceAt(s.dir, upto[i], 0)
		if err != nil {
			return nil, err
		}
		out[i] = query.Source{Name: s.point, Interface: face, Dir: s.dir, Upto: upto[i]}
	}
	return out, nil
}

// row puts a packet in one line.
func (p *browsedPlan) row(number uint64, pk *pcap.Packet) want.PacketRow {
	src := p.sources[pk.Interface]
	_, s := detail.Decode(src.Interface.Link, pk.Data, pk.OrigLen)
	return want.PacketRow{
		Number: number, Time: pk.Time.Time(), Point: src.Name, Src: s.Src, Dst: s.Dst, Protocol: s.Protocol, Length: pk.OrigLen, Info: s.Info,
	}
}

func (a *Agent) showPackets(ctx context.Context, uid string, l want.PacketsLook, w io.Writer) error {
	p, err := a.browse(uid, l.Filter, l.Strict)
	if err != nil {
		return err
	}
	out := want.PacketRows{From: l.From, Final: p.final, Packets: []want.PacketRow{}}
	if out.Total, err = p.plan.Count(ctx); err != nil {
		return err
	}
	if !l.At.IsZero() {
		if out.From, err = p.plan.NumberAt(ctx, packet.TimestampOf(l.At)); err != nil {
			return err
		}
	}
	stamp := func(number uint64, to *time.Time) error {
		return p.plan.Rows(ctx, number, 1, func(_ uint64, pk *pcap.Packet) error { *to = pk.Time.Time(); return nil })
	}
	if out.Total > 0 {
		if err := errors.Join(stamp(0, &out.First), stamp(out.Total-1, &out.Last)); err != nil {
			return err
		}
	}
	err = p.plan.Rows(ctx, out.From, min(l.Limit, rowsMax), func(number uint64, pk *pcap.Packet) error {
		out.Packets = append(out.Packets, p.row(number, pk))
		return nil
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(&out)
}

func (a *Agent) showPacket(ctx context.Context, uid string, l want.PacketLook, w io.Writer) error {
	p, err := a.browse(uid, l.Filter, l.Strict)
	if err != nil {
		return err
	}
	var out *want.PacketDetail
	err = p.plan.Rows(ctx, l.Number, 1, func(number uint64, pk *pcap.Packet) error {
		link := p.sources[pk.Interface].Interface.Link
		fields, _ := detail.Decode(link, pk.Data, pk.OrigLen)
		out = &want.PacketDetail{
			PacketRow: p.row(number, pk), Captured: len(pk.Data), Link: uint16(link), Layers: fieldsOf(fields), Data: append([]byte{}, pk.Data...),
			Flow: flowFilterOf(link, pk),
		}
		return nil
	})
	if err != nil {
		return err
	}
	if out == nil {
		return fault.New(fault.NotFound, "the capture has no packet %d", l.Number)
	}
	return json.NewEncoder(w).Encode(out)
}

func fieldsOf(list []detail.Field) []want.Field {
	out := make([]want.Field, len(list))
	for i, f := range list {
		out[i] = want.Field{Name: f.Name, Value: f.Value, Offset: f.Offset, Length: f.Length}
		if len(f.Fields) > 0 {
			out[i].Fields = fieldsOf(f.Fields)
		}
	}
	return out
}

// flowFilterOf makes filters of a packet's outermost addresses and ports.
func flowFilterOf(link packet.LinkType, pk *pcap.Packet) *want.FlowFilter {
	var x packet.Parsed
	x.Decode(link, pk.Data, pk.OrigLen)
	if !x.IsIP() {
		return nil
	}
	hosts := fmt.Sprintf("host %s and host %s", x.SrcAddr(), x.DstAddr())
	f := &want.FlowFilter{Hosts: hosts, Conversation: hosts}
	if x.Layers&packet.LayerTransport != 0 && (x.Proto == packet.ProtoTCP || x.Proto == packet.ProtoUDP) {
		f.Conversation = fmt.Sprintf("%s and %s port %d and port %d", hosts, strings.ToLower(packet.ProtoName(x.Proto)), x.SrcPort, x.DstPort)
	}
	return f
}

func (a *Agent) showTimeline(ctx context.Context, uid string, l want.TimelineLook, w io.Writer) error {
	p, err := a.browse(uid, l.Filter, l.Strict)
	if err != nil {
		return err
	}
	total, err := p.plan.Count(ctx)
	if err != nil {
		return err
	}
	out := want.Timeline{Packets: []uint64{}, Octets: []uint64{}}
	from, to := packet.Timestamp(0), packet.Timestamp(0)
	if total > 0 {
		edge := func(number uint64, to *packet.Timestamp) error {
			return p.plan.Rows(ctx, number, 1, func(_ uint64, pk *pcap.Packet) error { *to = pk.Time; return nil })
		}
		if err := errors.Join(edge(0, &from), edge(total-1, &to)); err != nil {
			return err
		}
		to++
	}
	if !l.From.IsZero() {
		from = packet.TimestampOf(l.From)
	}
	if !l.To.IsZero() {
		to = packet.TimestampOf(l.To)
	}
	if total > 0 && to > from {
		steps := packet.Timestamp(max(1, min(l.Steps, stepsMax)))
		step := (to - from + steps - 1) / steps
		n := int((to - from + step - 1) / step)
		out.Packets, out.Octets, out.Step = make([]uint64, n), make([]uint64, n), want.Duration(step)
		first, err := p.plan.NumberAt(ctx, from)
		if err != nil {
			return err
		}
		enough := errors.New("enough")
		err = p.plan.Rows(ctx, first, int(total-first), func(number uint64, pk *pcap.Packet) error {
			if number%4096 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if pk.Time >= to.Add(10*time.Second) { // stored order is that of time but for a little
				return enough
			}
			if pk.Time >= from && pk.Time < to {
				i := int((pk.Time - from) / step)
				out.Packets[i]++
				out.Octets[i] += uint64(pk.OrigLen)
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			return err
		}
	}
	out.From = from.Time()
	return json.NewEncoder(w).Encode(&out)
}
