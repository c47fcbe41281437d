package want

import "time"

// SensorReading is a sensor that was found, and what it said when it was asked.
type SensorReading struct {
	Node     string    `json:"node"`
	Point    string    `json:"point"`
	Aliases  []string  `json:"aliases,omitempty"`
	Quantity string    `json:"quantity"`
	Unit     string    `json:"unit"` // UCUM
	Time     time.Time `json:"time"`
	Value    *float64  `json:"value,omitempty"`   // nil = there is none
	Missing  string    `json:"missing,omitempty"` // why
}

// Sensors is what nodes found.
type Sensors struct {
	Readings []SensorReading `json:"readings"`
	Problems []string        `json:"problems"` // what gives no sensors, and why: a broker, a device, a node
}
