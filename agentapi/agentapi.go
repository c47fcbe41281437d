// Package agentapi is the contract between agents and controllers: both halves of the stream that joins them.
//
// An agent dials (Link), a controller listens (Hub). What flows is level-triggered: complete desired sets with a revision
// go down, complete inventories and actual states come up, and nothing depends on one message arriving. Captured data
// goes up on streams of its own, so that a slow reader holds back nobody else.
//
// Runs in: agent | controller
package agentapi

import (
	"context"
	"errors"
	"time"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/ledger"
	"opentap/tap"
	"opentap/want"
)

// Protocol is the version of the contract. A controller refuses an agent whose version it does not know.
const Protocol = 1

// maxMessage bounds one message: a desired set or an inventory of some ten thousand entries.
const maxMessage = 64 << 20

// chunkSize is what one Chunk of captured data carries at most. Octets.
const chunkSize = 256 << 10

// ErrStale is what Local.Obey returns for a revision older than the one taken.
var ErrStale = errors.New("the desired set is older than the one taken")

// Identity says which agent this is.
type Identity struct {
	NodeID   string // stable over restarts
	NodeName string
	Version  string
	Session  int64 // of this agent's sessions, which: a greater one began later
}

type peerKey struct{}

// WithPeer notes which agent a call comes from, as its certificate says. A Hub believes that, and no message.
func WithPeer(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, peerKey{}, id)
}

// peerOf returns what WithPeer noted. Without it the caller is in this process, and what it says is believed.
func peerOf(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(peerKey{}).(Identity)
	return id, ok
}

// Desired is all that one agent shall do.
type Desired struct {
	Epoch     string   // of the store that counts the revisions; "" = it has none
	Replaces  []string // epochs that this one follows, because an administrator said so: of these any revision is older
	Revision  int64
	Captures  []want.Capture
	Recorders []want.Recorder // beside those of the host's configuration
	Taps      tap.Set
}

// opening is the JSON form of a want.Retrieval, without its functions.
type opening struct {
	Format   want.Format    `json:"format"`
	FileName string         `json:"file_name"`
	Size     int64          `json:"size"`
	ETag     string         `json:"etag"`
	Modified time.Time      `json:"modified"`
	Final    bool           `json:"final"`
	Ledger   ledger.Account `json:"ledger"`
	Records  uint64         `json:"records"`
}

func faultToWire(err error) *agentpb.Fault {
	var f *fault.Error
	if !errors.As(err, &f) {
		return &agentpb.Fault{Kind: fault.Internal.String(), Msg: err.Error()}
	}
	msg := f.Msg
	if f.Err != nil {
		msg += ": " + f.Err.Error()
	}
	return &agentpb.Fault{Kind: f.Kind.String(), Msg: msg, Field: f.Field, Hint: f.Hint, RetryAfterNs: int64(f.RetryAfter)}
}

func faultFromWire(f *agentpb.Fault) error {
	return &fault.Error{Kind: fault.KindNamed(f.Kind), Msg: f.Msg, Field: f.Field, Hint: f.Hint, RetryAfter: time.Duration(f.RetryAfterNs)}
}
