package want

import "time"

// Look asks a node to stream something that is prepared for showing, in place of packets. One field says what.
type Look struct {
	Rates   bool       `json:"rates,omitempty"`   // once a second a line with Rates, until the stream is ended
	Flows   *FlowQuery `json:"flows,omitempty"`   // flow records, or a line with FlowTop
	Detect  []Rule     `json:"detect,omitempty"`  // lines of Detections, until the stream is ended
	Sensors bool       `json:"sensors,omitempty"` // a line with Sensors
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
