package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/pcap"
	"opentap/want"
)

// positions spells how far each recording of a capture is read, for an ETag.
func positions(list []segment.Position) string {
	parts := make([]string, len(list))
	for i, p := range list {
		parts[i] = fmt.Sprintf("%d.%d.%d", p.Segment, p.Chunk, p.Offset)
	}
	return strings.Join(parts, "_")
}

func parsePositions(s string, n int) ([]segment.Position, bool) {
	parts := strings.Split(s, "_")
	if len(parts) != n {
		return nil, false
	}
	out := make([]segment.Position, n)
	for i, part := range parts {
		if _, err := fmt.Sscanf(part, "%d.%d.%d", &out[i].Segment, &out[i].Chunk, &out[i].Offset); err != nil {
			return nil, false
		}
	}
	return out, positions(out) == s
}

// readable says how far each point's recording can be read now, once everything captured until now is in it.
func (p *packets) readable(final bool) ([]segment.Position, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]segment.Position, len(p.streams))
	for i, s := range p.streams {
		if s.w != nil && !final {
			if err := s.w.Flush(); err != nil && !errors.Is(err, segment.ErrClosed) {
				return nil, fmt.Errorf("write out what was captured: %w", err)
			}
			out[i] = s.w.Durable()
			continue
		}
		rec, err := segment.Open(s.dir)
		if err != nil {
			return nil, err
		}
		out[i] = rec.Position()
		if err := rec.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *packets) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	spec := p.j.get()
	prefix := fmt.Sprintf("%s-%s-", p.j.uid[:12], o.Format)
	now, err := p.readable(st.State.Final())
	if err != nil {
		return nil, err
	}
	upto, whole := now, st.State.Final()
	if rest, ok := strings.CutPrefix(o.ETag, prefix); ok {
		rest, ended := strings.CutSuffix(rest, endMark)
		if then, ok := parsePositions(rest, len(now)); ok && !anyAfter(then, now) && (whole || !ended) {
			upto, whole = then, ended
		}
	}
	sources := make([]query.Source, len(p.streams))
	for i, s := range p.streams {
		rec, err := segment.OpenUpto(s.dir, upto[i])
		if err != nil {
			return nil, err
		}
		face, err := interfaceOf(rec)
		acc := st.Ledger
		if !whole || len(p.streams) > 1 {
			acc = accountUpto(rec, whole)
		}
		if err := errors.Join(err, rec.Close()); err != nil {
			return nil, err
		}
		sources[i] = query.Source{Name: s.point, Interface: face, Dir: s.dir, Upto: upto[i], Account: &acc}
	}
	meta := query.Meta{Section: pcap.Section{Application: "opentap " + p.j.a.cfg.Version, Hardware: p.j.a.cfg.NodeName,
		Comment: fmt.Sprintf("capture %q (%s) of %s on node %s", spec.ID, spec.UID, strings.Join(spec.Query.Points, ", "), p.j.a.cfg.NodeName)}}
	plan, err := query.New(sources, query.Window{}, formatOf(o.Format), meta)
	if err != nil {
		return nil, err
	}
	tag := prefix + positions(upto)
	if whole {
		tag += endMark
	}
	return planned(ctx, plan, p.j, st, o.Format, tag)
}

// endMark ends the ETag of a capture that has ended: the last account may have grown since the last packet was stored, and
// the same ETag always stands for the same octets.
const endMark = "e"

// accountUpto is the account of a recording as it is opened. Unless it is the whole of it, what was counted behind the last
// packet does not belong to it.
func accountUpto(rec *segment.Recording, whole bool) ledger.Account {
	acc := rec.Account()
	if !whole {
		acc = ledger.Account{}
		for h, err := range rec.Chunks(0, 0) {
			if err == nil { // damage is the plan's to report
				acc = h.Account
			}
		}
	}
	return storedOnly(acc, rec)
}

func anyAfter(a, b []segment.Position) bool {
	for i := range a {
		if b[i].Before(a[i]) {
			return true
		}
	}
	return false
}

func formatOf(f want.Format) query.Format {
	if f == want.Pcap {
		return query.Pcap
	}
	return query.PcapNG
}

// planned makes the answer to an open from a plan.
func planned(ctx context.Context, plan *query.Plan, j *job, st want.Status, f want.Format, etag string) (*want.Retrieval, error) {
	size, err := plan.Size(ctx)
	if err != nil {
		return nil, err
	}
	r := plan.Result()
	ret := &want.Retrieval{Format: f, FileName: fileName(j, f), Size: size, ETag: strings.Trim(etag, "-"), Modified: st.Updated,
		Final: st.State.Final(), Records: r.Packets, Ledger: st.Ledger,
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			return plan.WriteTo(ctx, w, offset, length)
		},
		Close: func() error { return nil }}
	if !ret.Final { // what the snapshot holds, not what has come since
		ret.Ledger = ledgerOf(plan)
	}
	return ret, nil
}

// ledgerOf adds up the accounts of a plan's sources.
func ledgerOf(plan *query.Plan) (total ledger.Account) {
	for _, s := range plan.Result().Sources {
		total.Add(&s.Account)
	}
	return total
}

// interfaceOf reads back how a recording describes its point.
func interfaceOf(rec *segment.Recording) (pcap.Interface, error) {
	if len(rec.Segments()) == 0 {
		return pcap.Interface{}, notYet()
	}
	f, err := os.Open(rec.Segments()[0].Path)
	if err != nil {
		return pcap.Interface{}, err
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		return pcap.Interface{}, err
	}
	var p pcap.Packet
	for len(r.Interfaces()) == 0 {
		if err := r.Next(&p); err != nil && len(r.Interfaces()) == 0 { // a recording without packets ends behind its interface
			return pcap.Interface{}, fmt.Errorf("read the interface of %s: %w", f.Name(), err)
		}
	}
	return r.Interfaces()[0], nil
}
