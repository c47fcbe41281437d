// Package httpapi is the HTTP plumbing that the REST doors share.
//
// Runs in: controller
package httpapi

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/netip"

	"opentap/auth"
	"opentap/fault"
)

// Authenticator says who holds a token. The empty token asks for what an anonymous caller at that address may do. A caller
// that is nobody gets a *fault.Error of kind Unauthenticated.
type Authenticator interface {
	Authenticate(ctx context.Context, token string, remote netip.AddrPort) (auth.Identity, error)
}

// Door is one REST interface: its routes, and the shape in which it tells errors.
type Door struct {
	Name   string  // for the access log: "v1", "classic"
	Prefix string  // paths below it that match no route get this door's error shape; "/" = all that no other door claims
	Routes []Route //
	// Credential finds the caller's token in a request; nil = TokenOf. "" = there is none.
	Credential func(r *http.Request) (string, error)
	// Fail writes an error response in the door's shape. It is called at most once, before anything was written.
	Fail func(w http.ResponseWriter, r *http.Request, p Problem)
}

// Route is one method and path of a door.
type Route struct {
	Method string // one method; GET answers HEAD as well
	Path   string // as http.ServeMux spells it: "/v1/captures/{id}"; a wildcard matches one escaped segment, so ids may hold %2F
	Open   bool   // needs no identity
	// OpenFor says which requests need no identity on a route that is not Open; nil = none.
	OpenFor func(r *http.Request) bool
	// Visitor lets a caller without a token in as who it says; nil, or false = it comes in as anywhere else.
	Visitor func(remote netip.Addr) (auth.Identity, bool)
	// Linked allows a browser to come here from another site by a link. Only for pages that change and tell nothing.
	Linked bool
	// Serve answers, or returns an error before anything was written; the gate then answers. ErrAborted, returned after
	// the body began, breaks the connection so that no client takes a short body for a whole one.
	Serve func(w http.ResponseWriter, r *http.Request) error
}

func (rt *Route) open(r *http.Request) bool { return rt.Open || rt.OpenFor != nil && rt.OpenFor(r) }

// Problem is an error as it is shown to a client: nothing internal is left in it.
type Problem struct {
	Status    int
	Fault     *fault.Error // never nil; of kind Internal it carries no detail
	RequestID string
}

type contextKey int

const (
	identityKey contextKey = iota
	requestKey
)

// Identity returns the caller the gate authenticated; the zero Identity, which may nothing, on open routes.
func Identity(ctx context.Context) auth.Identity {
	id, _ := ctx.Value(identityKey).(auth.Identity)
	return id
}

// RequestID returns the reference that the access log and error answers carry.
func RequestID(ctx context.Context) string {
	if q, ok := ctx.Value(requestKey).(*request); ok {
		return q.id
	}
	return ""
}

// request is what the gate learns about one request for the access log.
type request struct {
	id, pattern, who string
	token, session   string // what the caller presented
	gate             *Gate
	door             *Door
	err              error
}

// requestID takes the client's reference when it is harmless in a log and makes one otherwise.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) < 1 || len(id) > 64 {
		return rand.Text()
	}
	for _, c := range []byte(id) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return rand.Text()
		}
	}
	return id
}
