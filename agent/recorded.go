package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/capture/index"
	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/flow"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// recorded is the taker of a capture that is answered from recordings: nothing is copied, what it needs is pinned.
type recorded struct {
	j      *job
	ended  chan struct{}
	once   sync.Once
	left   string // what the recordings left out of the window
	search *want.Search
	enough bool // its limits were reached

	progress *progress // from begin on
}

func newRecorded(j *job) *recorded {
	r := &recorded{j: j, ended: make(chan struct{})}
	from := j.spec.Query.From
	r.each(func(rec *recording) { rec.pin(j.uid, from) })
	return r
}

// each visits the recordings of the capture's points; false: one is not there.
func (r *recorded) each(fn func(*recording)) bool {
	ok := true
	for _, name := range r.j.get().Query.Points {
		if rec := r.j.a.recorder(name); rec != nil {
			fn(rec)
		} else {
			ok = false
		}
	}
	return ok
}

// forget gives up what the capture needed.
func (r *recorded) forget() { r.each(func(rec *recording) { rec.unpin(r.j.uid) }) }

func (r *recorded) begin(*memo, bool) error {
	if !r.each(func(*recording) {}) {
		return errors.New("a point of this capture is no longer recorded")
	}
	if !r.expire() {
		r.follow()
	}
	return nil
}

// expire ends the capture if its window has passed.
func (r *recorded) expire() bool {
	to := r.j.get().Query.To
	over := !to.IsZero() && time.Since(to) >= recordedSettle
	if over {
		r.once.Do(func() { close(r.ended) })
	}
	return over
}

func (r *recorded) done() <-chan struct{} { return r.ended }

// gapsInFile is how many gaps the comment of a file tells at most.
const gapsInFile = 100

// recordedSettle is how long after a moment its packets may still be in a ring.
const recordedSettle = 500 * time.Millisecond

func (r *recorded) stop(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(recordedSettle):
	}
	r.once.Do(func() { close(r.ended) })
}

// look tells what the window holds so far, and ends the capture when it has passed or holds all that was asked for.
func (r *recorded) look(m *memo) {
	r.bounds(&m.Status)
	if r.expire() {
		return
	}
	r.fare(&m.Status)
	if r.progress == nil {
		return
	}
	sum, enough := r.progress.read()
	if sum != nil {
		m.Status.Ledger = *sum
	}
	if r.enough = enough; enough {
		r.once.Do(func() { close(r.ended) })
	}
}

// end counts what the window holds.
func (r *recorded) end(m *memo) (want.State, string) {
	if r.progress != nil {
		r.progress.stop()
	}
	r.bounds(&m.Status)
	gaps := told(m.Status.Gaps)
	acc, found, err := r.account(context.Background(), gaps)
	if err != nil {
		return want.Failed, err.Error()
	}
	if found != nil { // it is what whoever asks for the data will want
		r.j.a.shelf.put(found)
	}
	m.Status.Ledger, m.Status.Search = acc, r.search
	e, err := r.extent(m.Status.Ended)
	if err != nil {
		return want.Done, ""
	}
	if r.left, err = r.terms(e); err != nil {
		r.left = "what the recorder left out is not known: " + err.Error()
	}
	if r.enough {
		return want.Done, recordedEnough
	}
	return want.Done, ""
}

// kept says what the recordings kept of the window; "" = everything. It is known after end.
func (r *recorded) kept() string { return r.left }

// account is what the window holds now: losses are those of the recordings meanwhile, and what the filter leaves out is
// what is in the window and not in the answer. Octets are those that were recorded. found is the plan that was made for it,
// whose comment tells the gaps; nil where it is not what the data will be made of.
func (r *recorded) account(ctx context.Context, gaps []want.Gap) (a ledger.Account, found *shelved, err error) {
	e, err := r.extent(time.Time{})
	if err != nil {
		return a, nil, err
	}
	plan, err := r.plan(want.PcapNG, e, gaps)
	if err != nil {
		return a, nil, err
	}
	if _, err := plan.p.Size(ctx); err != nil {
		return a, nil, err
	}
	if c := r.j.get(); !c.End().IsZero() && c.Kind == want.Packets {
		found = &shelved{r.j.uid, r.prefix(want.PcapNG, gaps) + e.String(), want.PcapNG, gaps, plan}
	}
	res := plan.p.Result()
	search := want.Search(res.Explain)
	r.search = &search
	lost := ledgerOf(plan.p)
	a = lost
	a.Captured, a.Octets, a.StoredOctets = res.Packets, res.Octets, res.Octets
	switch q := r.j.get().Query; {
	case q.Filter == "":
	case q.Limits != (filter.Limits{}):
		a.FilterUncounted = true // where in the window the limit was reached is not known
	default:
		window := plan.window
		window.Match, window.Need = nil, nil
		all, err := query.New(plan.sources, window, query.PcapNG, query.Meta{})
		if err != nil {
			return a, nil, err
		}
		if _, err := all.Size(ctx); err != nil {
			return a, nil, err
		}
		if n := all.Result().Packets; n > a.Captured {
			a.Filtered += n - a.Captured
		}
	}
	a.Balance()
	return a, found, nil
}

// extent is how far the recordings of a capture are read: up to positions, and up to a time. Together with the capture it
// settles every octet of the answer.
type extent struct {
	upto []segment.Position
	to   packet.Timestamp // exclusive; 0 = none
}

func (e extent) String() string { return positions(e.upto) + "-" + strconv.FormatInt(int64(e.to), 10) }

func parseExtent(s string, n int) (e extent, ok bool) {
	upto, to, ok := strings.Cut(s, "-")
	if !ok {
		return e, false
	}
	if e.upto, ok = parsePositions(upto, n); !ok {
		return e, false
	}
	t, err := strconv.ParseInt(to, 10, 64)
	e.to = packet.Timestamp(t)
	return e, err == nil && t >= 0 && e.String() == s
}

// extent is all there is now; ended is when the capture did, zero if it has not.
func (r *recorded) extent(ended time.Time) (e extent, err error) {
	c := r.j.get()
	if to := c.End(); !to.IsZero() {
		e.to = packet.TimestampOf(to)
	} else if !ended.IsZero() {
		e.to = packet.TimestampOf(ended)
	}
	for _, name := range c.Query.Points {
		rec := r.j.a.recorder(name)
		if rec == nil {
			return e, fault.New(fault.NotFound, "%s is no longer recorded", name)
		}
		if err := rec.flush(); err != nil {
			return e, err
		}
		read, err := segment.Open(rec.dir)
		if err != nil {
			return e, err
		}
		e.upto = append(e.upto, read.Position())
		if err := read.Close(); err != nil {
			return e, err
		}
	}
	return e, nil
}

// recordedPlan is a plan and what it was made of.
type recordedPlan struct {
	p       *query.Plan
	sources []query.Source
	window  query.Window
}

// sources are the recordings as far as e says, and what of them is asked for.
func (r *recorded) sources(e extent) (*recordedPlan, error) {
	q := r.j.get().Query
	out := &recordedPlan{window: query.Window{From: packet.TimestampOf(q.From), To: e.to, MaxPackets: q.Limits.Packets, MaxOctets: q.Limits.Octets, Snap: q.Snap}}
	for i, name := range q.Points {
		rec := r.j.a.recorder(name)
		if rec == nil {
			return nil, fault.New(fault.NotFound, "%s is no longer recorded", name)
		}
		face, err := interfaceAt(rec.dir, e.upto[i], out.window.From)
		if err != nil {
			return nil, err
		}
		out.sources = append(out.sources, query.Source{Name: name, Dir: rec.dir, Upto: e.upto[i], Interface: face})
	}
	if q.Filter != "" {
		link := out.sources[0].Interface.Link
		for _, s := range out.sources {
			if s.Interface.Link != link {
				return nil, fault.New(fault.Unsupported, "one filter over recordings of %s and %s, whose link types differ, is not supported", out.sources[0].Name, s.Name)
			}
		}
		expr, err := filter.Parse(q.Filter)
		if err != nil {
			return nil, err
		}
		m, err := cbpf.NewMatcher(expr, cbpf.Options{Link: link, Strict: q.Strict, Target: cbpf.File})
		if err != nil {
			return nil, err
		}
		out.window.Match, out.window.Need = m.Match, index.Necessary(expr, link, q.Strict)
	}
	return out, nil
}

// plan reads the recordings as far as e says. gaps are told in the answer: with e they settle every octet of it.
func (r *recorded) plan(f want.Format, e extent, gaps []want.Gap) (*recordedPlan, error) {
	spec := r.j.get()
	out, err := r.sources(e)
	if err != nil {
		return nil, err
	}
	comment := fmt.Sprintf("capture %q (%s) from recordings on node %s", spec.ID, spec.UID, r.j.a.cfg.NodeName)
	terms, err := r.terms(e)
	if err != nil {
		return nil, err
	}
	if terms != "" {
		comment += "; " + terms
	}
	for _, g := range gaps {
		comment += fmt.Sprintf("; nothing was seen from %s to %s: %s", g.From.Format(time.RFC3339Nano), g.To.Format(time.RFC3339Nano), g.Reason)
	}
	meta := query.Meta{Section: pcap.Section{
		Application: "opentap " + r.j.a.cfg.Version, Hardware: r.j.a.cfg.NodeName, Comment: comment,
	}}
	out.p, err = query.New(out.sources, out.window, formatOf(f), meta)
	return out, err
}

// told are the gaps that a file tells.
func told(gaps []want.Gap) []want.Gap { return gaps[:min(len(gaps), gapsInFile)] }

// prefix begins the ETags of what is given out in a format.
func (r *recorded) prefix(f want.Format, gaps []want.Gap) string {
	prefix := fmt.Sprintf("%s-%s-", r.j.uid[:12], f)
	if len(gaps) > 0 {
		prefix += "g"
	}
	return prefix
}

func (r *recorded) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	var gaps []want.Gap
	if st.State.Final() { // while it lasts they change, and the view tells them
		gaps = told(st.Gaps)
		if x := r.j.a.shelf.find(r.j.uid, o.ETag, o.Format, gaps); x != nil && r.each(func(*recording) {}) {
			return planned(ctx, x.plan.p, r.j, st, o.Format, x.etag)
		}
	}
	prefix := r.prefix(o.Format, gaps)
	e, again := extent{}, false
	if rest, ok := strings.CutPrefix(o.ETag, prefix); ok {
		if e, again = parseExtent(rest, len(r.j.get().Query.Points)); again {
			again = r.each(func(*recording) {})
		}
		for i, name := range r.j.get().Query.Points {
			rec := r.j.a.recorder(name)
			again = again && rec != nil && stillThere(rec.dir, e.upto[i])
		}
	}
	if !again {
		var err error
		if e, err = r.extent(st.Ended); err != nil {
			return nil, err
		}
	}
	plan, err := r.plan(o.Format, e, gaps)
	if err != nil {
		return nil, err
	}
	if r.j.get().Kind == want.Flows {
		return r.meter(ctx, plan, st, o.Format, prefix+e.String())
	}
	ret, err := planned(ctx, plan.p, r.j, st, o.Format, prefix+e.String())
	if err == nil && ret.Final {
		r.j.a.shelf.put(&shelved{r.j.uid, ret.ETag, o.Format, gaps, plan})
	}
	return ret, err
}

// meter turns recorded packets into flow records: the same packets give the same records, always, so they are metered anew
// for each reading instead of being kept.
func (r *recorded) meter(ctx context.Context, plan *recordedPlan, st want.Status, f want.Format, etag string) (*want.Retrieval, error) {
	each := func(ctx context.Context, fn func(*flow.Record) error) error {
		var failed error
		table, err := flow.New(r.j.a.cfg.Flow, func(rec *flow.Record) {
			if failed == nil {
				failed = fn(rec)
			}
		})
		if err != nil {
			return err
		}
		var parsed packet.Parsed
		err = plan.p.Each(ctx, func(p *pcap.Packet) error {
			parsed.Decode(plan.sources[p.Interface].Interface.Link, p.Data, p.OrigLen)
			parsed.Time = p.Time
			table.Add(&parsed)
			return failed
		})
		if err != nil {
			return err
		}
		table.Flush(flow.EndForced)
		return failed
	}
	snap := &rowSnapshot[flow.Record]{each: each, form: flowForm, etag: etag, release: func() error { return nil }}
	return snap.retrieval(ctx, r.j, st, f)
}
