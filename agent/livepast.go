package agent

import (
	"context"
	"time"

	"opentap/capture"
	"opentap/capture/query"
	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/pcap"
)

const (
	// livePiece is how much of the past is written at a time, octets.
	livePiece = 256 << 10
	// livePatience is how long recordings may lag behind before the past is joined to the present all the same.
	livePatience = 5 * time.Second
	// liveCatchUp bounds how often what was recorded while the past was written is written too, before packets are taken
	// live. The rest of it must fit into the buffers.
	liveCatchUp = 16
)

// history writes what the points' recordings hold of the past, and returns the time from which on packets are to be
// taken live. What was recorded before that time and is not written yet is join's.
func (r *liveReader) history(ctx context.Context, end <-chan struct{}, now time.Time) (packet.Timestamp, error) {
	r.upto = packet.TimestampOf(now.Add(-time.Duration(r.spec.Past)))
	for _, p := range r.points {
		p.began = r.upto
		if r.a.recorder(p.name()) == nil {
			return 0, fault.Field("past", "nothing is recorded at %s, so that its past cannot be had", p.name())
		}
	}
	for range liveCatchUp {
		began := time.Now()
		if err := r.recorded(ctx, r.reached()); err != nil {
			return 0, err
		}
		if r.enough() || time.Since(began) < capture.Lead {
			break
		}
		select {
		case <-end:
			return packet.TimestampOf(time.Now()), nil // run sees it too
		default:
		}
	}
	return packet.TimestampOf(time.Now().Add(capture.Lead)), nil
}

// join writes what was recorded between the end of history and from, while what comes after it gathers in the buffers.
func (r *liveReader) join(ctx context.Context, from packet.Timestamp) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for until := from.Time().Add(livePatience); r.reached() < from && time.Now().Before(until); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return r.recorded(ctx, from)
}

// reached is the time up to which all recordings have what there was.
func (r *liveReader) reached() packet.Timestamp {
	least := packet.TimestampOf(time.Now())
	for _, p := range r.points {
		rec := r.a.recorder(p.name())
		if rec == nil {
			continue // recorded says so
		}
		rec.mu.Lock()
		s := rec.s
		rec.mu.Unlock()
		if s != nil { // otherwise nothing is recorded now, and nothing can be waited for
			least = min(least, s.reached())
		}
	}
	return max(least.Add(-capture.Lead), r.upto) // without packets the ring's clock is all there is, and a busy host's is late
}

// recorded writes what was recorded from r.upto until to, in the order of time.
func (r *liveReader) recorded(ctx context.Context, to packet.Timestamp) error {
	var sources []query.Source
	match := make([]*cbpf.Matcher, len(r.points))
	var expr *filter.Expr
	if r.spec.Filter != "" {
		var err error
		if expr, err = filter.Parse(r.spec.Filter); err != nil {
			return err
		}
	}
	for i, p := range r.points {
		rec := r.a.recorder(p.name())
		if rec == nil {
			return fault.New(fault.NotFound, "%s is no longer recorded", p.name())
		}
		if err := rec.flush(); err != nil {
			return err
		}
		sources = append(sources, query.Source{Name: p.name(), Interface: p.face, Dir: rec.dir})
		if expr != nil {
			var err error
			if match[i], err = cbpf.NewMatcher(expr, cbpf.Options{Link: p.face.Link, Strict: r.spec.Strict, Target: cbpf.File}); err != nil {
				return err
			}
		}
	}
	// The filter is applied here, so that what it leaves out is counted.
	plan, err := query.New(sources, query.Window{From: r.upto, To: to}, query.PcapNG, query.Meta{})
	if err != nil {
		return err
	}
	var out []byte
	err = plan.Each(ctx, func(k *pcap.Packet) error {
		p := r.points[k.Interface]
		p.past.Seen++
		if m := match[k.Interface]; m != nil && !m.Match(k.Data, k.OrigLen) {
			p.past.Filtered++
			return nil
		}
		data := k.Data
		if snap := r.spec.Snap; snap > 0 && len(data) > snap {
			data = data[:snap]
		}
		if r.limit.take(len(data)) == capture.Full {
			p.past.Seen--
			return errEnough
		}
		p.past.Captured++
		p.past.Octets += uint64(k.OrigLen)
		p.past.StoredOctets += uint64(len(data))
		out = pcap.AppendPacket(out, p.iface, k.Time, k.OrigLen, data, k.Direction)
		if len(out) < livePiece {
			return nil
		}
		_, err := r.w.Write(out)
		out = out[:0]
		return err
	})
	if err != nil && err != errEnough {
		return err
	}
	r.upto = to
	if len(out) > 0 {
		_, err = r.w.Write(out)
		return err
	}
	return nil
}
