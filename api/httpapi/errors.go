package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"opentap/fault"
)

// ErrAborted is returned by Route.Serve when a response failed after its body began. The connection is broken.
var ErrAborted = errors.New("response aborted")

// statusError is a fault whose HTTP status says more than its kind: 405, 406, 412, 413, 415, 416, 421.
type statusError struct {
	status int
	fault  *fault.Error
	header http.Header // added to the answer
}

func (e *statusError) Error() string { return e.fault.Error() }
func (e *statusError) Unwrap() error { return e.fault }

// WithStatus makes an error of the kind that is answered with a status of its own.
func WithStatus(status int, k fault.Kind, format string, args ...any) error {
	return &statusError{status: status, fault: fault.New(k, format, args...)}
}

// StatusOf maps an error to its HTTP status. It is the only place that does.
func StatusOf(err error) int {
	var s *statusError
	if errors.As(err, &s) {
		return s.status
	}
	var e *fault.Error
	if !errors.As(err, &e) {
		return http.StatusInternalServerError
	}
	switch e.Kind {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Forbidden:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict, fault.NotReady:
		return http.StatusConflict
	case fault.Unsupported:
		return http.StatusNotImplemented
	case fault.Exhausted:
		if e.RetryAfter > 0 {
			return http.StatusTooManyRequests
		}
		return http.StatusInsufficientStorage
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// problemOf turns an error into what a client may see, and sets the headers that belong to it. A faultless error and an
// internal one keep their text for the log; the client gets the reference.
func problemOf(h http.Header, err error, requestID string) Problem {
	p := Problem{Status: StatusOf(err), RequestID: requestID}
	var e *fault.Error
	if !errors.As(err, &e) || e.Kind == fault.Internal {
		e = &fault.Error{Kind: fault.Internal, Msg: "internal error; the log has the details under reference " + requestID}
	}
	p.Fault = e
	var s *statusError
	if errors.As(err, &s) {
		for k, v := range s.header {
			h[k] = v
		}
	}
	switch e.Kind {
	case fault.Unauthenticated:
		h.Set("WWW-Authenticate", `Bearer realm="opentap"`)
	case fault.Unavailable, fault.NotReady, fault.Exhausted:
		if after := RetryAfterSeconds(e); after > 0 {
			h.Set("Retry-After", strconv.Itoa(after))
		}
	}
	return p
}

// RetryAfterSeconds is the whole seconds after which asking again makes sense; 0 = unknown. An error that is only a
// matter of time says at least one second.
func RetryAfterSeconds(e *fault.Error) int {
	if e.RetryAfter <= 0 {
		if e.Kind == fault.Unavailable || e.Kind == fault.NotReady {
			return 1
		}
		return 0
	}
	return int(math.Ceil(min(e.RetryAfter, 24*time.Hour).Seconds()))
}

// Text is the error in one line for people: what is wrong and what to do. Causes are left out: they are for the log.
func Text(e *fault.Error) string {
	s := e.Msg
	if e.Field != "" {
		s = fmt.Sprintf("%s: %s", e.Field, s)
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// gone reports whether err only says that the client went away.
func gone(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, ErrAborted))
}
