package httpapi

import (
	"net/http"
	"time"

	"opentap/auth"
)

// Exchange is one request and its answer, in words of which there are few: they suit labels of metrics.
type Exchange struct {
	Door, Route string        // Route is a pattern, or "none"
	Method      string        // a known one, or "other"
	Status      int           // 0 = the connection went away before there was an answer
	Octets      int64         // of the answer's body
	Duration    time.Duration // until the answer's end
}

func exchangeOf(r *http.Request, q *request, w *responseWriter, d time.Duration) Exchange {
	e := Exchange{Door: q.door.Name, Route: q.pattern, Method: "other", Status: w.status, Octets: w.octets, Duration: d}
	if e.Route == "" {
		e.Route = "none"
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		e.Method = r.Method
	}
	return e
}

// visitor is who a caller without a token is on this route.
func visitor(rt Route, tok string, r *http.Request) (auth.Identity, bool) {
	if rt.Visitor == nil || tok != "" {
		return auth.Identity{}, false
	}
	return rt.Visitor(remoteAddr(r).Addr())
}
