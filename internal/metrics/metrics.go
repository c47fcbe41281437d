// Package metrics shows what is counted here as Prometheus reads it: names, units and help in one table.
//
// Runs in: controller
//
// Nothing is counted twice: values are pulled from those who have them when somebody asks. Labels have few values: no capture,
// address or user is one.
package metrics

import (
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"opentap/ledger"
	"opentap/want"
)

// Snapshot is what the controller knows at one time. Sums only grow.
type Snapshot struct {
	Captures map[want.Kind]map[want.State]int
	Packets  ledger.Account
	Records  map[want.Kind]uint64
	Nodes    []want.Node
	Revision int64             // of what is wanted
	Audit    uint64            // entries of the audit log
	Expires  time.Time         // of the server's certificate; zero = it shows none
	Fabric   *want.FabricTally // nil = no OpenFlow switches are taken
}

// Metrics is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	octets   *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// New makes the registry. snapshot is called at every scrape.
func New(version string, snapshot func() Snapshot) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "opentap_http_requests_total",
			Help: "Requests that were answered; code 0: the client went away first.",
		}, []string{"method", "route", "code"}),
		octets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "opentap_http_response_bytes_total",
			Help: "Octets of answers' bodies.",
		}, []string{"route"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "opentap_http_request_duration_seconds",
			Help: "How long answers took, streams of data until their end.", Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60},
		}, []string{"route"}),
	}
	m.registry.MustRegister(m.requests, m.octets, m.duration, &pulled{version, snapshot}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observed counts a request. route is a pattern: there are few.
func (m *Metrics) Observed(method, route string, status int, octets int64, d time.Duration) {
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.octets.WithLabelValues(route).Add(float64(octets))
	m.duration.WithLabelValues(route).Observe(d.Seconds())
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, ErrorHandling: promhttp.HTTPErrorOnError})
}

// Gatherer is for tests.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// metric is a line of the table.
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("opentap_"+name, help, labels, nil)
}

var (
	buildInfo = metric("build_info", "Always 1; its labels say what runs.", "version", "goversion")
	captures  = metric("captures", "Captures that exist.", "kind", "state")

	seen        = metric("packets_seen_total", "Packets that captures saw, all captures together.")
	captured    = metric("packets_captured_total", "Packets that captures kept.")
	filtered    = metric("packets_filtered_total", "Packets that captures' filters refused.")
	sampledOut  = metric("packets_sampled_out_total", "Packets that sampling left out.")
	rateLimited = metric("packets_rate_limited_total", "Packets that a rate limit left out.")
	dropped     = metric("packets_dropped_total", "Packets that were wanted and lost, by reason.", "reason")
	wireOctets  = metric("packet_bytes_total", "Octets of the captured packets as they were on the wire.")
	keptOctets  = metric("packet_stored_bytes_total", "Octets of the captured packets that were kept.")
	records     = metric("records_total", "Flow records and samples that captures kept.", "kind")

	desired   = metric("desired_revision", "Revision of what is wanted.")
	connected = metric("node_connected", "1 when the node's agent is connected.", "node")
	behind    = metric("node_behind", "1 when the node's agent has not yet taken the newest of what is wanted from it.", "node")
	taken     = metric("node_desired_revision", "Revision of what is wanted that the node's agent has taken.", "node")
	problems  = metric("node_problems", "Problems that the node reports; opentap nodes tells them.", "node")
	governor  = metric("node_governor_stage", "How far the node's governor has gone: 0 gives nothing up, 1 cuts packets, 2 takes one in 4, 3 one in 16, 4 none.", "node")
	diskUsed  = metric("disk_used_bytes", "Octets that captures and recordings hold.", "node")
	diskFree  = metric("disk_free_bytes", "Octets free on the captures' disk.", "node")
	diskQuota = metric("disk_quota_bytes", "Octets that captures and recordings may hold; 0 = any.", "node")

	expRecords    = metric("exporter_records_total", "Flow records that an exporter sent.", "node", "exporter")
	expDropped    = metric("exporter_dropped_records_total", "Flow records that an exporter could not send, by reason.", "node", "exporter", "reason")
	expWaiting    = metric("exporter_queued_records", "Flow records that wait to be sent.", "node", "exporter")
	expConnected  = metric("exporter_connected", "1 when the exporter reaches its collector, as far as its transport can tell.", "node", "exporter")
	expReconnects = metric("exporter_reconnects_total", "Times that an exporter connected anew.", "node", "exporter")

	auditEntries = metric("audit_entries_total", "Entries of the audit log, since it was begun.")
	certExpiry   = metric("certificate_expiry_timestamp_seconds", "When the certificate that the server shows ends.")
)

// pulled asks for a snapshot at each scrape.
type pulled struct {
	version  string
	snapshot func() Snapshot
}

// Describe implements prometheus.Collector.
func (p *pulled) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range append([]*prometheus.Desc{
		buildInfo, captures, seen, captured, filtered, sampledOut, rateLimited, dropped, wireOctets, keptOctets, records,
		desired, connected, behind, taken, problems, governor, diskUsed, diskFree, diskQuota, expRecords, expDropped, expWaiting, expConnected, expReconnects,
		auditEntries, certExpiry,
	}, slices.Concat(recorderDescs, collectorDescs, fabricDescs)...) {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p *pulled) Collect(ch chan<- prometheus.Metric) {
	s := p.snapshot()
	emit := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels []string) {
		m, err := prometheus.NewConstMetric(d, t, v, labels...)
		if err != nil { // a name that is no text: the scrape tells it
			m = prometheus.NewInvalidMetric(d, err)
		}
		ch <- m
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { emit(d, prometheus.GaugeValue, v, labels) }
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		emit(d, prometheus.CounterValue, float64(v), labels)
	}
	gauge(buildInfo, 1, p.version, runtime.Version())
	for _, k := range []want.Kind{want.Packets, want.Flows, want.Counters, want.Sensor} {
		for _, st := range []want.State{want.Scheduled, want.Running, want.Degraded, want.Done, want.Stopped, want.Failed} {
			gauge(captures, float64(s.Captures[k][st]), string(k), string(st))
		}
		counter(records, s.Records[k], string(k))
	}
	counter(seen, s.Packets.Seen)
	counter(captured, s.Packets.Captured)
	counter(filtered, s.Packets.Filtered)
	counter(sampledOut, s.Packets.SampledOut)
	counter(rateLimited, s.Packets.RateLimited)
	for r, n := range s.Packets.Dropped {
		counter(dropped, n, ledger.Reason(r).String())
	}
	counter(wireOctets, s.Packets.Octets)
	counter(keptOctets, s.Packets.StoredOctets)
	gauge(desired, float64(s.Revision))
	named := make(map[string]bool)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		name := n.Name
		if named[name] { // two hosts of one name: the second is told by its number
			name += "/" + n.ID
		}
		named[n.Name] = true
		gauge(connected, bit(n.Connected), name)
		gauge(behind, bit(n.Behind), name)
		gauge(taken, float64(n.Revision), name)
		gauge(problems, float64(len(n.Problems)), name)
		gauge(governor, float64(n.GovernorStage), name)
		gauge(diskUsed, float64(n.DiskUsed), name)
		gauge(diskFree, float64(n.DiskFree), name)
		gauge(diskQuota, float64(n.QuotaBytes), name)
		for j := range n.Exporters {
			e := &n.Exporters[j]
			counter(expRecords, e.Records, name, e.Name)
			for reason, count := range e.Dropped {
				counter(expDropped, count, name, e.Name, reason)
			}
			gauge(expWaiting, float64(e.Waiting), name, e.Name)
			gauge(expConnected, bit(e.Connected), name, e.Name)
			counter(expReconnects, e.Reconnects, name, e.Name)
		}
		showRecorders(n, name, gauge, counter)
		showCollectors(n, name, gauge, counter)
	}
	showFabric(s.Fabric, gauge, counter)
	counter(auditEntries, s.Audit)
	if !s.Expires.IsZero() {
		gauge(certExpiry, float64(s.Expires.Unix()))
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
