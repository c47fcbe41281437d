// Package probing sends the frames of a probe out of a device of this host, and times what answers them.
//
// Runs in: agent
//
// Frames go through a packet socket, past the host's own stack: past its routes, its filters and its connections. What they carry and who
// may be asked is in wire/probe. Where the source is the host's own address, its ports are taken from the host for as long as
// the probe runs, so that no frame meddles with one of its connections and the host does not answer the answers; what it does all the same
// is to close with RST what a SYN-ACK began, as it has to (RFC 9293 section 3.10.7.1). Where it cannot, because the address, the tag or the
// link-layer address is not its own, the probe sends that RST.
package probing

import (
	"slices"

	"opentap/want"
	"opentap/wire/probe"
)

// tally makes the sums of a report of its answers.
func tally(r *want.ProbeReport) {
	r.Outcomes = make(map[string]int)
	var times []float64
	for i := range r.Answers {
		a := &r.Answers[i]
		r.Outcomes[a.Outcome]++
		switch a.Outcome {
		case want.ProbeReply, want.ProbeOpen, want.ProbeClosed:
			r.Answered++
			times = append(times, a.RTT)
		case want.ProbeSilent:
			r.Lost++
		case want.ProbeUnresolved:
		default:
			r.Refused++
		}
	}
	if n := len(times); n > 0 {
		slices.Sort(times)
		median := times[n/2]
		if n%2 == 0 {
			median = (times[n/2-1] + median) / 2
		}
		r.RTT = &want.ProbeTimes{Min: times[0], Median: median, Max: times[n-1]}
	}
}

// note puts an answer where it belongs. The first answer to a frame counts; what comes after is counted beside it.
func note(r *want.ProbeReport, a *probe.Answer, micros func(sent want.ProbeAnswer) float64) {
	n := a.Number
	if n < 0 { // the frame that has waited longest
		if n = slices.IndexFunc(r.Answers, func(x want.ProbeAnswer) bool { return x.Outcome == want.ProbeSilent }); n < 0 {
			n = len(r.Answers) - 1
		}
	}
	x := &r.Answers[n]
	if x.Outcome != want.ProbeSilent {
		x.Again++
		return
	}
	x.Outcome, x.From, x.TTL, x.Octets, x.Text, x.MTU, x.Damaged = a.Outcome, a.From, a.TTL, a.Octets, a.Text, a.MTU, a.Damaged
	x.RTT = micros(*x)
}
