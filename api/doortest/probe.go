package doortest

import (
	"context"
	"net/netip"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Probe implements the doors' Controller: one of two frames was answered.
func (c *Controller) Probe(_ context.Context, id auth.Identity, p want.Probe) (want.ProbeReport, error) {
	if err := c.mayDetect("Probe", id, auth.Administer); err != nil {
		return want.ProbeReport{}, err
	}
	if p.Kind == want.ProbeUDP && p.Port == 0 {
		return want.ProbeReport{}, fault.Field("port", "is missing: a udp probe goes to a port")
	}
	return want.ProbeReport{
		Node: "host1", Device: "eth0", Kind: p.Kind, Target: p.Target, Port: p.Port, Source: netip.MustParseAddr("192.0.2.1"), SourceMAC: "02:00:00:00:00:01",
		TargetMAC: "02:00:00:00:00:02", ResolvedBy: "arp", FrameOctets: 98, Began: Epoch, Sent: 2, Answered: 1, Lost: 1, RTT: &want.ProbeTimes{Min: 80.5, Median: 80.5, Max: 80.5},
		Outcomes: map[string]int{want.ProbeReply: 1, want.ProbeSilent: 1}, Answers: []want.ProbeAnswer{
			{Number: 1, Sent: Epoch, Outcome: want.ProbeReply, From: p.Target, RTT: 80.5, TTL: 64, Octets: 84}, {Number: 2, Sent: Epoch, Outcome: want.ProbeSilent},
		},
	}, nil
}
