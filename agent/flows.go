package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"opentap/capture"
	"opentap/flow"
	"opentap/ledger"
	"opentap/packet"
	"opentap/record"
	"opentap/want"
)

// Bounds of the flow records that wait, per point: so many make a batch, and so many wait for a late disk.
const (
	batchRows  = 1 << 12
	maxPending = 1 << 18
)

// flows takes a netflow capture: a meter for each point, and one log of records for all.
type flows struct {
	j       *job
	rows    rowLog[flow.Record]
	meters  []*meter
	ended   chan struct{}
	batches chan []flow.Record // to the writer
	free    chan []flow.Record // and back
	base    ledger.Account     // from before a restart
	limit   budget

	apart     atomic.Uint64 // captured packets that are in no flow, of all runs
	lostRows  atomic.Uint64 // records that the disk did not take
	lostCount atomic.Uint64 // packets in them
	disk      chan struct{} // closed when the disk refuses
	diskOnce  sync.Once
	sent      atomic.Uint64 // rows given to the writer in this run

	mu      sync.Mutex
	log     *record.Log[flow.Record] // between begin and end
	before  uint64                   // rows of earlier runs
	taken   uint64                   // of sent, what the writer is done with
	more    *sync.Cond               // taken has grown
	written sync.WaitGroup
}

// meter is one point of a netflow capture. Its fields belong to the source's goroutine.
type meter struct {
	f       *flows
	point   string
	table   *flow.Table
	att     *capture.Attachment
	late    time.Time // see lateGap
	pending []flow.Record
	apart   uint64 // as last reported to f
	patient bool   // nobody waits for the meter: it may wait for the disk
}

func newFlows(j *job) *flows {
	f := &flows{
		j: j, rows: rowLog[flow.Record]{dir: filepath.Join(j.dir, "rows"), codec: flow.RecordCodec{}}, ended: make(chan struct{}), batches: make(chan []flow.Record, 16),
		free: make(chan []flow.Record, 17), disk: make(chan struct{}), limit: budget{of: j.spec.Query.Limits},
	}
	f.more = sync.NewCond(&f.mu)
	for _, name := range j.spec.Query.Points {
		f.meters = append(f.meters, &meter{f: f, point: name})
	}
	return f
}

// Begin implements capture.Consumer.
func (m *meter) Begin() {}

// End implements capture.Consumer.
func (m *meter) End() {}

// Frame implements capture.Consumer.
func (m *meter) Frame(f *capture.Frame) capture.Verdict {
	v := m.f.limit.take(len(f.Data))
	if v != capture.Full {
		m.table.Add(f.Parsed())
	}
	return v
}

// Idle implements capture.Consumer.
func (m *meter) Idle(now packet.Timestamp, _ *ledger.Account) {
	m.table.Advance(now)
	m.report()
}

// report hands over what the table gave since the last time. A late disk makes it wait, up to maxPending records.
func (m *meter) report() {
	s := m.table.Stats()
	apart := s.NonIP + s.Truncated + s.Malformed
	m.f.apart.Add(apart - m.apart)
	m.apart = apart
	m.hand()
}

// hand gives what is pending to the writer, unless it is late.
func (m *meter) hand() {
	n := uint64(len(m.pending))
	if n == 0 {
		return
	}
	if m.patient {
		m.f.batches <- m.pending
	} else {
		select {
		case m.f.batches <- m.pending:
		default:
			return
		}
	}
	m.f.sent.Add(n)
	select {
	case m.pending = <-m.f.free:
		m.pending = m.pending[:0]
	default:
		m.pending = nil
	}
}

// sink takes one record of the table.
func (m *meter) sink(r *flow.Record) {
	if len(m.pending) >= maxPending {
		m.f.lose(r)
		return
	}
	if m.pending = append(m.pending, *r); len(m.pending)%batchRows == 0 {
		m.hand()
	}
}

// lose books a record that could not be kept.
func (f *flows) lose(r *flow.Record) {
	f.lostRows.Add(1)
	f.lostCount.Add(r.Packets + r.RevPackets)
}

func (f *flows) begin(m *memo, resumed bool) (err error) {
	spec := f.j.get()
	log, err := f.rows.acquire(false)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.abandon())
		}
	}()
	f.log, f.before = log, log.Len()
	if resumed {
		if err := f.resume(m); err != nil {
			return err
		}
	}
	for _, t := range f.meters {
		if t.table, err = flow.New(f.j.a.cfg.Flow, t.sink); err != nil {
			return err
		}
		if t.att, err = f.j.a.engine.Attach(engineSpec(t.point, &spec, f.limit.spent()), t); err != nil {
			return err
		}
	}
	f.written.Go(f.write)
	go f.watch()
	for _, t := range f.meters {
		t.late = awaitOpen(t.att)
	}
	return nil
}

// abandon gives back what a begin that failed had taken.
func (f *flows) abandon() (err error) {
	for _, m := range f.meters {
		if m.att != nil {
			err = errors.Join(err, m.att.Detach(context.Background()))
		}
	}
	return errors.Join(err, f.rows.release())
}

// resume makes the account agree with the records that are there. Packets that had been metered into flows still open when
// opentapd died are in no record: they are booked as lost.
func (f *flows) resume(m *memo) error {
	var inRecords uint64
	err := f.log.Each(f.log.Len(), func(_ uint64, r *flow.Record) error {
		inRecords += r.Packets + r.RevPackets
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the flow records back: %w", err)
	}
	apart := m.Apart
	f.apart.Store(apart)
	acc := &m.Status.Ledger
	if kept := inRecords + apart; kept < acc.Captured {
		acc.Dropped[ledger.Corrupt] += acc.Captured - kept
		acc.Captured = kept
	} else {
		acc.Captured = kept // the records are newer than the status that was kept
	}
	acc.Balance()
	f.base = *acc
	f.limit.packets.Add(acc.Captured)
	f.limit.octets.Add(acc.StoredOctets)
	return nil
}

// write appends batches to the log until rows is closed.
func (f *flows) write() {
	for batch := range f.batches {
		for i := range batch {
			if err := f.log.Append(&batch[i]); err != nil {
				f.lose(&batch[i])
				f.diskOnce.Do(func() { close(f.disk) })
			}
		}
		f.mu.Lock()
		f.taken += uint64(len(batch))
		f.more.Broadcast()
		f.mu.Unlock()
		select {
		case f.free <- batch:
		default:
		}
	}
}

// watch waits for the meters, and ends all when one is at the limit or the disk refuses.
func (f *flows) watch() {
	defer close(f.ended)
	atts := make([]attached, len(f.meters))
	for i, m := range f.meters {
		atts[i] = m.att
	}
	endTogether(atts, f.disk)
	// The tables are ours now.
	for _, m := range f.meters {
		m.patient = true
		m.report() // what had to wait makes room for what comes
		m.table.Flush(flow.EndForced)
		m.report()
	}
	close(f.batches)
	f.written.Wait()
}

func (f *flows) done() <-chan struct{} { return f.ended }

func (f *flows) stop(ctx context.Context) {
	for _, m := range f.meters {
		if err := m.att.Detach(ctx); err != nil {
			f.j.log.Error("a point did not end in time", "point", m.point, "err", err)
		}
	}
	select {
	case <-f.ended:
	case <-ctx.Done():
	}
}

func (f *flows) look(memo *memo) {
	st := &memo.Status
	total := f.base
	var gaps []want.Gap
	for _, m := range f.meters {
		pr := m.att.Progress()
		total.Add(&pr.Account)
		gaps = append(append(gaps, lateGap(m.point, m.late, &pr)...), gapsOf(pr.Gaps, m.point)...)
	}
	if lost := f.lostCount.Load(); lost > 0 {
		lost = min(lost, total.Captured)
		total.Captured -= lost
		total.Dropped[ledger.Disk] += lost
	}
	st.Ledger = total
	st.Records = f.log.Len()
	st.Bytes = uint64(f.log.Bytes())
	memo.Apart = f.apart.Load()
	mergeGaps(st, gaps)
}

func (f *flows) end(memo *memo) (want.State, string) {
	st := &memo.Status
	err := f.log.Sync()
	if lost := f.lostRows.Load(); lost > 0 && err == nil {
		err = fmt.Errorf("%d flow records", lost)
	}
	st.Records, st.Bytes = f.log.Len(), uint64(f.log.Bytes())
	err = errors.Join(err, f.rows.release())
	if err != nil {
		return want.Failed, diskReason(err)
	}
	for _, m := range f.meters {
		switch pr := m.att.Progress(); pr.End {
		case capture.EndLimit:
			return want.Done, "its limit is reached"
		case capture.EndError:
			return want.Failed, pr.Err.Error()
		}
	}
	if f.limit.spent() {
		return want.Done, "its limit is reached"
	}
	return want.Done, ""
}

// endTogether returns when all attachments have ended. One that ends otherwise than by its window takes the others with
// it, and so does fail.
func endTogether(atts []attached, fail <-chan struct{}) {
	early := make(chan struct{})
	finished := make(chan struct{})
	var once sync.Once
	var all sync.WaitGroup
	for _, a := range atts {
		all.Go(func() {
			select {
			case <-a.Done():
				if a.Progress().End == capture.EndWindow {
					return
				}
			case <-fail:
			}
			once.Do(func() { close(early) })
			<-a.Done()
		})
	}
	go func() { all.Wait(); close(finished) }()
	select {
	case <-finished:
		return
	case <-early:
	}
	for _, a := range atts {
		_ = a.Detach(context.Background()) // fails with its context alone
	}
	<-finished
}

// snapshot returns how many rows of the log, together with which records of flows still open, are all that was metered up
// to one moment. Once the meters have ended the log alone is all.
func (f *flows) snapshot(ctx context.Context) (upto uint64, live []flow.Record, err error) {
	order := append([]*meter(nil), f.meters...)
	sort.Slice(order, func(i, k int) bool { return order[i].point < order[k].point }) // one order for all, lest two snapshots wait for each other
	var sent uint64
	// All meters stand still while the innermost function runs, for no longer than it takes to copy the open flows.
	var hold func(i int) bool
	hold = func(i int) bool {
		if i == len(order) {
			for _, m := range order {
				m.report()
				live = append(live, m.pending...)
				m.table.Snapshot(func(r *flow.Record) { live = append(live, *r) })
			}
			sent = f.sent.Load()
			return true
		}
		held := false
		return order[i].att.Do(ctx, func() { held = hold(i + 1) }) && held
	}
	if !hold(0) {
		select {
		case <-f.ended:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
		sent = f.sent.Load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.taken < sent {
		f.more.Wait()
	}
	return f.before + sent, live, nil
}
