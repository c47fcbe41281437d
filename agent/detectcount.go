package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"opentap/detect"
	"opentap/fault"
	"opentap/sensor/ifcount"
	"opentap/wire/sflow"
)

// countEvery is how often the counters of a device are read for rules.
const countEvery = 200 * time.Millisecond

// count gives what the counters of a device go on by to a set of rules, until ctx ends, while this host has it.
func (a *Agent) count(ctx context.Context, d *detecting, name string) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	what := "detect counters " + name
	defer a.trouble(what, "")
	var last *ifcount.Row // nil = what it had counted before is not known
	for {
		now, err := ifcount.Read(name)
		switch {
		case err == nil:
			if last != nil {
				d.counted(last, &now)
			}
			last = &now
			a.trouble(what, "")
		case fault.Is(err, fault.NotFound): // another host's, or away
			last = nil
			a.trouble(what, "")
		default:
			last = nil
			a.trouble(what, fmt.Sprintf("the counters of %s cannot be read: %s", name, errText(err)))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// counted gives the difference of two readings to the rules. Counters that began anew tell nothing.
func (d *detecting) counted(last, now *ifcount.Row) {
	if last.IfIndex != now.IfIndex {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range []struct {
		way      detect.Way
		from, to [4]uint64 // octets, packets, drops, errors
	}{
		{detect.Received, [4]uint64{last.RxBytes, last.RxPackets, last.RxDropped + last.RxMissed, last.RxErrors}, [4]uint64{now.RxBytes, now.RxPackets, now.RxDropped + now.RxMissed, now.RxErrors}},
		{detect.Sent, [4]uint64{last.TxBytes, last.TxPackets, last.TxDropped, last.TxErrors}, [4]uint64{now.TxBytes, now.TxPackets, now.TxDropped, now.TxErrors}},
	} {
		if w.to[0] < w.from[0] || w.to[1] < w.from[1] || w.to[2] < w.from[2] || w.to[3] < w.from[3] {
			continue
		}
		d.engine.Sample(&detect.Sample{
			At: now.Time, Agent: netip.IPv4Unspecified(), Source: sflow.Source{Type: 3, Index: now.IfIndex}, Point: now.Point, Way: w.way,
			Octets: w.to[0] - w.from[0], Packets: w.to[1] - w.from[1], Drops: w.to[2] - w.from[2], Errors: w.to[3] - w.from[3], Rate: 1,
		})
	}
}
