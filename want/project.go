package want

import "time"

// ProjectRequest is what a project shall be. It is the body of PUT /v1/projects/{name}.
type ProjectRequest struct {
	Description string   `json:"description,omitempty"`
	Points      []string `json:"points,omitempty"`        // what it sees: node/name, with * for any run of characters
	Captures    int      `json:"captures,omitempty"`      // that exist at one time; 0 = as everybody
	Bytes       int64    `json:"bytes,omitempty"`         // that its captures hold before it can start another; 0 = no bound of its own
	MaxDuration Duration `json:"max_duration,omitempty"`  // of a capture; "" = as everybody
	MaxRetain   Duration `json:"max_retention,omitempty"` // of data; "" = as everybody
	Probe       bool     `json:"probe,omitempty"`         // who may start captures may send frames out of its points
}

// Project is a tenant: who belongs to it sees its captures and no others, and captures at its points and no others.
type Project struct {
	Name string `json:"name"`
	ProjectRequest
	Origin  Origin    `json:"origin"`           // configuration or api
	Changed time.Time `json:"changed,omitzero"` // when, by API
	By      string    `json:"changed_by,omitempty"`
	Used    Usage     `json:"used"`
}

// Usage is what a project has.
type Usage struct {
	Captures int   `json:"captures"`
	Bytes    int64 `json:"bytes"`
}
