package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/fault"
	"opentap/filter"
	"opentap/flow"
	"opentap/flow/query"
	"opentap/ledger"
	"opentap/packet"
	"opentap/want"
)

// stored is the taker of a capture of flow records that is answered from flow stores: nothing is copied, what it needs is
// pinned. A record is in it when its flow touches the window.
type stored struct {
	j      *job
	match  *query.Filter
	ended  chan struct{}
	once   sync.Once
	looked time.Time
}

func newStored(j *job) *stored {
	s := &stored{j: j, ended: make(chan struct{})}
	for _, l := range s.logs() {
		l.pins.mu.Lock()
		l.pins.by[j.uid] = j.spec.Query.From
		l.pins.mu.Unlock()
	}
	return s
}

// logs returns the flow logs of the capture's points, as far as they are there.
func (s *stored) logs() []*flowLog {
	var out []*flowLog
	for _, name := range s.j.get().Query.Points {
		if l := s.j.a.flows.of(name); l != nil {
			out = append(out, l)
		}
	}
	return out
}

// forget gives up what the capture needed.
func (s *stored) forget() {
	for _, l := range s.logs() {
		l.pins.mu.Lock()
		delete(l.pins.by, s.j.uid)
		l.pins.mu.Unlock()
	}
}

func (s *stored) begin(*memo, bool) (err error) {
	q := s.j.get().Query
	for _, name := range q.Points {
		if s.j.a.flows.of(name) == nil {
			return fmt.Errorf("no flow records of %s are kept", name)
		}
	}
	if q.Limits != (filter.Limits{}) {
		return errors.New("limits of packets and octets mean nothing for flow records that others made")
	}
	s.match, err = query.NewFilter(q.Filter)
	return err
}

func (s *stored) done() <-chan struct{} { return s.ended }

func (s *stored) stop(context.Context) { s.once.Do(func() { close(s.ended) }) }

// storedLook is how often what is in the window is counted: each time all records in it are read.
const storedLook = 5 * time.Second

func (s *stored) look(m *memo) {
	if to := s.j.get().Query.To; !to.IsZero() && time.Since(to) >= 0 {
		s.once.Do(func() { close(s.ended) })
		return
	}
	if time.Since(s.looked) >= storedLook {
		s.looked = time.Now()
		s.count(m)
	}
}

// count has the status say what is in the window now.
func (s *stored) count(m *memo) error {
	e, err := s.extent(time.Time{})
	if err != nil {
		return err
	}
	var a ledger.Account
	var n uint64
	err = s.each(context.Background(), e, nil, func(r *flow.Record) error {
		n++
		a.Captured += r.Packets + r.RevPackets
		a.Octets += r.Octets + r.RevOctets
		return nil
	})
	a.Seen = a.Captured
	m.Status.Ledger, m.Status.Records = a, n
	gaps := s.j.a.collectedGaps(s.j.get().Query.Points, m.Status.Started)
	if len(gaps) > 0 {
		mergeGaps(&m.Status, gaps)
	}
	return err
}

func (s *stored) end(m *memo) (want.State, string) {
	if err := s.count(m); err != nil {
		return want.Failed, err.Error()
	}
	return want.Done, ""
}

// storedExtent is how far the flow logs of a capture are read.
type storedExtent struct {
	upto []uint64
	to   packet.Timestamp // exclusive; 0 = none
}

func (e storedExtent) String() string {
	parts := make([]string, 0, len(e.upto)+1)
	for _, n := range e.upto {
		parts = append(parts, strconv.FormatUint(n, 10))
	}
	return strings.Join(append(parts, strconv.FormatInt(int64(e.to), 10)), "_")
}

func parseStoredExtent(text string, n int) (e storedExtent, ok bool) {
	parts := strings.Split(text, "_")
	if len(parts) != n+1 {
		return e, false
	}
	for _, p := range parts[:n] {
		v, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return e, false
		}
		e.upto = append(e.upto, v)
	}
	to, err := strconv.ParseInt(parts[n], 10, 64)
	e.to = packet.Timestamp(to)
	return e, err == nil && e.String() == text
}

func (s *stored) extent(ended time.Time) (e storedExtent, err error) {
	c := s.j.get()
	if to := c.End(); !to.IsZero() {
		e.to = packet.TimestampOf(to)
	} else if !ended.IsZero() {
		e.to = packet.TimestampOf(ended)
	}
	logs := s.logs()
	if len(logs) < len(c.Query.Points) {
		return e, fault.New(fault.NotFound, "no flow records of a point of this capture are kept any more")
	}
	for _, l := range logs {
		upto, err := l.settle()
		if err != nil {
			return e, err
		}
		e.upto = append(e.upto, upto)
	}
	return e, nil
}

// each calls fn with what the capture holds, point after point, and then with open.
func (s *stored) each(ctx context.Context, e storedExtent, open []flow.Record, fn func(*flow.Record) error) error {
	from := packet.TimestampOf(s.j.get().Query.From)
	take := func(r *flow.Record) error {
		if !s.match.Match(r) {
			return nil
		}
		return fn(r)
	}
	for i, l := range s.logs() {
		if err := l.each(ctx, e.upto[i], from, e.to, take); err != nil {
			return err
		}
	}
	for i := range open {
		if r := &open[i]; r.Last >= from && (e.to == 0 || r.First < e.to) {
			if err := take(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stored) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	c := s.j.get()
	if s.match == nil && c.Query.Filter != "" { // it had ended before the last start
		m, err := query.NewFilter(c.Query.Filter)
		if err != nil {
			return nil, err
		}
		s = &stored{j: s.j, match: m}
	}
	prefix := fmt.Sprintf("%s-%s-", s.j.uid[:12], o.Format)
	var open []flow.Record
	rest, ours := strings.CutPrefix(o.ETag, prefix)
	e, again := parseStoredExtent(rest, len(c.Query.Points))
	if !ours || !again {
		var err error
		if !st.State.Final() {
			for _, l := range s.logs() {
				if l.open != nil {
					l.open(func(r *flow.Record) { open = append(open, *r) })
				}
			}
		}
		if e, err = s.extent(st.Ended); err != nil {
			return nil, err
		}
	}
	etag := prefix + e.String()
	if len(open) > 0 {
		etag += "-" + strconv.FormatInt(time.Now().UnixNano(), 36) // open flows change with every packet: never to be had again
	}
	snap := &rowSnapshot[flow.Record]{
		each: func(ctx context.Context, fn func(*flow.Record) error) error { return s.each(ctx, e, open, fn) },
		form: flowForm, etag: etag, release: func() error { return nil },
	}
	return snap.retrieval(ctx, s.j, st, o.Format)
}
