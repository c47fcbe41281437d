package want

// Exporter is how one of a node's exporters of flow records fares: cumulative since opentapd started.
type Exporter struct {
	Name        string            `json:"name"`
	Protocol    string            `json:"protocol"`  // ipfix, netflow9, netflow5
	Transport   string            `json:"transport"` // udp, tcp, tls
	Address     string            `json:"address"`
	Points      []string          `json:"points"`
	Connected   bool              `json:"connected"`
	LastError   string            `json:"last_error,omitempty"` // of the newest message, when it could not be sent
	Messages    uint64            `json:"messages"`             // sent
	Records     uint64            `json:"records"`              // sent
	Packets     uint64            `json:"packets"`              // in the records sent
	Waiting     int               `json:"waiting"`              // records in the queue
	Dropped     map[string]uint64 `json:"dropped"`              // records, by reason: queue_full, not_ipv4 (netflow5), send_failed
	LostPackets uint64            `json:"lost_packets"`         // in the records dropped
	Reconnects  uint64            `json:"reconnects"`
}
