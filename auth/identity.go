// Package auth says who a caller is and what it may do.
//
// Runs in: controller
package auth

// Right is one thing a caller may be allowed to do. Rights are separate: who may start a capture need not be allowed to read it.
type Right uint16

// Rights.
const (
	SeeMetadata Right = 1 << iota // list and show points, captures, nodes
	Start                         // start and stop captures
	ReadPayload                   // retrieve captured data
	Delete                        // delete captures
	Administer                    // tokens, configuration, other projects' captures
)

// Identity is an authenticated caller.
type Identity struct {
	Name    string // token or user name, "anonymous"
	Project string // its tenant; "" only for the system itself
	Role    string // viewer, operator, analyst, admin …
	Rights  Right
	Via     string // how it was authenticated: token, anonymous, local
	Remote  string // the peer's address, for the audit
}

// May reports whether all of r is granted.
func (id Identity) May(r Right) bool { return id.Rights&r == r }

// rightNames spell the rights for people, in the order of their bits.
var rightNames = [...]string{"see metadata", "start captures", "read captured data", "delete captures", "administer"}

// String spells the rights for people: "start captures, delete captures".
func (r Right) String() string {
	var b []byte
	for i, name := range rightNames {
		if r&(1<<i) == 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, name...)
	}
	if len(b) == 0 {
		return "nothing"
	}
	return string(b)
}
