package agent

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"opentap/fault"
	"opentap/tap"
	"opentap/tap/bpftap"
	"opentap/want"
)

// maxCanaries bounds the canaries of one test.
const maxCanaries = 10_000

// sendCanaries puts canaries on the device of a source, in both directions: those in the one that is not tapped must not be
// heard.
func (a *Agent) sendCanaries(ctx context.Context, q want.CanarySend, w io.Writer) error {
	s, ok := a.source(q.Tap)
	if !ok {
		return fault.New(fault.NotFound, "node %s has no source %s", a.cfg.NodeName, q.Tap)
	}
	at, ok := a.findDevice(s.Device)
	if !ok {
		return fault.New(fault.Unavailable, "the source's device is not on node %s now", a.cfg.NodeName)
	}
	if n := 2 * len(q.VLANs) * len(q.Lengths) * q.Each; n <= 0 || n > maxCanaries {
		return fault.New(fault.Invalid, "%d canaries are not 1 to %d", n, maxCanaries)
	}
	before := a.countsOf(q.Tap)
	sent := want.CanarySent{Device: at.Name}
	number := uint32(0)
	for _, d := range []tap.Direction{tap.In, tap.Out} {
		for _, vlan := range q.VLANs {
			for _, length := range q.Lengths {
				if length == 0 {
					length = at.MTU + 14
				}
				tag := 0
				if vlan != 0 {
					tag = 4
				}
				length = max(min(length, at.MTU+14, bpftap.MostInjected-tag), tap.ShortestCanary) + tag
				frames := make([][]byte, q.Each)
				for i := range frames {
					c := tap.Canary{Token: q.Token, Number: number, VLAN: vlan, Length: length, Sent: time.Now()}
					frames[i] = c.Frame()
					number++
				}
				if err := bpftap.Inject(at.Name, d, frames); err != nil {
					return fault.New(fault.Unsupported, "node %s: %v", a.cfg.NodeName, err)
				}
				sent.Sorts = append(sent.Sorts, want.CanarySort{Direction: string(d), VLAN: vlan, Length: length, Sent: q.Each})
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
	}
	sent.Counted = grown(before, a.countsOf(q.Tap))
	return json.NewEncoder(w).Encode(&sent)
}

// source finds a source that is wished for.
func (a *Agent) source(id string) (tap.Source, bool) {
	set, err := a.keep.taps()
	if err != nil {
		return tap.Source{}, false
	}
	for _, s := range set.Sources {
		if s.ID == id {
			return s, true
		}
	}
	return tap.Source{}, false
}

func (a *Agent) countsOf(id string) tap.Counts {
	for _, d := range a.taps.drivers {
		if c, err := d.Counts(id); err == nil {
			return c
		}
	}
	return tap.Counts{}
}

// grown is what counters grew by, by their names; what did not grow is left out.
func grown(before, after tap.Counts) map[string]uint64 {
	out := make(map[string]uint64)
	for _, c := range []struct {
		name    string
		was, is uint64
	}{
		{"seen", before.Seen, after.Seen},
		{"not_matched", before.NotMatched, after.NotMatched},
		{"sampled_out", before.SampledOut, after.SampledOut},
		{"rate_limited", before.RateLimited, after.RateLimited},
		{"too_long", before.TooLong, after.TooLong},
		{"mirrored", before.Mirrored, after.Mirrored},
		{"sent", before.Sent, after.Sent},
		{"truncated", before.Truncated, after.Truncated},
	} {
		if c.is > c.was {
			out[c.name] = c.is - c.was
		}
	}
	for why, n := range after.Errors {
		if n > before.Errors[why] {
			out["lost: "+why] = n - before.Errors[why]
		}
	}
	return out
}

// hearCanaries listens at a tool's device.
func (a *Agent) hearCanaries(ctx context.Context, end <-chan struct{}, q want.CanaryHear, w io.Writer) error {
	ctx, cancel := untilEnd(ctx, end)
	defer cancel()
	enc := json.NewEncoder(w)
	var failed error
	say := func(h want.CanaryHeard) {
		if failed == nil {
			if failed = enc.Encode(&h); failed != nil {
				cancel()
			}
		}
	}
	err := bpftap.Hear(ctx, q.Device, func() { say(want.CanaryHeard{Number: -1}) }, func(f []byte, at time.Time) {
		if c, ok := tap.ParseCanary(f, at); ok && c.Token == q.Token {
			say(want.CanaryHeard{Number: int64(c.Number), VLAN: c.VLAN, Length: c.Length, Sent: c.Sent, At: at.UTC()})
		}
	})
	if err != nil {
		return fault.New(fault.Unavailable, "node %s: %v", a.cfg.NodeName, err)
	}
	return failed
}
