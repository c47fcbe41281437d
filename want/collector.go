package want

import "time"

// Collector is how one of a node's collectors of flow records fares: cumulative since opentapd started.
type Collector struct {
	Name      string      `json:"name"`
	Transport string      `json:"transport"` // udp, tcp, tls
	Address   string      `json:"address"`
	Listening bool        `json:"listening"`
	LastError string      `json:"last_error,omitempty"` // why it does not listen
	Messages  uint64      `json:"messages"`             // that came
	Octets    uint64      `json:"octets"`
	Denied    uint64      `json:"denied"`    // messages and connections of addresses that may not send
	Exhausted uint64      `json:"exhausted"` // of exporters too many
	Foreign   uint64      `json:"foreign"`   // messages of no known protocol
	Dropped   uint64      `json:"dropped"`   // datagrams that this host had no room for, because it was slow
	Exporters []Collected `json:"exporters"`
}

// Collected is how the messages of one exporter fare, cumulative since it was first heard.
type Collected struct {
	Point     string    `json:"point"` // its address: the name of its observation point
	Since     time.Time `json:"since"`
	Heard     time.Time `json:"heard,omitzero"` // when its newest message came
	Protocols []string  `json:"protocols"`
	Messages  uint64    `json:"messages"`
	Octets    uint64    `json:"octets"`
	Records   uint64    `json:"records"`  // flow records taken; of sFlow, flows of samples
	Samples   uint64    `json:"samples"`  // packets that sFlow sampled
	Counters  uint64    `json:"counters"` // counter samples of sFlow
	NotIP     uint64    `json:"not_ip"`   // records and samples that are in no flow record, because they are of no IP packets

	Lost      map[string]uint64 `json:"lost"`      // on the way, by the sequence numbers: messages, records, samples; and unsent, by its own word
	Malformed uint64            `json:"malformed"` // messages, sets, templates and samples that contradict themselves
	Unknown   uint64            `json:"unknown"`   // data sets dropped for want of their template
	Waiting   uint64            `json:"waiting"`   // data sets that wait for it
	Templates uint64            `json:"templates"` // declared
	Reordered uint64            `json:"reordered"`
	Restarts  uint64            `json:"restarts"`
	Sampling  []uint32          `json:"sampling,omitempty"` // the rates it says, one packet in so many
}

// FlowStore is what is kept of the flow records of a point at all times.
type FlowStore struct {
	Point   string    `json:"point"`
	Bytes   int64     `json:"bytes"`          // the oldest records go when it holds more
	Age     Duration  `json:"age,omitempty"`  // and when they are older; 0 = any age
	Held    int64     `json:"held"`           // octets on disk
	Records uint64    `json:"records"`        // that it holds
	Since   time.Time `json:"since,omitzero"` // beginning of the earliest of them
	Lost    uint64    `json:"lost"`           // records that the disk or the memory had no room for
}
