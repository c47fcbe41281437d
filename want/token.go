package want

import "time"

// TokenRequest asks for a token. It is the body of POST /v1/tokens.
type TokenRequest struct {
	Name    string   `json:"name"`              // who will use it; unique
	Role    string   `json:"role"`              // viewer, operator, analyst, owner or admin
	Project string   `json:"project,omitempty"` // its tenant; "" = the caller's own
	Life    Duration `json:"life,omitempty"`    // how long it is valid; "" = until it is revoked
}

// Token is what is known of a token.
type Token struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Project  string    `json:"project"`
	Created  time.Time `json:"created"`
	By       string    `json:"created_by,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`   // zero = never
	Revoked  time.Time `json:"revoked,omitzero"`   // zero = valid
	LastUsed time.Time `json:"last_used,omitzero"` // since the server started; zero = not used

	// Token is the text to give away. It is in the answer that made it, and exists nowhere else.
	Token string `json:"token,omitempty"`
}
