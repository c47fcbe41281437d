package agent

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"opentap/flow"
	"opentap/packet"
	"opentap/record"
)

// flowLog keeps the flow records of one point at all times: the oldest go when there are too many, or when they are too old.
type flowLog struct {
	point string
	dir   string
	bytes int64
	age   time.Duration
	open  func(fn func(*flow.Record)) // calls fn with the flows that have not ended yet; nil = none are known

	wake chan<- struct{} // tells the writer that records wait

	mu      sync.Mutex // of what is below; held for no longer than it takes to copy
	pending []flow.Record
	lost    uint64 // records that there was no room for
	full    string // why nothing may be kept now; "" = it may

	disk   sync.Mutex // held while the log is written or cut; taken before mu
	log    *record.Log[flow.Record]
	spare  []flow.Record // the other buffer of pending
	marks  []mark        // of all rows but the newest few; guarded by mu
	newest mark          // of those
	cut    time.Time     // when the file was last begun
	failed string        // why the disk refuses; guarded by mu
	pins   pins          // captures that need what is here
}

// mark says within which times the records of some rows lie, so that they can be passed over.
type mark struct {
	first, end  uint64 // rows
	begin, last packet.Timestamp
}

const (
	markRows      = 1 << 12
	markRowsLeast = 64        // of one that is ended because it has come to last long
	maxWaiting    = 1 << 17   // records that wait for a late disk
	cutFlowLogs   = time.Hour // a file is not longer, so that age can be told
)

// openFlowLog opens what is kept of a point, and learns which rows lie when.
func openFlowLog(l *flowLog) error {
	log, _, err := record.Open(record.Config{Dir: l.dir, MaxFileBytes: max(l.bytes/16, 1<<20)}, flow.RecordCodec{})
	if err != nil {
		return err
	}
	l.log, l.cut = log, time.Now()
	l.newest = mark{first: log.First(), end: log.First(), begin: math.MaxInt64, last: math.MinInt64}
	return log.Each(log.Len(), func(_ uint64, r *flow.Record) error {
		l.marked(r)
		return nil
	})
}

// marked notes a row. mu is held, or nobody else knows of l.
func (l *flowLog) marked(r *flow.Record) {
	m := &l.newest
	m.begin, m.last = min(m.begin, r.First), max(m.last, r.Last)
	m.end++
	if n := m.end - m.first; n >= markRows || n >= markRowsLeast && m.last.Sub(m.begin) > cutFlowLogs {
		l.cutMark()
	}
}

// cutMark begins the next mark. mu is held, or nobody else knows of l.
func (l *flowLog) cutMark() {
	if m := &l.newest; m.end > m.first {
		l.marks = append(l.marks, *m)
		*m = mark{first: m.end, end: m.end, begin: math.MaxInt64, last: math.MinInt64}
	}
}

// add takes a record, which it copies. It never waits.
func (l *flowLog) add(r *flow.Record) {
	l.mu.Lock()
	if len(l.pending) >= maxWaiting || l.full != "" {
		l.lost++
		l.mu.Unlock()
		return
	}
	l.pending = append(l.pending, *r)
	first := len(l.pending) == 1
	l.mu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// write appends what waits to the log.
func (l *flowLog) write() {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.mu.Lock()
	batch := l.pending
	l.pending, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	if l.log == nil || len(batch) == 0 {
		l.spare = batch
		return
	}
	failed := ""
	taken := 0
	for i := range batch {
		if err := l.log.Append(&batch[i]); err != nil {
			failed = diskReason(err)
			break
		}
		taken++
	}
	l.mu.Lock()
	for i := range batch[:taken] {
		l.marked(&batch[i])
	}
	l.lost += uint64(len(batch) - taken)
	l.failed = failed
	l.mu.Unlock()
	l.spare = batch[:0]
	if failed != "" { // the log has given up: begin another where it ended
		err := l.log.Close()
		l.log = nil
		l.mu.Lock()
		l.marks = nil
		l.mu.Unlock()
		if openFlowLog(l) != nil || err == nil {
			return
		}
	}
	if time.Since(l.cut) >= cutFlowLogs {
		l.cut = time.Now()
		l.mu.Lock()
		l.cutMark()
		l.mu.Unlock()
		_ = l.log.Rotate() // an error is the log's from then on: the next Append tells it
	}
}

// shrink removes what is too old and what is too much; what a capture needs stays. It returns the octets that are left.
func (l *flowLog) shrink(most int64, now time.Time) (int64, error) {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.log == nil {
		return 0, nil
	}
	l.pins.mu.Lock()
	pinned := packet.Timestamp(math.MaxInt64)
	for _, from := range l.pins.by {
		pinned = min(pinned, packet.TimestampOf(from))
	}
	l.pins.mu.Unlock()
	for {
		_, end, ok := l.log.Oldest()
		if !ok {
			break
		}
		latest := l.latest(end)
		old := l.age > 0 && latest < packet.TimestampOf(now.Add(-l.age))
		if !old && l.log.Bytes() <= most || latest >= pinned {
			break
		}
		if _, _, err := l.log.DropOldest(); err != nil {
			return l.log.Bytes(), err
		}
		l.mu.Lock()
		for len(l.marks) > 0 && l.marks[0].end <= end {
			l.marks = l.marks[1:]
		}
		l.mu.Unlock()
	}
	return l.log.Bytes(), nil
}

// latest is the end of the latest of the rows before end.
func (l *flowLog) latest(end uint64) packet.Timestamp {
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := packet.Timestamp(math.MinInt64)
	for _, m := range append(l.marks[:len(l.marks):len(l.marks)], l.newest) {
		if m.first < end {
			latest = max(latest, m.last)
		}
	}
	return latest
}

// since is the beginning of the earliest record that is kept; zero = there is none.
func (l *flowLog) since() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	earliest := l.newest.begin
	for _, m := range l.marks {
		earliest = min(earliest, m.begin)
	}
	if earliest == math.MaxInt64 {
		return time.Time{}
	}
	return earliest.Time()
}

// settle has everything that came until now in the log, and returns the number of the row after the last.
func (l *flowLog) settle() (uint64, error) {
	l.write()
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.log == nil {
		return 0, errors.New("the flow store of " + l.point + " is not open")
	}
	return l.log.Len(), nil
}

// each calls fn with the records of the rows before upto that touch the time from from up to to, to exclusive; 0 = no bound.
// The record is lent.
func (l *flowLog) each(ctx context.Context, upto uint64, from, to packet.Timestamp, fn func(*flow.Record) error) error {
	l.disk.Lock()
	log := l.log
	l.disk.Unlock()
	if log == nil {
		return errors.New("the flow store of " + l.point + " is not open")
	}
	if to == 0 {
		to = math.MaxInt64
	}
	l.mu.Lock()
	marks := append(append([]mark(nil), l.marks...), l.newest)
	l.mu.Unlock()
	touches := func(begin, last packet.Timestamp) bool { return begin < to && last >= from }
	for i := 0; i < len(marks); i++ {
		if !touches(marks[i].begin, marks[i].last) || marks[i].first >= upto {
			continue
		}
		k := i
		for k+1 < len(marks) && touches(marks[k+1].begin, marks[k+1].last) {
			k++
		}
		err := log.Range(marks[i].first, min(marks[k].end, upto), func(n uint64, r *flow.Record) error {
			if n%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if !touches(r.First, r.Last) {
				return nil
			}
			return fn(r)
		})
		if err != nil {
			return err
		}
		i = k
	}
	return nil
}

// halt says why nothing more may be kept; with "" it may again.
func (l *flowLog) halt(reason string) {
	l.mu.Lock()
	l.full = reason
	l.mu.Unlock()
}

// close writes what waits and closes the log.
func (l *flowLog) close() error {
	l.write()
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.log == nil {
		return nil
	}
	err := l.log.Close()
	l.log = nil
	return err
}
