package want

import "time"

// SessionRequest asks for a browser's session. It is the body of POST /v1/session; one of the fields is given.
type SessionRequest struct {
	Token string `json:"token,omitempty"`
	Code  string `json:"code,omitempty"` // of POST /v1/session/code; it works once
}

// Session says who somebody is and what they may do here.
type Session struct {
	Name    string    `json:"name"`
	Project string    `json:"project"`
	Role    string    `json:"role"`
	Rights  []string  `json:"rights"` // see_metadata, start, read_payload, delete, administer
	Via     string    `json:"via"`    // session, token, anonymous; nobody: it is not known who it is
	Expires time.Time `json:"expires,omitzero"`
}

// SessionCode opens one session, soon.
type SessionCode struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
}
