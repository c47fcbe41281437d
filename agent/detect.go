package agent

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"opentap/detect"
	"opentap/fault"
	"opentap/packet"
	"opentap/want"
	"opentap/wire/sflow"
)

// detecting is a set of rules that runs over the samples that come here, as long as somebody listens to what it tells.
type detecting struct {
	wake chan struct{}

	mu     sync.Mutex
	engine *detect.Engine
	told   []want.Crossing
	missed uint64 // crossings that nobody took in time
}

const (
	mostTold     = 1 << 12 // crossings that wait to be sent
	advanceEvery = 50 * time.Millisecond
	topsEvery    = time.Second
	topsMost     = 50
	mostDetects  = 8 // sets of rules at one time
)

func newDetecting(rules []want.Rule) (*detecting, error) {
	d := &detecting{wake: make(chan struct{}, 1)}
	var list []*detect.Compiled
	for i := range rules {
		c, err := detect.Compile(&rules[i])
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	d.engine = detect.New(list, func(c want.Crossing) {
		if len(d.told) >= mostTold {
			d.missed++
			return
		}
		d.told = append(d.told, c)
		select {
		case d.wake <- struct{}{}:
		default:
		}
	})
	return d, nil
}

// sample gives a sample to all sets of rules.
func (a *Agent) sample(at packet.Timestamp, d *sflow.Datagram, f *sflow.FlowSample, p *packet.Parsed) {
	all := a.detects.Load()
	if all == nil || len(*all) == 0 {
		return
	}
	s := detect.SampleOf(at, d, f, p)
	for _, x := range *all {
		x.mu.Lock()
		x.engine.Sample(&s)
		x.mu.Unlock()
	}
}

// sampledCounters notes which port an interface is.
func (a *Agent) sampledCounters(d *sflow.Datagram, s *sflow.CounterSample) {
	all := a.detects.Load()
	if all == nil {
		return
	}
	for _, x := range *all {
		x.mu.Lock()
		x.engine.Counters(d, s)
		x.mu.Unlock()
	}
}

// changeDetects changes which sets of rules run.
func (a *Agent) changeDetects(change func([]*detecting) []*detecting) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var now []*detecting
	if all := a.detects.Load(); all != nil {
		now = slices.Clone(*all)
	}
	now = change(now)
	a.detects.Store(&now)
}

// showDetections runs rules until end is closed, and tells as lines of want.Detections what they find.
func (a *Agent) showDetections(ctx context.Context, end <-chan struct{}, rules []want.Rule, w io.Writer) error {
	d, err := newDetecting(rules)
	if err != nil {
		return err
	}
	full := false
	a.changeDetects(func(all []*detecting) []*detecting {
		if full = len(all) >= mostDetects; full {
			return all
		}
		return append(all, d)
	})
	if full {
		return &fault.Error{Kind: fault.Exhausted, Msg: "node " + a.cfg.NodeName + " runs as many sets of rules as it may", RetryAfter: time.Second}
	}
	defer a.changeDetects(func(all []*detecting) []*detecting {
		return slices.DeleteFunc(all, func(x *detecting) bool { return x == d })
	})
	enc := json.NewEncoder(w)
	advance, tops := time.NewTicker(advanceEvery), time.NewTicker(topsEvery)
	defer advance.Stop()
	defer tops.Stop()
	if err := enc.Encode(want.Detections{Tops: map[string][]want.Ranked{}}); err != nil { // it runs
		return err
	}
	for {
		var line want.Detections
		select {
		case <-d.wake:
		case now := <-advance.C:
			d.mu.Lock()
			d.engine.Advance(packet.TimestampOf(now))
			d.mu.Unlock()
		case <-tops.C:
			d.mu.Lock()
			line.Tops = d.engine.Top(topsMost)
			counts := d.engine.DetectCounts
			counts.Suppressed += d.missed
			line.Counts = &counts
			d.mu.Unlock()
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		d.mu.Lock()
		told := d.told
		d.told = nil
		d.mu.Unlock()
		for i := range told {
			if err := enc.Encode(want.Detections{Crossing: &told[i]}); err != nil {
				return err
			}
		}
		if line.Tops != nil {
			if err := enc.Encode(line); err != nil {
				return err
			}
		}
	}
}
