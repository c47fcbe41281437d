package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"opentap/ledger"
	"opentap/want"
)

var (
	recRunning  = metric("recorder_running", "1 when the recorder records; why it does not, or not all, opentap recorders tells.", "node", "point")
	recHeld     = metric("recorder_held_bytes", "Octets that the recorder holds on disk.", "node", "point")
	recSeen     = metric("recorder_packets_seen_total", "Packets that the recorder saw.", "node", "point")
	recCaptured = metric("recorder_packets_captured_total", "Packets that the recorder kept.", "node", "point")
	recSampled  = metric("recorder_packets_sampled_out_total", "Packets of the recorder that the governor's sampling left out.", "node", "point")
	recLimited  = metric("recorder_packets_rate_limited_total", "Packets of the recorder that came while the governor took none.", "node", "point")
	recDropped  = metric("recorder_packets_dropped_total", "Packets that the recorder wanted and lost, by reason.", "node", "point", "reason")
)

// recorderDescs are the lines of the table of this file.
var recorderDescs = []*prometheus.Desc{recRunning, recHeld, recSeen, recCaptured, recSampled, recLimited, recDropped}

// showRecorders shows how a node's recorders fare. A host has few.
func showRecorders(n *want.Node, name string, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	for i := range n.Recordings {
		r := &n.Recordings[i]
		a := &r.Status.Ledger
		gauge(recRunning, bit(r.Status.State == want.Running || r.Status.State == want.Degraded), name, r.Point)
		gauge(recHeld, float64(r.Status.Bytes), name, r.Point)
		counter(recSeen, a.Seen, name, r.Point)
		counter(recCaptured, a.Captured, name, r.Point)
		counter(recSampled, a.SampledOut, name, r.Point)
		counter(recLimited, a.RateLimited, name, r.Point)
		for reason, count := range a.Dropped {
			counter(recDropped, count, name, r.Point, ledger.Reason(reason).String())
		}
	}
}
