package want

import "time"

// JoinTokenRequest asks for a join token. It is the body of POST /v1/nodes/join-tokens.
type JoinTokenRequest struct {
	Life Duration `json:"life,omitempty"` // how long it is valid; "" = an hour
	Node string   `json:"node,omitempty"` // the only node that may join by it, also anew; "" = any new one
}

// JoinToken is what is known of a token that lets one host join, once.
type JoinToken struct {
	ID      string    `json:"id"`
	Node    string    `json:"node,omitempty"` // the only one that may use it; "" = any new one
	Created time.Time `json:"created"`
	By      string    `json:"created_by,omitempty"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`     // zero = not used
	UsedBy  string    `json:"used_by,omitempty"` // the node that joined by it

	// Token is the text to give to the host. It is in the answer that made it, and exists nowhere else.
	Token string `json:"token,omitempty"`
}

// Member is a host that has joined the fleet.
type Member struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Enrolled time.Time `json:"enrolled"`
	By       string    `json:"by"`               // who made the join token
	Ends     time.Time `json:"ends"`             // of its certificate
	Serial   string    `json:"serial"`           // of its certificate, hexadecimal
	Revoked  time.Time `json:"revoked,omitzero"` // zero = it is a member
}

// Epoch names a store of what is wanted, so that agents know the one whose revisions they have taken from another.
type Epoch struct {
	ID       string    `json:"id"`
	Since    time.Time `json:"since"`
	By       string    `json:"by,omitempty"`       // who accepted the store as it was put back; "" = it is the first
	Replaces []string  `json:"replaces,omitempty"` // the epochs before, whatever revision they had come to
}
