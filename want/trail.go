package want

import "time"

// AuditQuery asks for entries of the audit log, the newest first.
type AuditQuery struct {
	Limit  int
	Before uint64 // only entries older than the one with this number; 0 = all
	Actor  string // whose; "" = anybody's
	Action string // or the beginning of one: "capture."
	Object string
	Denied bool // only what was refused
}

// AuditEntry is one line of the audit log; see docs/format/audit.md.
type AuditEntry struct {
	Seq     uint64            `json:"seq"`
	Time    time.Time         `json:"time"`
	Actor   string            `json:"actor"`
	Role    string            `json:"role,omitempty"`
	Via     string            `json:"via,omitempty"`
	Remote  string            `json:"remote,omitempty"`
	Action  string            `json:"action"`
	Object  string            `json:"object,omitempty"`
	Project string            `json:"project,omitempty"`
	Outcome string            `json:"outcome"`
	Details map[string]string `json:"details,omitempty"`
	Hash    string            `json:"hash"`
}

// AuditReport is what proving the chain of the audit log found.
type AuditReport struct {
	Whole   bool   `json:"whole"`             // every line is as it was written, where it was written
	Problem string `json:"problem,omitempty"` // the first line that is not, and how
	Files   int    `json:"files"`
	First   uint64 `json:"first"` // number of the oldest entry; above 1 when older files were taken away
	Last    uint64 `json:"last"`  // and of the newest that is proven
	Head    string `json:"head"`  // its hash, to be noted elsewhere
}
