package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"opentap/capture"
	"opentap/fault"
	"opentap/packet"
	"opentap/record"
	"opentap/sensor"
	"opentap/sensor/ifcount"
	"opentap/tap/bpftap"
	"opentap/want"
)

// samples takes a capture of rows that are read at a period: interface counters or a sensor.
type samples[T any] struct {
	j    *job
	rows rowLog[T]
	read func(ctx context.Context, due packet.Timestamp) (T, string, error) // a row, and why it has no values
	form rowForm[T]

	ended    chan struct{}
	cancel   context.CancelFunc
	missed   atomic.Uint64
	missedAt atomic.Int64 // Unix nanoseconds: a miss worries for a while, not for ever

	log *record.Log[T] // between begin and end

	mu   sync.Mutex
	gaps []want.Gap
	err  error // why it ended early
}

func newCounters(j *job) taker {
	name := j.spec.Query.Points[0]
	return &samples[ifcount.Row]{
		j: j, rows: rowLog[ifcount.Row]{dir: filepath.Join(j.dir, "rows"), codec: ifcount.Codec{}}, form: counterForm, ended: make(chan struct{}),
		read: func(_ context.Context, due packet.Timestamp) (ifcount.Row, string, error) {
			row, err := ifcount.Read(name)
			if fault.Is(err, fault.NotFound) { // a gap that may end, and not zeros
				row, err = ifcount.Row{Point: name, Missing: "device " + name + " is not there"}, nil
			}
			row.Time = due
			return row, row.Missing, err
		},
	}
}

func newSamples(j *job) taker {
	name := j.spec.Query.Points[0]
	return &samples[sensor.Sample]{
		j: j, rows: rowLog[sensor.Sample]{dir: filepath.Join(j.dir, "rows"), codec: sensor.Codec{}}, form: j.a.sampleForm(j.spec), ended: make(chan struct{}),
		read: func(ctx context.Context, due packet.Timestamp) (sensor.Sample, string, error) {
			s, err := j.a.readSensor(ctx, name)
			s.Time = due
			return s, s.Missing, err
		},
	}
}

func (s *samples[T]) begin(_ *memo, _ bool) error {
	log, err := s.rows.acquire(false)
	if err != nil {
		return err
	}
	s.log = log
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.run(ctx)
	return nil
}

// run samples until the window ends, stop is called, or the disk refuses.
func (s *samples[T]) run(ctx context.Context) {
	defer close(s.ended)
	spec := s.j.get()
	if lead := time.Until(spec.Query.From); lead > 0 { // we are a little early
		select {
		case <-ctx.Done():
			return
		case <-time.After(lead):
		}
	}
	var err error
	end := spec.End()
	for err == nil && ctx.Err() == nil && (end.IsZero() || time.Now().Before(end)) { // again if the clock was set back
		err = s.sample(ctx, time.Duration(spec.Period), end)
	}
	if err != nil && !errors.Is(err, errEnough) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
}

// sample reads a row at each tick before end; zero = for ever.
func (s *samples[T]) sample(ctx context.Context, period time.Duration, end time.Time) error {
	if !end.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end)
		defer cancel()
	}
	sampler := sensor.Sampler{Period: period}
	return sampler.Run(ctx, func(t sensor.Tick) error {
		if !end.IsZero() && !t.Due.Time().Before(end) { // the clock was set forward
			return errEnough
		}
		s.missed.Add(t.Missed)
		if t.Missed > 0 {
			s.missedAt.Store(time.Now().UnixNano())
		}
		row, missing, err := s.read(ctx, t.Due)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s.note(missing, t.Due.Time())
		return s.log.Append(&row)
	})
}

// maxGaps bounds the gaps of one run; what would be more makes the last one longer.
const maxGaps = 1000

// note opens and closes gaps as values go missing and return.
func (s *samples[T]) note(missing string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := len(s.gaps) > 0 && s.gaps[len(s.gaps)-1].To.IsZero()
	if open && s.gaps[len(s.gaps)-1].Reason == missing {
		return
	}
	if open {
		s.gaps[len(s.gaps)-1].To = at
	}
	if missing != "" && len(s.gaps) >= maxGaps {
		s.gaps[len(s.gaps)-1].To = time.Time{}
	} else if missing != "" {
		s.gaps = append(s.gaps, want.Gap{From: at, Reason: missing})
	}
}

func (s *samples[T]) done() <-chan struct{} { return s.ended }

func (s *samples[T]) stop(ctx context.Context) {
	s.cancel()
	select {
	case <-s.ended:
	case <-ctx.Done():
	}
}

func (s *samples[T]) look(m *memo) {
	st := &m.Status
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Records, st.Bytes = s.log.Len(), uint64(s.log.Bytes())
	mergeGaps(st, append([]want.Gap(nil), s.gaps...))
	if n := s.missed.Load(); n > 0 && time.Since(time.Unix(0, s.missedAt.Load())) < 5*time.Second && st.State == want.Running {
		st.State, st.Reason = want.Degraded, fmt.Sprintf("%d samples were missed because reading took longer than the period", n)
	}
}

func (s *samples[T]) end(m *memo) (want.State, string) {
	st := &m.Status
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errors.Join(s.err, s.log.Sync())
	st.Records, st.Bytes = s.log.Len(), uint64(s.log.Bytes())
	err = errors.Join(err, s.rows.release())
	var lost *record.LostError
	switch {
	case err == nil:
		return want.Done, ""
	case errors.As(err, &lost):
		return want.Failed, diskReason(err)
	}
	return want.Failed, err.Error()
}

// probe finds out what cannot be captured on this host, and why.
func (a *Agent) probe() {
	missing := make(map[string]string)
	if err := capture.Probe(); err != nil {
		for _, k := range []want.Kind{want.Packets, want.Flows} {
			missing[string(k)] = err.Error()
		}
	}
	if err := bpftap.Probe(); err != nil {
		missing[missingTaps] = err.Error()
	}
	a.mu.Lock()
	if len(a.sensorPts) == 0 {
		missing[string(want.Sensor)] = "this host shows no sensors (hwmon, thermal zones, iio), and none are configured"
	}
	a.missing = missing
	a.mu.Unlock()
}
