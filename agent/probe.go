package agent

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"opentap/fault"
	"opentap/netdev/probing"
	"opentap/want"
	"opentap/wire/probe"
)

// mostProbes is how many probes a node runs at one time.
const mostProbes = 4

// runProbe sends the frames of a probe, and tells what answered. Who may ask for it is the controller's; how much one probe may be is looked at
// here as well.
func (a *Agent) runProbe(ctx context.Context, end <-chan struct{}, q want.ProbeRun, w io.Writer) error {
	if err := probe.Fill(&q.Probe); err != nil {
		return err
	}
	defer a.probes.Add(-1)
	if a.probes.Add(1) > mostProbes {
		return &fault.Error{
			Kind: fault.Exhausted, Msg: "node " + a.cfg.NodeName + " runs as many probes as it may", Hint: "wait until one has ended", RetryAfter: 5 * time.Second,
		}
	}
	ctx, cancel := untilEnd(ctx, end)
	defer cancel()
	r, err := probing.Run(ctx, q)
	if err != nil {
		return err
	}
	r.Node = a.cfg.NodeName
	return json.NewEncoder(w).Encode(&r)
}
