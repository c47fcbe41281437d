package want

import "time"

// Severity says how much a finding matters.
type Severity string

// Severities.
const (
	Fine Severity = "ok"
	Warn Severity = "warn" // works, and not as well as it could
	Bad  Severity = "bad"  // something does not work, or will not for long
)

// Finding is what one check of a host found.
type Finding struct {
	Node     string   `json:"node"`  // whose host it is about
	Check    string   `json:"check"` // a short name that stays: "kernel", "disk_data" …
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`          // what is so, in plain words
	Fix      string   `json:"fix,omitempty"` // what to do about it; never empty unless it is ok
}

// Setting is one value of the configuration.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // default, file, flag
}

// Examination is what hosts found when they looked at themselves.
type Examination struct {
	Node     string    `json:"node"` // whose settings these are: that of the controller that was asked, or the only one that looked
	Time     time.Time `json:"time"` // at that host
	Findings []Finding `json:"findings"`
	Settings []Setting `json:"settings"`
}
