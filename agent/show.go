package agent

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"sync"
	"time"

	"opentap/fault"
	"opentap/sensor/ifcount"
	"opentap/want"
)

// show streams what is asked for besides packets.
func (a *Agent) show(ctx context.Context, end <-chan struct{}, l want.Look, w io.Writer) error {
	switch {
	case l.Detect != nil:
		return a.showDetections(ctx, end, l.Detect, w)
	case l.Rates:
		return a.showRates(ctx, end, w)
	case l.Packets != nil:
		return a.showPackets(ctx, l.Capture, *l.Packets, w)
	case l.Packet != nil:
		return a.showPacket(ctx, l.Capture, *l.Packet, w)
	case l.Timeline != nil:
		return a.showTimeline(ctx, l.Capture, *l.Timeline, w)
	case l.Records != nil:
		return a.showRecords(ctx, l.Capture, *l.Records, w)
	case l.Flows != nil:
		return a.showFlows(ctx, *l.Flows, w)
	case l.CanarySend != nil:
		return a.sendCanaries(ctx, *l.CanarySend, w)
	case l.CanaryHear != nil:
		return a.hearCanaries(ctx, end, *l.CanaryHear, w)
	case l.Probe != nil:
		return a.runProbe(ctx, end, *l.Probe, w)
	case l.Doctor:
		return a.showExamination(ctx, end, w)
	case l.Sensors:
		return a.showSensors(ctx, w)
	}
	return fault.New(fault.Unsupported, "node %s does not know what it is asked to show: it is older than the controller", a.cfg.NodeName)
}

// untilEnd is ctx until end is closed. cancel waits for what watches for that.
func untilEnd(ctx context.Context, end <-chan struct{}) (until context.Context, cancel func()) {
	until, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		select {
		case <-end:
			stop()
		case <-until.Done():
		}
	})
	return until, func() { stop(); ended.Wait() }
}

// ratesEvery is how often rates are told.
const ratesEvery = time.Second

// showRates writes a line of JSON each time, until end is closed.
func (a *Agent) showRates(ctx context.Context, end <-chan struct{}, w io.Writer) error {
	m := rateMeter{told: make(map[string]want.Rate)}
	enc := json.NewEncoder(w)
	tick := time.NewTicker(ratesEvery)
	defer tick.Stop()
	for {
		all, err := ifcount.ReadAll()
		if err != nil {
			return fault.New(fault.Unsupported, "the devices of node %s have no counters: %v", a.cfg.NodeName, err)
		}
		names := make(map[int]string)
		for _, p := range *a.devices.Load() {
			names[p.IfIndex] = p.Name
		}
		if rates := m.step(time.Now(), all, names); rates != nil {
			if err := enc.Encode(want.Rates{Time: m.when.UTC(), Rates: rates}); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rateMeter makes rates of counters.
type rateMeter struct {
	when   time.Time // of before
	before map[int]ifcount.Totals
	told   map[string]want.Rate
}

// step returns the rates since the last step that are not as they were told; nil at the first step.
func (m *rateMeter) step(now time.Time, all map[int]ifcount.Totals, names map[int]string) []want.Rate {
	d := now.Sub(m.when).Seconds()
	before := m.before
	m.when, m.before = now, all
	if before == nil || d <= 0 {
		return nil
	}
	if len(m.told) > 2*len(names)+16 { // devices that come and go leave their names behind
		clear(m.told)
	}
	out := []want.Rate{}
	for index, name := range names {
		t, ok := all[index]
		b, had := before[index]
		r := want.Rate{Point: name}
		if ok && had {
			r.RxPackets, r.TxPackets = perSecond(t.RxPackets, b.RxPackets, d), perSecond(t.TxPackets, b.TxPackets, d)
			r.RxOctets, r.TxOctets = perSecond(t.RxOctets, b.RxOctets, d), perSecond(t.TxOctets, b.TxOctets, d)
			r.Dropped = perSecond(t.Dropped, b.Dropped, d)
		}
		if r != m.told[name] && (r != want.Rate{Point: name} || m.told[name].Point != "") {
			m.told[name] = r
			out = append(out, r)
		}
	}
	return out
}

// perSecond is rounded to a tenth. A counter that began anew tells nothing.
func perSecond(now, before uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return math.Round(float64(now-before)/seconds*10) / 10
}
