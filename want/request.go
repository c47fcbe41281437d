package want

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"opentap/filter"
	"opentap/ledger"
)

// Duration is a time.Duration that JSON and text spell as Go does: "1.5s", "10m".
type Duration time.Duration

// MarshalText writes Go's spelling.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's spelling; a bare number is refused, since its unit would be a guess.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 500ms, 10s or 2h", b)
	}
	*d = Duration(v)
	return nil
}

// Request asks for a capture, in the client's own words: names are not resolved yet and most fields have defaults.
// It is the body of POST /v1/captures.
type Request struct {
	ID       string        `json:"id,omitempty"`       // chosen by the client; "" = make one
	Kind     Kind          `json:"kind"`               // pcap, netflow, ethernet, sensor; also temperature, motion, vibration
	Points   []string      `json:"points,omitempty"`   // names or aliases, "node/name" where several nodes have it; empty or "0" = the default
	From     time.Time     `json:"from,omitzero"`      // zero = now
	To       time.Time     `json:"to,omitzero"`        // zero = From + Duration, or until stopped
	Duration Duration      `json:"duration,omitempty"` // instead of To
	Filter   string        `json:"filter,omitempty"`
	Strict   bool          `json:"strict,omitempty"`
	Limits   filter.Limits `json:"limits,omitzero"`
	Snap     int           `json:"snap,omitempty"`   // octets
	Period   Duration      `json:"period,omitempty"` // between samples; default 1s
	Retain   Duration      `json:"retain,omitempty"` // default: the configured retention

	// MovePast is the classic habit: a start in the past that was not recorded is moved to now, and the capture's note
	// says so. Otherwise it is refused. Not part of the /v1 body.
	MovePast bool `json:"-"`
}

// View is a capture with its status: what every door shows.
type View struct {
	Capture
	Status  Status    `json:"status"`
	Node    string    `json:"node"`
	Expires time.Time `json:"expires,omitzero"` // when the data is deleted; known once it has ended
	// Filtering is the filter as it was understood, in plain words; "" when there is none.
	Filtering string `json:"filtering,omitempty"`
	// Formats are what the data can be retrieved as; the first is the default.
	Formats []Format `json:"formats"`
}

// Format is a form data can be retrieved in.
type Format string

// Formats. Which of them a capture offers follows from its kind.
const (
	PcapNG  Format = "pcapng"
	Pcap    Format = "pcap"
	CSV     Format = "csv"     // plain: one header line, one line a record, all columns
	Classic Format = "classic" // the CSV of the first OpenTap: nfdump's for flows, with its summary; exact columns for counters and sensors
	NDJSON  Format = "ndjson"
	Parquet Format = "parquet"
	Arrow   Format = "arrow" // the IPC stream; flow records alone
)

// FormatsOf lists the formats of a kind, the default first.
func FormatsOf(k Kind) []Format {
	if k == Packets {
		return []Format{PcapNG, Pcap}
	}
	if k == Flows {
		return []Format{CSV, Classic, NDJSON, Parquet, Arrow}
	}
	return []Format{CSV, Classic, NDJSON, Parquet}
}

// MediaType returns the format's Content-Type, bare: classic clients compare it exactly.
func (f Format) MediaType() string {
	switch f {
	case PcapNG:
		return "application/x-pcapng"
	case Pcap:
		return "application/vnd.tcpdump.pcap"
	case CSV, Classic:
		return "text/csv"
	case NDJSON:
		return "application/x-ndjson"
	case Parquet:
		return "application/vnd.apache.parquet"
	case Arrow:
		return "application/vnd.apache.arrow.stream"
	}
	return "application/octet-stream"
}

// Extension returns the file name extension with its dot.
func (f Format) Extension() string {
	if f == Classic {
		return ".csv"
	}
	return "." + string(f)
}

// Retrieval is a stable snapshot of a capture's data in one format. The same ETag always stands for the same bytes, so an
// interrupted download can go on where it stopped.
type Retrieval struct {
	Format   Format
	FileName string    // a safe suggestion
	Size     int64     // octets; -1 = unknown until written
	ETag     string    // opaque, without quotes; given back in Open to get the same snapshot
	Modified time.Time //
	Final    bool      // nothing will be added to the capture any more
	Ledger   ledger.Account
	Records  uint64

	// Write streams length octets from offset (length < 0 = to the end). It may be called more than once.
	Write func(ctx context.Context, w io.Writer, offset, length int64) error
	// Close gives back what the snapshot holds. It must be called once.
	Close func() error
}

// OpenOptions choose what Retrieval a caller gets.
type OpenOptions struct {
	Format Format // "" = the kind's default
	ETag   string // the snapshot of an earlier Retrieval; "" = as of now. If it can no longer be had a fresh one is made
}

// Capabilities says what this installation can do.
type Capabilities struct {
	Name             string            `json:"name"`
	Version          string            `json:"version"`
	Kinds            []Kind            `json:"capture_kinds"`     // what can really be captured here, sensor types by their own names included
	Missing          map[string]string `json:"missing,omitempty"` // kind → why it cannot be had here
	RetentionDefault Duration          `json:"retention_default"`
	RetentionMax     Duration          `json:"retention_max,omitempty"` // "0s" = no limit
	MaxDuration      Duration          `json:"capture_duration_max,omitempty"`
	QuotaBytes       int64             `json:"quota_bytes"`
	DefaultPoint     string            `json:"default_point"`
	Formats          map[Kind][]Format `json:"formats"`
}

// Node is a host with an agent, and how it fares.
type Node struct {
	Name       string    `json:"name"`
	ID         string    `json:"id"`
	Version    string    `json:"version"`
	Connected  bool      `json:"connected"`
	Since      time.Time `json:"since"`     // connected, or gone, since
	Revision   int64     `json:"revision"`  // desired revision it has taken
	Behind     bool      `json:"behind"`    // true while it has not taken the newest
	DiskFree   int64     `json:"disk_free"` // octets free for captures
	DiskUsed   int64     `json:"disk_used"` // octets that captures hold
	QuotaBytes int64     `json:"quota_bytes"`
	Problems   []string  `json:"problems,omitempty"` // what an operator should mend, in plain words

	GovernorStage int `json:"governor_stage,omitempty"` // 0 = the governor gives nothing up … 4 = no packets are taken

	Missing map[string]string `json:"missing,omitempty"` // kind → why it cannot be had here

	Underlay []netip.Addr `json:"underlay,omitempty"` // where other nodes reach this one with tapped packets, the best first

	Recorders  map[string]time.Time `json:"recorders,omitempty"`  // point → since when its packets have been recorded
	Exporters  []Exporter           `json:"exporters,omitempty"`  // of flow records
	Collectors []Collector          `json:"collectors,omitempty"` // of flow records and samples of others
	FlowStores []FlowStore          `json:"flow_stores,omitempty"`

	Enrolled        time.Time `json:"enrolled,omitzero"`         // when it joined the fleet; zero = it is in the controller's own process
	CertificateEnds time.Time `json:"certificate_ends,omitzero"` // its certificate; it is renewed before
	Revoked         time.Time `json:"revoked,omitzero"`          // since when it is no member any more; zero = it is
	Epoch           string    `json:"epoch,omitempty"`           // of the store whose revision it has taken

	Recordings []RecorderView `json:"recordings,omitempty"` // how its recorders fare; they are listed on their own
}
