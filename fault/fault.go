// Package fault names the few decisions a caller can take on an error, so that every door answers alike.
//
// Runs in: agent | controller | tools
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the decision. Doors map it to their own status in one place.
type Kind uint8

// Kinds. Internal is the zero value: an error nobody classified is ours, not the caller's.
const (
	Internal        Kind = iota // our fault; the text is for the log, the caller gets a reference
	Invalid                     // the request is wrong: mend it and ask again
	Unauthenticated             // who are you?
	Forbidden                   // you may not
	NotFound                    // no such thing, or not yours to see
	Conflict                    // it is taken, or in another state
	Unsupported                 // not possible here: Msg says what is missing
	Exhausted                   // a quota, a disk or a budget is used up
	Unavailable                 // not now: ask again after RetryAfter
	NotReady                    // it will be there later: the capture has not begun
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "forbidden", "not_found", "conflict", "unsupported", "exhausted", "unavailable", "not_ready"}

// String returns the kind as the API spells it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// KindNamed is the inverse of String; an unknown name is Internal.
func KindNamed(s string) Kind {
	for k, n := range kindNames {
		if n == s {
			return Kind(k)
		}
	}
	return Internal
}

// Error is an error with a decision. Msg says what is wrong in lower case; Hint says what to do about it.
type Error struct {
	Kind       Kind
	Msg        string
	Field      string        // of Invalid: the request's field, as the API spells it
	Hint       string        // what to do; may be empty
	Pos        int           // of a filter error: byte offset in the expression, plus one; 0 = none
	RetryAfter time.Duration // of Unavailable and NotReady; 0 = unknown
	Err        error         // cause; may be nil
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Msg
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an Error of the kind with a formatted message.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// Field makes an Invalid error that names the request's field.
func Field(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Msg: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of the first Error in err's chain; Internal when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }
