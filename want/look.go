package want

import (
	"time"

	"opentap/packet"
)

// Look asks a node to stream something that is prepared for showing, in place of packets: a JSON document, but for Rates. One
// field besides Capture says what.
type Look struct {
	Rates   bool       `json:"rates,omitempty"`   // once a second a line with Rates, until the stream is ended
	Flows   *FlowQuery `json:"flows,omitempty"`   // flow records, or a line with FlowTop
	Detect  []Rule     `json:"detect,omitempty"`  // lines of Detections, until the stream is ended
	Sensors bool       `json:"sensors,omitempty"` // a line with Sensors
	Doctor  bool       `json:"doctor,omitempty"`  // an Examination

	Probe *ProbeRun `json:"probe,omitempty"` // a line with ProbeReport

	CanarySend *CanarySend `json:"canary_send,omitempty"` // a line with CanarySent
	CanaryHear *CanaryHear `json:"canary_hear,omitempty"` // lines of CanaryHeard, until the stream is ended

	Capture  string        `json:"capture,omitempty"`  // UID of the capture that the rest is about
	Packets  *PacketsLook  `json:"packets,omitempty"`  // → PacketRows
	Packet   *PacketLook   `json:"packet,omitempty"`   // → PacketDetail
	Timeline *TimelineLook `json:"timeline,omitempty"` // → Timeline, of packets
	Records  *RecordsLook  `json:"records,omitempty"`  // → FlowTop, or with a step FlowSeries
}

// Rate is what passes a point, per second, over the last interval.
type Rate struct {
	Node      string  `json:"node"`
	Point     string  `json:"point"`
	RxPackets float64 `json:"rx_packets"`
	TxPackets float64 `json:"tx_packets"`
	RxOctets  float64 `json:"rx_octets"`
	TxOctets  float64 `json:"tx_octets"`
	Dropped   float64 `json:"dropped"` // packets that the device or its queue could not take
}

// Rates are those that are not what they were the last time: a point that is not named goes on as before, at first with 0.
type Rates struct {
	Time  time.Time `json:"time"`
	Rates []Rate    `json:"rates"`
}

// PacketsLook asks for some of the packets of a capture, by their number, which counts from 0 among those the filter takes.
type PacketsLook struct {
	From   uint64    `json:"from,omitempty"`
	At     time.Time `json:"at,omitzero"` // instead of From: the first packet that is not before
	Limit  int       `json:"limit,omitempty"`
	Filter string    `json:"filter,omitempty"`
	Strict bool      `json:"strict,omitempty"`
}

// PacketRow is a packet in one line. What a stranger wrote is printable ASCII in it.
type PacketRow struct {
	Number   uint64    `json:"number"`
	Time     time.Time `json:"time"`
	Point    string    `json:"point"`
	Src      string    `json:"src"`
	Dst      string    `json:"dst"`
	Protocol string    `json:"protocol"`
	Length   uint32    `json:"length"` // octets on the wire
	Info     string    `json:"info"`
}

// PacketRows are some packets of a capture.
type PacketRows struct {
	Total   uint64      `json:"total"` // that the filter takes of what there is now
	From    uint64      `json:"from"`
	Final   bool        `json:"final"` // there will be no more
	First   time.Time   `json:"first,omitzero"`
	Last    time.Time   `json:"last,omitzero"`
	Packets []PacketRow `json:"packets"`
}

// PacketLook asks for one packet.
type PacketLook struct {
	Number uint64 `json:"number"`
	Filter string `json:"filter,omitempty"` // by which it is counted
	Strict bool   `json:"strict,omitempty"`
}

// PacketDetail is one packet: what its octets mean, and the octets.
type PacketDetail struct {
	PacketRow
	Captured int         `json:"captured"` // octets that were kept
	Link     uint16      `json:"link_type"`
	Layers   []Field     `json:"layers"`
	Data     []byte      `json:"data"`           // base64 in JSON
	Flow     *FlowFilter `json:"flow,omitempty"` // filters that follow what it belongs to
}

// FlowFilter are filters that take what belongs together.
type FlowFilter struct {
	Conversation string `json:"conversation"` // both directions of its 5-tuple
	Hosts        string `json:"hosts"`        // everything between its two hosts
}

// Field is a header, or a field of one, with its place in the packet. See package packet/detail.
type Field struct {
	Name   string  `json:"name"`
	Value  string  `json:"value,omitempty"`
	Offset int     `json:"offset"`
	Length int     `json:"length"`
	Fields []Field `json:"fields,omitempty"`
}

// TimelineLook asks how packets lie in time.
type TimelineLook struct {
	Filter string    `json:"filter,omitempty"`
	Strict bool      `json:"strict,omitempty"`
	From   time.Time `json:"from,omitzero"` // zero = the first packet
	To     time.Time `json:"to,omitzero"`   // exclusive; zero = the last packet
	Steps  int       `json:"steps"`         // how many intervals, at most
}

// Timeline is how packets lie in time, in intervals of one length; the first begins at From.
type Timeline struct {
	From    time.Time `json:"from"`
	Step    Duration  `json:"step"`
	Packets []uint64  `json:"packets"`
	Octets  []uint64  `json:"octets"`
}

// RecordsLook asks the flow records of a capture who has most.
type RecordsLook struct {
	By     []string         `json:"by,omitempty"`
	Metric string           `json:"metric"` // bytes, packets or flows
	Top    int              `json:"top"`
	Filter string           `json:"filter,omitempty"`
	From   packet.Timestamp `json:"from,omitempty"` // only records that touch the time; 0 = no bound
	To     packet.Timestamp `json:"to,omitempty"`
	Step   Duration         `json:"step,omitempty"` // of a series
}

// FlowPoint is a group within one interval. The key of all that are not among the largest is other.
type FlowPoint struct {
	Time time.Time `json:"time"`
	FlowGroup
}

// FlowSeries is how the largest groups lie in time.
type FlowSeries struct {
	By      []string    `json:"by"`
	Step    Duration    `json:"step"`
	Points  []FlowPoint `json:"points"`
	Records uint64      `json:"records"`
}
