package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"opentap/capture"
	"opentap/flow"
	"opentap/ledger"
	"opentap/packet"
	"opentap/want"
)

// FlowStore has the flow records of a point kept at all times.
type FlowStore struct {
	Point  string
	Filter string
	Bytes  int64         // the oldest records go when it holds more
	Age    time.Duration // and when they are older; 0 = any age
}

// flowsDir is where flow stores live, beside the captures. It is no UID.
const flowsDir = "flows"

// flowStores are the flow logs of this host's points, those of exporters included.
type flowStores struct {
	a    *Agent
	wake chan struct{}
	done chan struct{} // closed when the last record is written

	mu   sync.Mutex
	logs map[string]*flowLog
}

func newFlowStores(a *Agent) *flowStores {
	return &flowStores{a: a, wake: make(chan struct{}, 1), done: make(chan struct{}), logs: make(map[string]*flowLog)}
}

// log opens the flow log of a point, or finds it.
func (s *flowStores) log(point string, bytes int64, age time.Duration, open func(func(*flow.Record))) (*flowLog, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[point]; l != nil {
		return l, nil
	}
	l := &flowLog{
		point: point, dir: filepath.Join(s.a.cfg.CaptureDir, flowsDir, url.PathEscape(point)), bytes: bytes, age: age, open: open, wake: s.wake,
		pins: pins{by: make(map[string]time.Time)},
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}
	if err := openFlowLog(l); err != nil {
		return nil, err
	}
	s.logs[point] = l
	return l, nil
}

// of returns the flow log of a point; nil = there is none.
func (s *flowStores) of(point string) *flowLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[point]
}

// all returns the flow logs, in the order of their points.
func (s *flowStores) all() []*flowLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.logs), func(a, b *flowLog) int { return cmp.Compare(a.point, b.point) })
}

// run writes what comes until ctx ends, and closes the logs.
func (s *flowStores) run(ctx context.Context) {
	defer close(s.done)
	pause := time.NewTicker(50 * time.Millisecond) // many records make one frame
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, l := range s.all() {
				if err := l.close(); err != nil {
					s.a.log.Error("a flow store cannot be closed", "point", l.point, "err", err)
				}
			}
			return
		case <-s.wake:
			for _, l := range s.all() {
				l.write()
				l.mu.Lock()
				failed := l.failed
				l.mu.Unlock()
				if failed != "" {
					failed = fmt.Sprintf("flow records of %s are lost: %s", l.point, failed)
				}
				s.a.trouble("flows "+l.point, failed)
			}
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	}
}

// guard cuts all logs to what they may hold, and by over more if need be; it returns what they hold then.
func (s *flowStores) guard(over int64, now time.Time) (held int64) {
	for _, l := range s.all() {
		most := l.bytes
		if over > 0 {
			was, _ := l.shrink(most, now)
			most = max(was-over, 0)
			over -= was - most
		}
		n, err := l.shrink(most, now)
		held += n
		text := ""
		if err != nil {
			text = fmt.Sprintf("the flow store of %s cannot be cut: %v", l.point, err)
		}
		s.a.trouble("shrink flows "+l.point, text)
	}
	return held
}

// views tells how the flow stores fare.
func (s *flowStores) views() []want.FlowStore {
	var out []want.FlowStore
	for _, l := range s.all() {
		v := want.FlowStore{Point: l.point, Bytes: l.bytes, Age: want.Duration(l.age), Since: l.since()}
		l.disk.Lock()
		if l.log != nil {
			v.Held, v.Records = l.log.Bytes(), l.log.Len()-l.log.First()
		}
		l.disk.Unlock()
		l.mu.Lock()
		v.Lost = l.lost
		l.mu.Unlock()
		out = append(out, v)
	}
	return out
}

// metering meters a point at all times, for its flow store. Its fields but att belong to the source's goroutine.
type metering struct {
	a     *Agent
	cfg   FlowStore
	log   *flowLog
	table *flow.Table

	mu  sync.Mutex
	att *capture.Attachment // nil while it does not run
}

// Begin implements capture.Consumer.
func (m *metering) Begin() {}

// End implements capture.Consumer.
func (m *metering) End() {}

// Frame implements capture.Consumer.
func (m *metering) Frame(f *capture.Frame) capture.Verdict {
	m.table.Add(f.Parsed())
	return capture.Took
}

// Idle implements capture.Consumer.
func (m *metering) Idle(now packet.Timestamp, _ *ledger.Account) { m.table.Advance(now) }

// open calls fn with the flows that are open now.
func (m *metering) open(fn func(*flow.Record)) {
	m.mu.Lock()
	att := m.att
	m.mu.Unlock()
	if att != nil {
		att.Do(context.Background(), func() { m.table.Snapshot(fn) })
	}
}

// run meters until ctx ends; what fails is tried again.
func (m *metering) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.meter(ctx)
		if ctx.Err() != nil {
			return
		}
		m.a.trouble("flows of "+m.cfg.Point, fmt.Sprintf("the flows of %s cannot be metered: %s", m.cfg.Point, errText(err)))
		select {
		case <-ctx.Done():
		case <-time.After(retryExporter):
		}
	}
}

func (m *metering) meter(ctx context.Context) (err error) {
	if m.table, err = flow.New(m.a.cfg.Flow, func(r *flow.Record) {
		m.log.add(r)
		m.a.record(netip.IPv4Unspecified(), r)
	}); err != nil {
		return err
	}
	att, err := m.a.engine.Attach(capture.Spec{Point: m.cfg.Point, Filter: m.cfg.Filter, Promiscuous: true}, m)
	if err != nil {
		return err
	}
	awaitOpen(att)
	m.mu.Lock()
	m.att = att
	m.mu.Unlock()
	m.a.trouble("flows of "+m.cfg.Point, "")
	select {
	case <-ctx.Done():
	case <-att.Done():
	}
	m.mu.Lock()
	m.att = nil
	m.mu.Unlock()
	if err := att.Detach(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	m.table.Flush(flow.EndForced) // the table is ours now
	return errors.Join(att.Progress().Err)
}

// openFlows opens the flow stores of the configuration, and what is kept of exporters.
func (a *Agent) openFlows() (err error) {
	a.flows = newFlowStores(a)
	for _, cfg := range a.cfg.Flows {
		m := &metering{a: a, cfg: cfg}
		if m.log, err = a.flows.log(cfg.Point, cfg.Bytes, cfg.Age, m.open); err != nil {
			return fmt.Errorf("flow store of %s: %w", cfg.Point, err)
		}
		a.meterings = append(a.meterings, m)
	}
	a.collectors, err = newCollecting(a)
	return err
}

// runFlows meters and collects until ctx ends; the function it returns waits for that and closes the flow stores.
func (a *Agent) runFlows(ctx context.Context) (end func()) {
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	go a.flows.run(writing)
	var work sync.WaitGroup
	for _, m := range a.meterings {
		work.Go(func() { m.run(ctx) })
	}
	for _, c := range a.collectors {
		work.Go(func() { c.run(ctx) })
	}
	if len(a.collectors) > 0 {
		work.Go(func() { a.saveTemplates(ctx) })
	}
	return func() {
		work.Wait()
		stop()
		<-a.flows.done
	}
}
