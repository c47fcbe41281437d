package agent

import (
	"testing"

	"opentap/flow"
	"opentap/want"
)

// The records of a full table that is flushed at the end all wait for the disk; while packets come there is a bound.
func TestFlowRecordsOfAFlushAreKept(t *testing.T) {
	h := newHost(t, nil)
	c := asked(1, want.Flows, 1)
	h.obey(1, c)
	f := h.jobs[c.UID].taker.(*flows)
	log, err := f.rows.acquire(false)
	if err != nil {
		t.Fatal(err)
	}
	f.log = log
	m := f.meters[0]
	rec := flow.Record{First: 1, Last: 2, Version: 4, Packets: 1}
	const many = maxPending + inFlight*batchRows + 5000
	for range many { // nobody writes
		m.sink(&rec)
	}
	if len(m.pending) != maxPending || f.lostRows.Load() == 0 || f.lostRows.Load() != f.lostCount.Load() {
		t.Errorf("%d pending, %d lost", len(m.pending), f.lostRows.Load())
	}
	lost := f.lostRows.Load()
	f.written.Go(f.write)
	m.patient = true
	m.hand()
	for range many {
		m.sink(&rec)
	}
	m.hand()
	close(f.batches)
	f.written.Wait()
	if got := f.lostRows.Load(); got != lost {
		t.Errorf("%d records lost with time to wait", got-lost)
	}
	if n := log.Len(); n != 2*many-lost || f.sent.Load() != n {
		t.Errorf("%d rows kept, %d sent, want %d", n, f.sent.Load(), 2*many-lost)
	}
	if err := f.rows.release(); err != nil {
		t.Fatal(err)
	}
}

// inFlight is more than the batches that can be on their way.
const inFlight = 17
