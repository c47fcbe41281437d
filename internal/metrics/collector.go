package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"opentap/want"
)

var (
	colMessages  = metric("collector_messages_total", "Messages of exporters that came.", "node", "collector")
	colRefused   = metric("collector_refused_messages_total", "Messages that were not taken, by reason.", "node", "collector", "reason")
	colExporters = metric("collector_exporters", "Exporters that were heard.", "node", "collector")
	colRecords   = metric("collector_records_total", "Flow records that were taken, those of sFlow's samples included.", "node", "collector")
	colSamples   = metric("collector_samples_total", "Packets that sFlow sampled.", "node", "collector")
	colNotIP     = metric("collector_not_ip_total", "Records and samples in no flow record, because they are of no IP packets.", "node", "collector")
	colLost      = metric("collector_lost_total", "What did not arrive, by the sequence numbers, and what exporters say they could not send.", "node", "collector", "what")
	colUnknown   = metric("collector_unknown_sets_total", "Data sets dropped for want of their template.", "node", "collector")

	storeBytes   = metric("flow_store_bytes", "Octets that the flow stores hold.", "node")
	storeRecords = metric("flow_store_records", "Flow records that the flow stores hold.", "node")
	storeLost    = metric("flow_store_lost_records_total", "Flow records that the disk or the memory had no room for.", "node")
)

// collectorDescs are the lines of the table of this file.
var collectorDescs = []*prometheus.Desc{
	colMessages, colRefused, colExporters, colRecords, colSamples, colNotIP, colLost, colUnknown, storeBytes, storeRecords, storeLost,
}

// showCollectors shows what a node collects. Exporters are added up: addresses are no labels.
func showCollectors(n *want.Node, name string, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	for i := range n.Collectors {
		c := &n.Collectors[i]
		var sum want.Collected
		lost := map[string]uint64{"messages": 0, "records": 0, "samples": 0, "unsent": 0}
		for k := range c.Exporters {
			e := &c.Exporters[k]
			sum.Records += e.Records
			sum.Samples += e.Samples
			sum.NotIP += e.NotIP
			sum.Malformed += e.Malformed
			sum.Unknown += e.Unknown
			for what := range lost {
				lost[what] += e.Lost[what]
			}
		}
		counter(colMessages, c.Messages, name, c.Name)
		for reason, count := range map[string]uint64{"denied": c.Denied, "exhausted": c.Exhausted, "foreign": c.Foreign, "dropped": c.Dropped, "malformed": sum.Malformed} {
			counter(colRefused, count, name, c.Name, reason)
		}
		gauge(colExporters, float64(len(c.Exporters)), name, c.Name)
		counter(colRecords, sum.Records, name, c.Name)
		counter(colSamples, sum.Samples, name, c.Name)
		counter(colNotIP, sum.NotIP, name, c.Name)
		for what, count := range lost {
			counter(colLost, count, name, c.Name, what)
		}
		counter(colUnknown, sum.Unknown, name, c.Name)
	}
	if len(n.FlowStores) == 0 {
		return
	}
	var all want.FlowStore
	for _, s := range n.FlowStores {
		all.Held += s.Held
		all.Records += s.Records
		all.Lost += s.Lost
	}
	gauge(storeBytes, float64(all.Held), name)
	gauge(storeRecords, float64(all.Records), name)
	counter(storeLost, all.Lost, name)
}
