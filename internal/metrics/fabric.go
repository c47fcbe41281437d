package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"opentap/want"
)

var (
	fabLeads     = metric("fabric_leads", "1 when this controller is the one that changes switches.")
	fabConnected = metric("fabric_switch_connected", "1 when the switch is connected to this controller.", "switch")
	fabIntended  = metric("fabric_rules_intended", "Rules that the switch should have of ours.", "switch")
	fabOurs      = metric("fabric_rules", "Rules of ours that the switch had when it was last read.", "switch")
	fabOthers    = metric("fabric_rules_foreign", "Rules of others that the switch had then.", "switch")
	fabEcho      = metric("fabric_echo_seconds", "How long the switch last took to say that it lives.", "switch")
	fabCame      = metric("fabric_packet_ins_total", "Frames that the switch sent to this controller.", "switch")
	fabDropped   = metric("fabric_packet_ins_dropped_total", "Frames among them that were too many to be looked at.", "switch")
	fabDrift     = metric("fabric_drift_total", "Lines that were written to the drift log.")
	fabTurns     = metric("fabric_reconciles_total", "Comparisons of what switches have and what they should.")
	fabSeconds   = metric("fabric_reconcile_seconds", "How long the last comparison took, changes included.")
	fabPolicies  = metric("fabric_policies", "Policies, those of taps included, by state.", "state")
	fabProbes    = metric("fabric_probes_total", "Paths that were probed, by result.", "result")
)

// fabricDescs are the lines of the table of this file.
var fabricDescs = []*prometheus.Desc{
	fabLeads, fabConnected, fabIntended, fabOurs, fabOthers, fabEcho, fabCame, fabDropped, fabDrift, fabTurns, fabSeconds, fabPolicies, fabProbes,
}

// showFabric shows the fabric; nil = no switches are taken.
func showFabric(t *want.FabricTally, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	if t == nil {
		return
	}
	gauge(fabLeads, bit(t.Leads))
	for i := range t.Switches {
		s := &t.Switches[i]
		gauge(fabConnected, bit(s.Connected), s.Name)
		gauge(fabIntended, float64(s.Intended), s.Name)
		gauge(fabOurs, float64(s.Ours), s.Name)
		gauge(fabOthers, float64(s.Others), s.Name)
		if s.Echo > 0 {
			gauge(fabEcho, s.Echo.Seconds(), s.Name)
		}
		counter(fabCame, s.PacketIns, s.Name)
		counter(fabDropped, s.Dropped, s.Name)
	}
	counter(fabDrift, t.Drift)
	counter(fabTurns, t.Turns)
	gauge(fabSeconds, t.Reconcile.Seconds())
	for _, st := range []want.PolicyState{want.PolicyPending, want.PolicyActive, want.PolicyDegraded, want.PolicyInfeasible} {
		gauge(fabPolicies, float64(t.Policies[st]), string(st))
	}
	for _, result := range []string{want.ProbeDelivered, want.ProbeSkipped, want.ProbeLost, want.ProbeDuplicated, want.ProbeLeaked} {
		counter(fabProbes, t.Probes[result], result)
	}
}
