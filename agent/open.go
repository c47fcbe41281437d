package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
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
	upto, whole, ok := p.again(strings.CutPrefix(o.ETag, prefix))
	if !ok {
		var err error
		whole = st.State.Final()
		if upto, err = p.readable(whole); err != nil {
			return nil, err
		}
	}
	etag := prefix + positions(upto)
	if whole {
		etag += wholeMark
	}
	sources := make([]query.Source, len(p.streams))
	for i, s := range p.streams {
		face, err := interfaceAt(s.dir, upto[i], 0)
		if err != nil {
			return nil, err
		}
		sources[i] = query.Source{Name: s.point, Interface: face, Dir: s.dir, Upto: upto[i]}
		if whole && len(p.streams) == 1 {
			sources[i].Account = &st.Ledger // the last word, with what came behind the last packet
		}
	}
	meta := query.Meta{Section: pcap.Section{
		Application: "opentap " + p.j.a.cfg.Version, Hardware: p.j.a.cfg.NodeName,
		Comment: fmt.Sprintf("capture %q (%s) of %s on node %s", spec.ID, spec.UID, strings.Join(spec.Query.Points, ", "), p.j.a.cfg.NodeName),
	}}
	plan, err := query.New(sources, query.Window{}, formatOf(o.Format), meta)
	if err != nil {
		return nil, err
	}
	return planned(ctx, plan, p.j, st, o.Format, etag)
}

// wholeMark ends the ETag of a capture that has ended: what states its accounts is of other octets than before.
const wholeMark = "-f"

// again reads the ETag of an earlier answer, without its prefix. ok is false when that answer can no longer be had.
func (p *packets) again(tag string, ours bool) (upto []segment.Position, whole, ok bool) {
	if !ours {
		return nil, false, false
	}
	tag, whole = strings.CutSuffix(tag, wholeMark)
	upto, ok = parsePositions(tag, len(p.streams))
	for i, s := range p.streams {
		ok = ok && stillThere(s.dir, upto[i])
	}
	return upto, whole, ok
}

// stillThere reports whether a recording can be read up to a position as it could before: a power cut may have taken some.
func stillThere(dir string, upto segment.Position) bool {
	rec, err := segment.OpenUpto(dir, upto)
	if err != nil {
		return false
	}
	defer rec.Close()
	return rec.Position() == upto
}

// interfaceAt reads back how a recording describes its point where its packets are of from or later.
func interfaceAt(dir string, upto segment.Position, from packet.Timestamp) (pcap.Interface, error) {
	rec, err := segment.OpenUpto(dir, upto)
	if err != nil {
		return pcap.Interface{}, err
	}
	face, err := interfaceOf(rec, from)
	return face, errors.Join(err, rec.Close())
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
	ret := &want.Retrieval{
		Format: f, FileName: fileName(j, f), Size: size, ETag: etag, Modified: st.Updated,
		Final: st.State.Final(), Records: r.Packets, Ledger: st.Ledger,
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			return plan.WriteTo(ctx, w, offset, length)
		},
		Close: func() error { return nil },
	}
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

// interfaceOf reads the description from the first segment with packets of from or later, or else the last segment.
func interfaceOf(rec *segment.Recording, from packet.Timestamp) (pcap.Interface, error) {
	n := uint32(0)
	for _, info := range rec.Segments() {
		if n = info.Number; info.Packets > 0 && info.Latest >= from {
			break
		}
	}
	if n == 0 {
		return pcap.Interface{}, notYet()
	}
	return rec.InterfaceOf(n)
}
