package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"opentap/capture/query"
	"opentap/capture/segment"
	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/flow"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// Recorder keeps the newest packets of a point at all times, so that captures can reach into the past.
type Recorder struct {
	Point  string
	Filter string
	Snap   int           // octets kept of each packet; 0 = all
	Bytes  int64         // the oldest segments go when it holds more
	Age    time.Duration // and when they are older; 0 = any age
}

// recordingsDir is where recordings live, beside the captures. It is no UID.
const recordingsDir = "recordings"

// recording is a Recorder at work.
type recording struct {
	a   *Agent
	cfg Recorder
	dir string

	mu    sync.Mutex
	s     *stream // nil while it is not recording
	p     packets // the stream's, for its failure channel
	began time.Time
	pins  map[string]time.Time // by UID: captures that need what is newer
}

func newRecording(a *Agent, cfg Recorder) *recording {
	return &recording{a: a, cfg: cfg, dir: filepath.Join(a.cfg.CaptureDir, recordingsDir, url.PathEscape(cfg.Point)), pins: make(map[string]time.Time)}
}

// run records until ctx ends. A recording that fails is tried again.
func (r *recording) run(ctx context.Context) {
	what := "recorder " + r.cfg.Point
	for ctx.Err() == nil {
		err := r.record(ctx)
		if ctx.Err() != nil {
			return
		}
		r.a.log.Error("recording stopped; it is tried again", "point", r.cfg.Point, "err", err)
		r.a.trouble(what, fmt.Sprintf("the recording of %s stopped: %v", r.cfg.Point, err))
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			r.a.trouble(what, "")
		}
	}
}

func (r *recording) record(ctx context.Context) error {
	q := filter.Query{Points: []string{r.cfg.Point}, Filter: r.cfg.Filter, Snap: r.cfg.Snap}
	_, err := os.Stat(r.dir)
	r.p.fail = make(chan struct{})
	r.p.once = sync.Once{}
	s := &stream{point: r.cfg.Point, dir: r.dir, limit: &r.p.limit, p: &r.p}
	if err := s.open(r.a, q, err == nil); err != nil {
		return err
	}
	began := time.Now().UTC()
	if rec, err := segment.Open(r.dir); err == nil {
		for _, info := range rec.Segments() {
			if info.Packets > 0 {
				began = info.Earliest.Time()
				break
			}
		}
		_ = rec.Close() // read only
	}
	s.att, err = r.a.engine.Attach(engineSpec(r.cfg.Point, q), s)
	if err != nil {
		return errors.Join(err, s.w.Close(s.base))
	}
	awaitOpen(s.att)
	r.mu.Lock()
	r.s, r.began = s, began
	r.mu.Unlock()
	r.a.link.InventoryChanged()
	select {
	case <-ctx.Done():
	case <-s.att.Done():
	case <-r.p.fail:
	}
	err = s.att.Detach(context.WithoutCancel(ctx))
	pr := s.att.Progress()
	r.mu.Lock()
	r.s = nil
	r.mu.Unlock()
	total := s.base
	total.Add(&pr.Account)
	return errors.Join(err, pr.Err, s.w.Close(total))
}

// since is the time from which on packets are recorded; zero = nothing is.
func (r *recording) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.s == nil {
		return time.Time{}
	}
	return r.began
}

// pin keeps what is newer than from until unpin.
func (r *recording) pin(uid string, from time.Time) {
	r.mu.Lock()
	r.pins[uid] = from
	r.mu.Unlock()
}

func (r *recording) unpin(uid string) {
	r.mu.Lock()
	delete(r.pins, uid)
	r.mu.Unlock()
}

// shrink removes what is too old, and as many of the oldest segments as it takes to hold at most most octets; what a
// capture needs stays. It returns how much is held after that.
func (r *recording) shrink(most int64) (int64, error) {
	rec, err := segment.Open(r.dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer rec.Close()
	r.mu.Lock()
	pinned := packet.Timestamp(1<<63 - 1)
	for _, from := range r.pins {
		pinned = min(pinned, packet.TimestampOf(from))
	}
	r.mu.Unlock()
	if r.cfg.Age > 0 {
		if _, err := rec.ExpireBefore(min(pinned, packet.TimestampOf(time.Now().Add(-r.cfg.Age)))); err != nil {
			return 0, err
		}
	}
	held := int64(0)
	for _, info := range rec.Segments() {
		held += info.Bytes
	}
	for held > most && len(rec.Segments()) > 1 && rec.Segments()[0].Latest < pinned {
		info, err := rec.DropOldest()
		if err != nil {
			return held, err
		}
		held -= info.Bytes
	}
	for _, info := range rec.Segments() {
		if info.Packets > 0 {
			r.mu.Lock()
			r.began = info.Earliest.Time()
			r.mu.Unlock()
			break
		}
	}
	return held, nil
}

// recorded is the taker of a capture that is answered from recordings: nothing is copied, what it needs is pinned.
type recorded struct {
	j     *job
	ended chan struct{}
	once  sync.Once
	timer *time.Timer
}

func newRecorded(j *job) *recorded {
	r := &recorded{j: j, ended: make(chan struct{})}
	r.each(func(rec *recording) { rec.pin(j.uid, j.spec.Query.From) })
	return r
}

// each visits the recordings of the capture's points; false: one is not there.
func (r *recorded) each(fn func(*recording)) bool {
	ok := true
	for _, name := range r.j.spec.Query.Points {
		if rec := r.j.a.recorders[name]; rec != nil {
			fn(rec)
		} else {
			ok = false
		}
	}
	return ok
}

// forget gives up what the capture needed.
func (r *recorded) forget() { r.each(func(rec *recording) { rec.unpin(r.j.uid) }) }

func (r *recorded) begin(*want.Status, bool) error {
	if !r.each(func(*recording) {}) {
		return errors.New("a point of this capture is no longer recorded")
	}
	if to := r.j.spec.Query.To; !to.IsZero() {
		r.timer = time.AfterFunc(time.Until(to), func() { r.once.Do(func() { close(r.ended) }) })
	}
	return nil
}

func (r *recorded) done() <-chan struct{} { return r.ended }

func (r *recorded) stop(context.Context) { r.once.Do(func() { close(r.ended) }) }

func (r *recorded) look(*want.Status) {}

// end counts what the window holds.
func (r *recorded) end(st *want.Status) (want.State, string) {
	if r.timer != nil {
		r.timer.Stop()
	}
	plan, _, err := r.plan(want.PcapNG, nil, st.Ended)
	if err != nil {
		return want.Failed, err.Error()
	}
	if _, err := plan.Size(context.Background()); err != nil {
		return want.Failed, err.Error()
	}
	st.Ledger = ledgerOf(plan)
	return want.Done, ""
}

// plan reads the recordings as far as they go now, or as upto says.
func (r *recorded) plan(f want.Format, upto []segment.Position, stopped time.Time) (*query.Plan, packet.LinkType, error) {
	spec := r.j.get()
	q := spec.Query
	win := query.Window{From: packet.TimestampOf(q.From), MaxPackets: q.Limits.Packets, MaxOctets: q.Limits.Octets, Snap: q.Snap}
	if to := spec.End(); !to.IsZero() {
		win.To = packet.TimestampOf(to)
	} else if !stopped.IsZero() {
		win.To = packet.TimestampOf(stopped)
	}
	var sources []query.Source
	for i, name := range q.Points {
		rec := r.j.a.recorders[name]
		if rec == nil {
			return nil, 0, fault.New(fault.NotFound, "%s is no longer recorded", name)
		}
		src := query.Source{Name: name, Dir: rec.dir}
		if upto != nil {
			src.Upto = upto[i]
		} else if err := rec.flush(); err != nil {
			return nil, 0, err
		}
		read, err := segment.OpenUpto(rec.dir, src.Upto)
		if err != nil {
			return nil, 0, err
		}
		src.Upto = read.Position()
		src.Interface, err = interfaceOf(read)
		if err := errors.Join(err, read.Close()); err != nil {
			return nil, 0, err
		}
		sources = append(sources, src)
	}
	if q.Filter != "" {
		expr, err := filter.Parse(q.Filter)
		if err != nil {
			return nil, 0, err
		}
		m, err := cbpf.NewMatcher(expr, cbpf.Options{Link: sources[0].Interface.Link, Strict: q.Strict, Target: cbpf.File})
		if err != nil {
			return nil, 0, err
		}
		win.Match = m.Match
	}
	meta := query.Meta{Section: pcap.Section{Application: "opentap " + r.j.a.cfg.Version, Hardware: r.j.a.cfg.NodeName,
		Comment: fmt.Sprintf("capture %q (%s) from recordings on node %s", spec.ID, spec.UID, r.j.a.cfg.NodeName)}}
	plan, err := query.New(sources, win, formatOf(f), meta)
	return plan, sources[0].Interface.Link, err
}

// flush makes what was recorded until now readable.
func (r *recording) flush() error {
	r.mu.Lock()
	s := r.s
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := s.w.Flush(); err != nil && !errors.Is(err, segment.ErrClosed) {
		return err
	}
	return nil
}

func (r *recorded) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	plan, link, err := r.plan(o.Format, nil, st.Ended)
	if err != nil {
		return nil, err
	}
	if r.j.get().Kind == want.Flows {
		return r.meter(ctx, plan, link, st, o.Format)
	}
	return planned(ctx, plan, r.j, st, o.Format, fmt.Sprintf("%s-%s-%d", r.j.uid[:12], o.Format, time.Now().UnixNano()))
}

// meter turns recorded packets into flow records: the same packets give the same records, always.
func (r *recorded) meter(ctx context.Context, plan *query.Plan, link packet.LinkType, st want.Status, f want.Format) (*want.Retrieval, error) {
	j := r.j
	snap := &rowSnapshot[flow.Record]{form: flowForm}
	var table *flow.Table
	table, err := flow.New(j.a.cfg.Flow, func(rec *flow.Record) { snap.more = append(snap.more, *rec) })
	if err != nil {
		return nil, err
	}
	var parsed packet.Parsed
	err = plan.Each(ctx, func(p *pcap.Packet) error {
		parsed.Decode(link, p.Data, p.OrigLen)
		parsed.Time = p.Time
		table.Add(&parsed)
		return nil
	})
	if err != nil {
		return nil, err
	}
	table.Flush(flow.EndForced)
	return snap.retrieval(ctx, j, st, f)
}
